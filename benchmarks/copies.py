"""How many copies of the same footage curation finds, by kind of change, and how many strangers it takes for one.

    python benchmarks/copies.py [--clips FOLDER] [--talkers 24] [--kinds KIND ...] [--per-kind 10]
        [--seed 1] [--work FOLDER] [--json FILE]

Every copy is cut from a random place of a random original and encoded again, and changed in one more way (KINDS), or in
all of them. Originals are the videos of --clips, and synthetic talkers that differ in everything. The steps of curation
run on all files as the rules run them; then every pair of sources is compared. A copy counts as found if it is joined
to its original (`joined`), and as marked if its clips would be near duplicates (`clips`). A false join is one
between two files that have no original in common.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
STEPS = ("probe", "resample", "detect_scenes", "segment", "align_faces", "score_quality")
SECTIONS = {"align_faces": {"backend": "mediapipe", "resolution": 64}, "score_quality": {"backend": "piqe"}}
LONGEST_SIDE_PX = 640  # of a copy, to save time
RATE_HZ = 44_100


@dataclass(frozen=True)
class Change:
    """What is done to a copy besides cutting and encoding it again."""

    fps: str | None = None  # None: as the original
    scale: float = 1.0
    crf: int = 21
    gain: float = 1.0
    audio: str = "kept"  # kept, removed, replaced
    audio_bitrate: int = 128_000


KINDS = {
    "cut": Change(),
    "scaled 0.4": Change(scale=0.4),
    "crf 34, 32 kbit/s": Change(crf=34, audio_bitrate=32_000),
    **{f"{fps} fps": Change(fps=fps) for fps in ("15", "24", "30000/1001", "30", "60")},
    "volume / 5": Change(gain=0.2),
    "volume x 4, clipped": Change(gain=4.0),
    "no audio": Change(audio="removed"),
    "other audio": Change(audio="replaced"),
    "all, audio kept": Change("24", 0.5, 30, 0.4, "kept", 48_000),
    "all, other audio": Change("24", 0.5, 30, 0.4, "replaced", 48_000),
    "15 fps, no audio": Change("15", 0.6, 27, audio="removed"),
}


def main() -> None:
    """Make the copies, curate, compare, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="a folder of videos of different people, besides the talkers")
    parser.add_argument("--talkers", type=int, default=24, help="synthetic talkers")
    parser.add_argument("--per-kind", type=int, default=10, help="copies for each kind of change")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of change; default: all")
    parser.add_argument("--seed", type=int, default=1, help="of cuts and originals")
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "bench-copies", help="where everything goes")
    parser.add_argument("--json", type=Path, help="also write the line there")
    args = parser.parse_args()
    folder = args.work.resolve() / "videos"
    if not (args.work / "made.json").exists():
        made = make(folder, args.clips, args.talkers, args.kinds, args.per_kind, args.seed)
        (args.work / "made.json").write_text(json.dumps(made))
    made = json.loads((args.work / "made.json").read_text())
    curate(folder, args.work.resolve() / "run")
    result = compare(made, args.work.resolve() / "run")
    line = json.dumps(result)
    if args.json:
        args.json.write_text(line + "\n", encoding="utf-8")
    print(line)


def make(folder: Path, clips: Path | None, talkers: int, kinds: list[str], per_kind: int, seed: int) -> dict[str, list]:
    """All files; name of each copy -> [original, origin of other audio, kind, start_s, length_s]."""
    from latentsync.synthetic.look import looks
    from latentsync.synthetic.plan import Take
    from latentsync.synthetic.render import render

    folder.mkdir(parents=True, exist_ok=True)
    real = sorted(path for path in clips.iterdir() if path.suffix == ".mp4") if clips else []
    for path in real:
        (folder / path.name).unlink(missing_ok=True)
        (folder / path.name).symlink_to(path.resolve())
    drawn = [f"talker{number:02d}.mp4" for number in range(talkers)]
    for number, (name, look) in enumerate(zip(drawn, looks(7, max(talkers, 1)), strict=False)):
        if not (folder / name).exists():
            render(Take(name, look, duration_s=6.0 + number % 4), 100 + number, folder)
    made = {}
    for number, kind in enumerate(kinds):
        for turn in range(per_kind):
            rng = np.random.default_rng([seed, number, turn])
            pool = drawn if turn % 4 == 3 and drawn or not real else [path.name for path in real]
            original, other = rng.choice(pool, 2, replace=False)
            name = f"copy-{number:02d}-{turn:02d}.mp4"
            made[name] = [
                str(original),
                str(other),
                kind,
                *copy(folder, original, other, folder / name, KINDS[kind], rng),
            ]
    return made


def copy(folder: Path, original: str, other: str, target: Path, change: Change, rng: np.random.Generator):
    """Write a copy; where it was cut."""
    import cv2

    from latentsync.media.audio import read_audio
    from latentsync.media.frames import to_rgb
    from latentsync.media.probe import probe_media
    from latentsync.media.read import frame_times, read_video_frames
    from latentsync.media.write import VideoWriter

    times_s, end_s = frame_times(folder / original)
    length_s = float(rng.uniform(min(3.0, 0.7 * end_s), min(8.0, 0.85 * end_s)))
    start_s = float(rng.uniform(0, end_s - length_s))
    fps = Fraction(change.fps) if change.fps else Fraction(len(times_s) / end_s).limit_denominator(1001)
    wanted = np.abs(times_s[None] - (start_s + np.arange(round(length_s * fps)) / float(fps))[:, None]).argmin(1)
    if target.exists():
        return start_s, length_s
    audio = None
    if change.audio != "removed":
        track = read_audio(folder / (other if change.audio == "replaced" else original), RATE_HZ)
        first = round(start_s * RATE_HZ) if change.audio == "kept" else 0
        part = track[first : first + round(length_s * RATE_HZ)]
        audio = (change.gain * part).clip(-1, 1) if len(part) else None
    facts = probe_media(folder / original)
    scale = min(change.scale, LONGEST_SIDE_PX / max(facts.width, facts.height))
    size = tuple(2 * max(1, round(side * scale / 2)) for side in (facts.width, facts.height))
    settings = {"crf": change.crf, "audio": audio, "audio_rate_hz": RATE_HZ, "audio_bitrate": change.audio_bitrate}
    times = {int(index): int(number) for index, number in zip(*np.unique(wanted, return_counts=True), strict=True)}
    with VideoWriter(target, fps, *size, keyint=250, preset="veryfast", **settings) as writer:
        for index, frame in read_video_frames(folder / original, np.array(sorted(times))):
            small = cv2.resize(to_rgb(frame, size[0]), size, interpolation=cv2.INTER_AREA)
            for _ in range(times[index]):
                writer.write(small)
    return start_s, length_s


def curate(folder: Path, run: Path) -> None:
    """Every step up to score_quality, as the rules run them, in one shard."""
    from latentsync.ledger.sources import write_sources

    write_sources(folder, run / "sources", 1)
    before = "sources"
    for step in STEPS:
        asked = ["--config", json.dumps(SECTIONS.get(step, {})), "--sources", str(folder)]
        paths = ["--input", before, str(run / before / "00000.jsonl")]
        paths += ["--output", "ledger", str(run / step / "00000.jsonl")]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "latentsync.steps", step, *asked, *paths],
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{step} ended with status {done.returncode}: {done.stderr[-2000:]}")
        before = step


def compare(made: dict[str, list], run: Path) -> dict:
    """Found copies by kind of change, by the face alone and by the audio alone; joins of strangers; time."""
    from latentsync.curation import footage, selection
    from latentsync.ledger.files import read_ledger

    rows = [row for row in read_ledger(run / "score_quality" / "00000.jsonl") if row["kind"] == "clip"]
    rows = [row for row in rows if row["status"] == "ok"]
    path_of = {row["source_id"]: row["path"] for row in rows}
    began = time.perf_counter()
    faint = footage.find(rows, 10.0)
    took_s = time.perf_counter() - began
    matches = [match for match in faint if match.nats >= footage.JOINS_NATS]
    groups = selection.group_of(rows, {}, footage.sharing(matches))
    source_of = {path: source for source, path in path_of.items()}
    direct = {kind: {(m.a, m.b) for m in matches if m.kind == kind} for kind in ("face", "audio")}
    tables = defaultdict(Counter)
    for name, (original, _, kind, *_) in made.items():
        if name not in source_of or original not in source_of:  # no face was found
            continue
        pair = tuple(sorted((source_of[name], source_of[original])))
        both = [row for row in rows if row["source_id"] in pair]
        marked = selection.near_duplicates(both, None, [m for m in matches if (m.a, m.b) == pair])[0]
        tables[kind].update(
            copies=1,
            found=groups[pair[0]] == groups[pair[1]],
            by_face=pair in direct["face"],
            by_audio=pair in direct["audio"],
            directly=pair in direct["face"] | direct["audio"],  # not by way of another copy
            near_duplicates=bool(marked),
        )
    return {
        "files": len(path_of),
        "clips": len(rows),
        "search_s": round(took_s, 2),
        "signature_bytes_per_s": round(_signature_bytes(rows), 1),
        "kinds": {kind: dict(table) for kind, table in tables.items()},
        "all": dict(sum(tables.values(), Counter())),
        **strangers(faint, made, path_of),
    }


def strangers(faint: list, made: dict[str, list], path_of: dict[str, str]) -> dict:
    """Matches between files without a common original, and the most evidence for one that joins none."""
    from latentsync.curation.footage import JOINS_NATS

    def origins(match, path: str) -> set[str]:
        original, other, kind = made[path][:3] if path in made else (path, path, "")
        return {other if match.kind == "audio" and "other audio" in kind else original}

    pairs, most = defaultdict(float), 0.0
    for match in faint:
        a, b = path_of[match.a], path_of[match.b]
        if not origins(match, a) & origins(match, b):
            [x], [y] = origins(match, a), origins(match, b)
            pairs[" = ".join(sorted((x, y)))] = max(pairs[" = ".join(sorted((x, y)))], match.nats)
    joined = {pair: nats for pair, nats in pairs.items() if nats >= JOINS_NATS}
    most = max([nats for nats in pairs.values() if nats < JOINS_NATS], default=0.0)
    originals = {made[path][0] if path in made else path for path in path_of.values()}
    number = len(originals) * (len(originals) - 1) // 2
    return {"pairs_of_strangers": number, "joined_strangers": joined, "most_nats_of_others": most}


def _signature_bytes(rows: list[dict]) -> float:
    size = sum(len(row[name] or "") for row in rows for name in ("face_signature", "audio_signature"))
    return size / (sum(row["end_tick"] - row["start_tick"] for row in rows) / 25)


if __name__ == "__main__":
    main()
