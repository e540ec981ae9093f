"""A session of lip sync: networks and detectors that stay loaded for several videos, and what came of one.

Importing this module imports neither torch nor PyAV. Error messages use the names of the command line.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsync import config
from latentsync.config import Enhance, FaceBackend, Generate, Mark, Tracking
from latentsync.generation.arguments import NO_LIMIT, checked, naming
from latentsync.generation.face_tracks import FaceTracks, Wanted
from latentsync.generation.marking import NOT_MARKED
from latentsync.generation.progress import Progress, Report, silent
from latentsync.weights import registry

if TYPE_CHECKING:
    from latentsync.faces.tracking import Track
    from latentsync.generation.audio import DrivingAudio
    from latentsync.generation.marking import Marking
    from latentsync.generation.restore import Enhancer
    from latentsync.generation.voices import Row

RESULT = (
    "n_frames",
    "n_generated",
    "passed_through",
    "cut_s",
    "seconds",
    "waited_s",
    "weights",
    "audio_offset_ms",
    "n_closed",
    "n_enhanced",
    "n_coarse",
    "marked",
)  # of LipSync.redraw
DRAWN_BY = {
    "as_published",
    "solver",
    "steps",
    "guidance",
    "seed",
    "overlap",
    "silence",
}  # settings that a manifest says
MAX_FACES = 6  # faces followed in one video; their numbers must not depend on the command
MIN_PUBLISHED_PX = 256  # side of the face in the smallest published model


@dataclass(frozen=True)
class Result:
    """What was written."""

    n_frames: int
    """Written frames."""
    n_generated: int
    """Frames with a redrawn mouth."""
    passed_through: dict[str, int]
    """Frames left as they were, by reason: the names of gates.REASONS."""
    n_enhanced: int
    """Frames with a restored face."""
    cut_s: float
    """Seconds left out at the end because of `max_s`."""
    faces: str
    """Which faces were redrawn, as `latentsync faces` numbers them: "face 1 of 3"."""
    n_left_alone: int
    """Other people that were seen."""
    n_coarse: int = 0
    """Redrawn frames that were not enhanced, since the face in them is no finer than what was generated."""
    n_closed: int = 0
    """Frames in pauses of the audio that show the closed lips of another frame, with `silence="close"`."""
    audio_offset_ms: float = 0.0
    """How much later the audio is heard than its file says, as asked for or measured."""
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    """How long each stage worked: decode, crop, networks, paste, encode, join. Stages work side by side."""
    waited_s: float = field(default=0.0, compare=False)
    """How long the networks had nothing to do between the first frame and the last."""
    weights: dict[str, str] = field(default_factory=dict, compare=False)
    """Content hashes of the weights, by network."""
    notes: tuple[str, ...] = ()
    """What was repaired, chosen or left out of the inputs."""
    marked: str = field(default=NOT_MARKED, compare=False)
    """Who signed that it is generated: "signed by LatentSync Studio test certificate", or NOT_MARKED."""

    @property
    def sentence(self) -> str:
        """What was redrawn and what was not, for people."""
        unchanged = ", ".join(f"{n} {reason}" for reason, n in self.passed_through.items())
        alone = f", {self.n_left_alone} left alone" if self.n_left_alone else ""
        kept = f"; unchanged: {unchanged}" if unchanged else ""
        kept += f"; mouth closed in {self.n_closed}" if self.n_closed else ""
        kept += f"; enhanced in {self.n_enhanced}" if self.n_enhanced else ""
        kept += f"; not enhanced in {self.n_coarse}, where the face is no finer than generated" if self.n_coarse else ""
        kept += f"; audio moved by {self.audio_offset_ms:+g} ms" if self.audio_offset_ms else ""
        kept += f"; {self.marked}" if self.marked == NOT_MARKED else ""
        kept += "".join(f"; {note}" for note in self.notes)
        return f"{self.n_generated} of {self.n_frames} frames redrawn, {self.faces}{alone}{kept}"


class LipSync:
    """Networks and detectors for several videos, loaded when first used and kept until the `with` block ends.

        with LipSync(*find_weights(Path("results/demo"))) as session:
            for video in videos:
                session(video, speech, video.with_suffix(".new.mp4"))

    Args:
        unet: file of the U-Net; None: only faces are tracked.
        vae: VAE; None: the published one of the weights folder.
        whisper, resolution, preview: as `loading.load_models` takes them; `preview` is the folder of TAESD.
        generate, enhance, mark: sections of the configuration.
        tracking: how cuts are found and how long a face may be lost.

    Raises:
        ValueError: the restorer's file is missing, or the certificate cannot be used.
    """

    def __init__(
        self,
        unet: Path | None = None,
        vae: Path | None = None,
        *,
        whisper: Path | None = None,
        resolution: int | None = None,
        preview: Path | None = None,
        generate: Generate | None = None,
        enhance: Enhance | None = None,
        mark: Mark | None = None,
        tracking: Tracking | None = None,
    ):
        # Read when torch is imported: its threads would spin while they wait, and keep the cores from those of the
        # pipeline and from other programs (beside one of them: minutes instead of seconds).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self.generate, self.enhance = generate or Generate(**NO_LIMIT), enhance or Enhance()
        self.mark, self.tracking, self.unet = mark or Mark(), tracking or Tracking(), unet
        self.stack = ExitStack()
        self._restorer_file()
        self._require_certificate()

        def load(trained: bool) -> Any:
            from latentsync.generation.loading import load_models

            assert unet is not None
            return load_models(unet, vae, trained=trained, whisper=whisper, resolution=resolution, preview=preview)

        def detector(faces: str, max_faces: int) -> Any:
            from latentsync.faces.backends import open_detector

            return self.stack.enter_context(open_detector(faces, max_faces))

        def restorer(method: str, file: Path, fidelity: float) -> Any:
            from latentsync.models.restorers import open_restorer

            return open_restorer(method, file, fidelity)

        self.models, self.detector = cache(load), cache(detector)
        self._restorers = lru_cache(maxsize=1)(restorer)  # any fidelity is another one, and each holds a network
        self.face_tracks = FaceTracks(self._find_tracks)
        self.damage: dict[Path, dict[str, int]] = {}  # of each video that was tracked: its damaged frames, by kind

    def with_settings(
        self, generate: Generate | None = None, enhance: Enhance | None = None, mark: Mark | None = None
    ) -> "LipSync":
        """The same session with other settings: networks and detectors stay loaded, and belong to `self`.

        Raises:
            ValueError: the restorer's file is missing, or the certificate cannot be used.
        """
        other = copy(self)
        other.generate, other.enhance = generate or self.generate, enhance or self.enhance
        other.mark = mark or self.mark
        other._restorer_file()
        if other.mark != self.mark:
            other._require_certificate()
        return other

    def _require_certificate(self) -> None:
        """Refuse a certificate that cannot sign before the long part; nothing is signed without a U-Net."""
        if self.unet is None or not self.mark.manifest:
            return
        from latentsync.media import certificate, manifest

        manifest.require_usable(certificate.identity(self.mark))

    def marking(
        self, video: Path, audio: Sequence[Path], weights: Mapping[str, str], as_displayed: bool = False
    ) -> "Marking":
        """How results made from these files are marked.

        Args:
            video: the source.
            audio: what drives the mouths.
            weights: content hashes by network; "restorer" only if faces are enhanced.
            as_displayed: frames are written turned, as they are displayed.

        Raises:
            ValueError: the label does not fit, or the certificate cannot be used.
        """
        from latentsync.generation import label
        from latentsync.generation.marking import marking

        overlay = None
        if self.mark.label is not None:
            overlay = label.overlay_for(self.mark.label, video, as_displayed)
        made_with = {"weights": dict(weights), "settings": self.generate.model_dump(mode="json", include=DRAWN_BY)}
        if "restorer" in weights:
            enhanced = self.enhance.model_dump(mode="json", exclude={"weights", "compared"})
            made_with |= {"enhance": enhanced}
        return marking(self.mark, video, audio, made_with, overlay)

    def _restorer_file(self) -> Path | None:
        """The weights of the chosen restorer, None without one; the network is loaded later."""
        method = self.enhance.method
        return method and registry.find(method, self.enhance.weights, f"--enhance {method}")

    def enhancer(self) -> "Enhancer | None":
        """The chosen restorer; one of the same file is loaded once. None: nothing is enhanced."""
        file, cfg = self._restorer_file(), self.enhance
        if file is None or cfg.strength == 0:
            return None
        from latentsync.generation.restore import Enhancer
        from latentsync.weights.files import content_hash

        return Enhancer(self._restorers(cfg.method, file, cfg.fidelity), cfg, content_hash(file))

    def __enter__(self) -> "LipSync":
        return self

    def __exit__(self, *_: object) -> None:
        self.face_tracks.close()
        self.stack.close()

    def __call__(
        self,
        video: str | Path,
        audio: str | Path | None,
        out: str | Path,
        faces: FaceBackend = "mediapipe",
        progress: Report = silent,
        voices: str | Path | None = None,
        part_s: tuple[float, float] = (0.0, float("inf")),
        next_video: Path | None = None,
    ) -> Result:
        """Lip-sync one video, and enhance it if a method is chosen; arguments and errors as for `lip_sync`.

        `next_video`: the video of the next call; its faces are found while the mouths of this one are drawn.
        """
        from latentsync.generation.audio import driving_audio
        from latentsync.generation.notes import notes_of
        from latentsync.generation.voices import read_table

        config.require_choice("--faces", faces, FaceBackend)
        video, audio, out = checked(video, audio, out, voices, self.generate.codec)
        rows = [] if voices is None else read_table(Path(voices))
        driving = None
        if audio is not None:
            with naming("--audio", audio):
                driving = driving_audio(audio, track=self.generate.audio_track)
        if driving is not None and self.generate.length == "audio" and part_s[0] >= driving.length_s:
            raise ValueError(
                f"--start {part_s[0]:g} is after the end of the result, which is as long as the audio "
                f"({driving.length_s:.1f} s); give --length video."
            )
        self.enhancer()  # a damaged file ends the call before the long part
        resolution = self.models(True).resolution
        if resolution < MIN_PUBLISHED_PX:
            what = f"demonstration weights, {resolution} px per face"
            progress(Progress(f"{what}: real mouths come out blurred and miscoloured"))
        if not self.generate.as_published:
            with naming("--video", video):
                self.tracks(video, faces, MAX_FACES, progress)
            if next_video is not None and next_video.is_file():
                self.face_tracks.meanwhile(self._wanted(next_video, faces, MAX_FACES))
        own = audio is not None and audio.samefile(video)
        given: dict[str, Any] = {"rows": rows, "progress": progress, "part_s": part_s, "own": own}
        with naming("--video", video):
            written = self.redraw(video, driving, out, faces, MAX_FACES, **given)
        found, choice = {name: written[name] for name in RESULT}, written["choice"]
        notes = () if driving is None else driving.notes
        found["notes"] = (*notes, *notes_of(video, self.generate, own, self.damage.get(video, {})))
        return Result(faces=str(choice), n_left_alone=getattr(choice, "n_left_alone", 0), **found)

    def tracks(self, video: Path, faces: str, max_faces: int, progress: Report = silent) -> "list[Track]":
        """The face tracks of a video; those of the last one are kept."""
        return self.face_tracks.of(self._wanted(video, faces, max_faces), progress)

    def _wanted(self, video: Path, faces: str, max_faces: int) -> Wanted:
        return video, faces, max_faces, self.generate.max_s, self.generate.deinterlace

    def _find_tracks(
        self, video: Path, faces: str, max_faces: int, max_s: float | None, deinterlace: bool, progress: Report
    ) -> "list[Track]":
        from latentsync.generation.gates import measure_faces
        from latentsync.generation.speakers import track_video

        detector = self.detector(faces, max_faces)
        measure = measure_faces(detector.scheme)
        self.damage[video] = {}
        return track_video(video, detector, max_s, self.tracking, progress, measure, deinterlace, self.damage[video])

    def redraw(
        self,
        video: Path,
        audio: "DrivingAudio | None",
        out: Path,
        faces: str,
        max_faces: int,
        *,
        rows: "Sequence[Row]" = (),
        chosen: Sequence[int] = (),
        trained: bool = True,
        progress: Report = silent,
        part_s: tuple[float, float] = (0.0, float("inf")),
        own: bool = False,
    ) -> dict[str, Any]:
        """Redraw the mouths of one video; returns what `pipeline.redraw` returns, the `choice` of faces, and `marked`.

        Args:
            video, out: as `pipeline.redraw` takes them.
            audio: what the face of `generate.face` says; None: `rows` say what each face says.
            faces: face detector.
            max_faces: faces it looks for.
            rows: of `voices.read_table`.
            chosen: indices of face tracks known to speak; elsewhere generate.face decides.
            trained: False: with the untrained network, as a control.
            progress: called after every frame.
            part_s: start and end of what is redrawn, seconds of the video.
            own: the audio is that of the video, so that its offset can be measured.
        """
        from latentsync.generation import speakers
        from latentsync.generation.offset import own_offset
        from latentsync.generation.pipeline import redraw
        from latentsync.generation.voices import mixed, voices
        from latentsync.media.read import frame_times

        cfg, enhancer, models = self.generate, self.enhancer() if trained else None, self.models(trained)
        heard = [one for one in ([row.audio for row in rows] if audio is None else [audio.path]) if one is not None]
        weights = dict(models.weights) | ({} if enhancer is None else {"restorer": enhancer.weights})
        mark = self.marking(video, list(dict.fromkeys(heard)), weights, cfg.as_published)
        found: dict[str, Any] = {"weights": weights, "marked": mark.said}
        if cfg.as_published:
            from latentsync.generation import published

            assert audio is not None
            detector = self.detector(faces, max_faces)
            with mark.written(out) as unmarked:
                written = published.redraw(video, audio, unmarked, models, cfg, detector, progress, mark)
            return written | found | {"audio_offset_ms": 0.0, "choice": "the largest face of each frame"}
        tracks, times_s = self.tracks(video, faces, max_faces), frame_times(video)[0]
        if audio is None:
            says = voices(rows, tracks, times_s)
            choice, audio = speakers.chosen_of(tracks, [labels for labels, _ in says]), mixed([one for _, one in says])
        else:
            choice = speakers.choose_in(video, tracks, times_s, cfg.face, chosen)
            says = [(choice.labels, audio)]
        later_s = (cfg.audio_offset_ms or 0.0) / 1000
        if own and cfg.audio_offset_ms is None:
            later_s, _ = own_offset(audio, tracks, choice.labels, times_s)
        if later_s:
            says, audio = [(labels, one.shifted(later_s)) for labels, one in says], audio.shifted(later_s)
        written = redraw(video, audio, out, models, cfg, tracks, says, progress, part_s, enhancer, mark)
        return written | found | {"choice": choice, "audio_offset_ms": round(1000 * later_s, 3)}
