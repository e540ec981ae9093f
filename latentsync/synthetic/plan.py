"""Plan the videos: speaker, length, frame rate, offset and fault of each.

The plan follows from the configuration alone, and the random numbers of a video from (seed, path). A video is therefore
the same regardless of the other videos and of their order.
"""

import hashlib
from dataclasses import asdict, dataclass, replace
from fractions import Fraction

import numpy as np

from latentsync.config import MakeTalkers
from latentsync.ledger.rows import source_id
from latentsync.synthetic.look import Look, looks

PAL, NTSC = Fraction(25), Fraction(30000, 1001)
MAX_OFFSET_FRAMES = 10  # largest absolute offset of good videos
TWO_FACES = "two_faces"  # not a fault of the whole video: one of its two clips is good
INSET = "inset"  # not a fault: the large face beside a picture-in-picture is good
NEAR_DUPLICATE, RESCALE = "near_duplicate", 0.8  # a good video, re-encoded and rescaled by this factor
# Kinds of each fault; they repeat if there are more videos than kinds.
KINDS = {
    "unreadable": ("index cut off", "second half cut off", "text"),
    "no_audio": ("no track",),
    "no_face": ("coffee", "rocket", "room"),
    "too_short": ("about 1 s",),
    "small_face": ("far away",),
    "low_sync": ("other words",),
    "large_offset": ("picture late", "sound late"),
    "low_quality": ("compression", "blur"),
    "duplicate": ("copy",),
    TWO_FACES: ("other silent", "other speaks"),
    NEAR_DUPLICATE: ("re-encoded and rescaled",),
    INSET: ("lower corner", "upper corner"),
}
LATER = ("duplicate", NEAR_DUPLICATE, INSET)  # planned last, so that they do not change the other videos
PLACES = ("studio", "at home", "Straßenfest", "hall 2")


@dataclass(frozen=True)
class Take:
    """One video to make. `path` is relative to the folder of videos; `cuts_s` are the starts of further shots."""

    path: str
    look: Look
    fault: str | None = None  # key of REASONS, TWO_FACES or INSET
    kind: str = ""
    other: Look | None = None  # a second person
    other_left: bool = False
    inset: Look | None = None  # a person in a picture-in-picture, on the side of `other_left`
    fps: Fraction = PAL
    vfr: bool = False
    duration_s: float = 4.0
    cuts_s: tuple[float, ...] = ()
    offset_frames: int = 0  # positive: the frames are late
    width: int = 426
    height: int = 320
    face_px: tuple[float, ...] = (120.0,)  # of each shot
    copy_of: str | None = None  # path of the video of which this is an exact copy
    again_of: str | None = None  # path of the video of which this is a near duplicate

    @property
    def made_from(self) -> str | None:
        """Path of the finished video that this one is made from; None: it is rendered."""
        return self.copy_of or self.again_of

    @property
    def id(self) -> str:
        """The source_id in the ledgers."""
        return source_id(self.path)

    def rng(self, seed: int, purpose: str) -> np.random.Generator:
        """A generator for one purpose; a video made from another one uses the generator of that one."""
        digest = hashlib.sha256(f"{seed} {self.made_from or self.path} {purpose}".encode()).digest()
        return np.random.default_rng(np.frombuffer(digest[:16], np.uint32))

    def described(self) -> dict:
        """Plain values for a fingerprint."""
        return asdict(self) | {"fps": str(self.fps)}


def plan(cfg: MakeTalkers) -> list[Take]:
    """All videos, in a fixed order."""
    rng = np.random.default_rng([cfg.seed, 11])
    people = looks(cfg.seed, cfg.identities)
    counts = dict.fromkeys(range(cfg.identities), 0)
    offsets = rng.permutation(np.resize(np.arange(-MAX_OFFSET_FRAMES, MAX_OFFSET_FRAMES + 1), cfg.good))

    height = _even(cfg.height_px)

    def start(person: int) -> Take:
        """A video of a person, in landscape or square frames."""
        counts[person] += 1
        place = PLACES[int(rng.integers(len(PLACES)))]
        path = f"{place}/{people[person].name} {counts[person]:02d}.mp4"
        duration_s = cfg.duration_s * float(rng.uniform(0.92, 1.08))
        width = _even(cfg.height_px * (4 / 3 if rng.uniform() < 0.55 else 1))
        face_px = float(rng.uniform(0.335, 0.42)) * cfg.height_px
        return Take(path, people[person], duration_s=duration_s, width=width, height=height, face_px=(face_px,))

    def other(person: int) -> Look:
        return people[(person + len(people) // 2) % len(people)]

    good = []
    for i in range(cfg.good):
        take = replace(start(i % cfg.identities), offset_frames=int(offsets[i]))
        if i % 7 == 2:
            take = replace(take, fps=NTSC)
        elif i % 7 == 4:
            take = replace(take, vfr=True)
        elif i % 7 == 6:
            take = _two_shots(take, cfg, rng)
        good.append(take)
    takes = list(good)
    for fault in (fault for fault in KINDS if fault not in LATER):
        first = int(rng.integers(cfg.identities))
        for i in range(cfg.faults_each):
            person = (first + i * 3 + i // 3) % cfg.identities
            kind = KINDS[fault][i % len(KINDS[fault])]
            offset = int(rng.integers(-MAX_OFFSET_FRAMES, MAX_OFFSET_FRAMES + 1))
            take = replace(start(person), fault=fault, kind=kind, offset_frames=offset)
            takes.append(_with_fault(take, other(person), cfg, rng))
    originals = [good[int(i)] for i in rng.choice(cfg.good, min(cfg.faults_each, cfg.good), replace=False)]
    for i in range(cfg.faults_each):
        original = originals[i % len(originals)]
        path = f"copies/{original.path.split('/')[1].removesuffix('.mp4')} (copy{'' if i < cfg.good else f' {i}'}).mp4"
        takes.append(replace(original, path=path, copy_of=original.path))
    plain = [take for take in good if take.fps == PAL and not take.vfr and not take.cuts_s and take not in originals]
    rng = np.random.default_rng([cfg.seed, 12])
    chosen = rng.choice(len(plain), min(cfg.faults_each, len(plain)), replace=False)
    takes += [_near_duplicate(plain[int(i)]) for i in chosen]
    for i in range(cfg.faults_each):
        person = int(rng.integers(cfg.identities))
        take = replace(start(person), fault=INSET, kind=KINDS[INSET][i % len(KINDS[INSET])], inset=other(person))
        offset, left = int(rng.integers(-MAX_OFFSET_FRAMES, MAX_OFFSET_FRAMES + 1)), bool(rng.uniform() < 0.5)
        takes.append(replace(take, other_left=left, offset_frames=offset, width=_even(cfg.height_px * 16 / 9)))
    assert len({take.path for take in takes}) == len(takes)
    return _mark_duplicates(takes)


def _near_duplicate(take: Take) -> Take:
    name = take.path.split("/")[1].removesuffix(".mp4")
    width, height = _even(take.width * RESCALE), _even(take.height * RESCALE)
    faces = tuple(px * height / take.height for px in take.face_px)
    kind = KINDS[NEAR_DUPLICATE][0]
    take = replace(take, path=f"downloads/{name} (1).mp4", again_of=take.path, fault=NEAR_DUPLICATE, kind=kind)
    return replace(take, width=width, height=height, face_px=faces)


def _even(value: float) -> int:
    return round(value / 2) * 2


def _two_shots(take: Take, cfg: MakeTalkers, rng: np.random.Generator) -> Take:
    """Make the video longer, with a hard cut near the middle to another distance."""
    near, far = rng.uniform(0.41, 0.44) * cfg.height_px, rng.uniform(0.33, 0.345) * cfg.height_px
    sizes = (float(near), float(far))
    length = 1.5 * cfg.duration_s
    cut = length * float(rng.uniform(0.46, 0.54))
    return replace(take, duration_s=length, cuts_s=(cut,), face_px=sizes if rng.uniform() < 0.5 else sizes[::-1])


def _with_fault(take: Take, other: Look, cfg: MakeTalkers, rng: np.random.Generator) -> Take:
    if take.fault == "too_short":
        return replace(take, duration_s=float(rng.uniform(0.85, 1.15)))
    if take.fault == "small_face":
        return replace(take, width=_even(cfg.height_px), face_px=(0.145 * cfg.height_px,))
    if take.fault == "large_offset":
        size = int(rng.integers(12, 15))
        return replace(take, offset_frames=size if take.kind == "picture late" else -size)
    if take.fault == TWO_FACES:
        width, size, left = _even(cfg.height_px * 16 / 9), (0.34 * cfg.height_px,), bool(rng.uniform() < 0.5)
        return replace(take, width=width, other=other, other_left=left, face_px=size)
    if take.fault in ("low_sync", "no_audio", "no_face", "unreadable"):
        return replace(take, offset_frames=0)
    return take


def _mark_duplicates(takes: list[Take]) -> list[Take]:
    """Mark of two equal files the one whose id sorts later as the duplicate; it may be the original."""
    originals = {take.copy_of for take in takes if take.copy_of}
    groups: dict[str, list[Take]] = {}
    for take in takes:
        if take.copy_of or take.path in originals:
            groups.setdefault(take.copy_of or take.path, []).append(take)
    later = {take.path for group in groups.values() for take in sorted(group, key=lambda t: t.id)[1:]}
    return [replace(take, fault="duplicate", kind="copy") if take.path in later else take for take in takes]
