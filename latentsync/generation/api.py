"""Lip-sync videos: what Python callers, the command line and the steps share.

audio -> detector -> scenes and face tracks -> speaking track -> redrawn mouths (-> restored faces) -> written file

    import latentsync

    result = latentsync.lip_sync("in.mp4", "speech.wav", "out.mp4", weights="results/demo")
    print(f"{result.n_generated} of {result.n_frames} frames redrawn")

`LipSync` keeps the networks for several videos. Importing this module imports neither torch nor PyAV. Error messages
use the names of the command line: `enhance["method"]` is --enhance.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentsync import config
from latentsync.config import Enhance, FaceBackend, Generate, Mark, Preset
from latentsync.generation.arguments import checked, marked_as, naming, sections
from latentsync.generation.progress import Report, silent
from latentsync.generation.session import MAX_FACES, LipSync, Result
from latentsync.ledger.consent import cover_files, grant_of_file
from latentsync.ledger.files import fingerprint, write_json
from latentsync.weights import registry
from latentsync.weights.find import find_weights

if TYPE_CHECKING:
    from latentsync.generation.pairs import Outcome


def lip_sync(
    video: str | Path,
    audio: str | Path | None,
    out: str | Path,
    weights: str | Path,
    *,
    voices: str | Path | None = None,
    preset: Preset = "exact",
    generate: Mapping[str, Any] | None = None,
    enhance: Mapping[str, Any] | None = None,
    faces: FaceBackend = "mediapipe",
    vae: str | Path | None = None,
    whisper: str | Path | None = None,
    resolution: int | None = None,
    preview: bool = False,
    start_s: float = 0.0,
    end_s: float | None = None,
    consent: str | Path | None = None,
    report: str | Path | None = None,
    mark: Mapping[str, Any] | None = None,
    progress: Report = silent,
) -> Result:
    """Write `out`: the video with the mouth of its largest face redrawn to the audio.

    Args:
        video: any video that FFmpeg reads; never changed. The result keeps its size, its frame times and, where x264
            can write it, its pixel format. It is as long as the audio: frames go on as
            `generate={"loop": "bounce"}` says or are cut. With `generate={"length": "video"}` it is as long as the
            video: the audio is padded or cut.
        audio: the speech: an audio file, or a video with audio; may be `video` itself. None: `voices` says it.
        out: the mp4 to write; with `generate={"codec": "prores"}` a mov.
        weights: results/<run> of a finished run, a release such as "latentsync-1.6" (`latentsync weights list`), a
            folder of published weights, or a U-Net file.
        voices: the table that `latentsync faces` writes, with audio files for several faces. The result has their sum.
        preset: how much is given up for speed, "exact", "balanced" or "fast": values of keys of `generate`.
        generate: keys of the configuration's section `generate`, e.g. {"steps": 10, "length": "video"}. Defaults are
            those of config/README.md, except that the video is not limited to its first minute (max_s).
        enhance: keys of the section `enhance`, e.g. {"method": "gfpgan", "strength": 0.5}.
        faces: face detector, best the one of the training data: "face_alignment" for 1.0 and 1.5, "insightface" for
            1.6; the default needs no download.
        vae: VAE, if it is not with the U-Net.
        whisper: Whisper's weights, if they are not in the weights folder.
        resolution: side of the face in pixels, for published weights whose release is unknown.
        preview: decode with the tiny TAESD: rough frames, quickly.
        start_s, end_s: only this part of the video is redrawn, seconds; the rest passes through. None: to the end.
        consent: a CSV with path, scope, until and document, paths relative to it; a video that it does not cover for
            generation today is refused. None: consent is not checked.
        report: a JSON file to write: the result, the settings, and the content hashes of the weights.
        mark: keys of the section `mark`, e.g. {"label": "AI-generated"}; {"manifest": False}: the result does not say
            that it is generated.
        progress: called with a `Progress` at the start of each stage, and after every frame.

    Returns:
        Counts of written, redrawn and enhanced frames.

    Raises:
        ValueError: an argument is wrong, or a file is missing or unusable. Arguments are checked before anything is
            loaded, and nothing is written.
    """
    cfg, enhancement = sections(preset, generate, enhance, faces, resolution)
    marking = marked_as(mark)
    video, audio, out = checked(video, audio, out, voices, cfg.codec)
    grant = grant_of_file(cover_files(consent, date.today()), consent, video)
    unpublished = {"--tiny-vae": preview, "--voices": voices, "--start": start_s, "--end": end_s is not None}
    unpublished["--enhance"] = enhancement.method
    if cfg.as_published and any(unpublished.values()):
        given = next(option for option, value in unpublished.items() if value)
        raise ValueError(f"{given} is no part of the published pipeline; leave out either it or --as-published.")
    stop_s = float("inf") if end_s is None else end_s
    if not 0 <= start_s < stop_s:
        raise ValueError(f"--start {start_s} is not before --end {end_s}; both are seconds of the video.")
    with _session(weights, cfg, enhancement, marking, vae, whisper, resolution, preview) as session:
        result = session(video, audio, out, faces, progress, voices, (start_s, stop_s))
    if report is not None:
        named = {"video": video, "audio": audio, "voices": voices, "out": out}
        files: dict[str, Any] = {name: path and str(path) for name, path in named.items()}
        files |= {"consent": grant and asdict(grant)}
        chosen = {"generate": cfg, "enhance": enhancement, "mark": marking}
        settings = {name: section.model_dump() for name, section in chosen.items()} | {"faces": faces}
        write_json(Path(report), files | {"start_s": start_s, "end_s": end_s} | asdict(result) | {"settings": settings})
    return result


def lip_sync_pairs(
    table: str | Path,
    weights: str | Path,
    *,
    preset: Preset = "exact",
    generate: Mapping[str, Any] | None = None,
    enhance: Mapping[str, Any] | None = None,
    faces: FaceBackend = "mediapipe",
    vae: str | Path | None = None,
    whisper: str | Path | None = None,
    resolution: int | None = None,
    preview: bool = False,
    mark: Mapping[str, Any] | None = None,
    consent: str | Path | None = None,
    progress: Report = silent,
) -> "Iterator[Outcome]":
    """Lip-sync every row of a table of videos, audio and outputs, with networks that are loaded once; see pairs.py.

    Args:
        table: a CSV with the columns video, audio and out.
        weights: as of `lip_sync`, and so are the others.

    Yields:
        What became of each row, in order. Rows whose output is there already are not done again.

    Raises:
        ValueError: the table or an argument is wrong. What is wrong with one row is the outcome of that row.
    """
    from latentsync.generation.pairs import Pair, work_through

    cfg, enhancement = sections(preset, generate, enhance, faces, resolution)
    marking = marked_as(mark)
    if cfg.as_published and (preview or enhancement.method):
        given = "--tiny-vae" if preview else "--enhance"
        raise ValueError(f"{given} is no part of the published pipeline; leave out either it or --as-published.")
    session = _session(weights, cfg, enhancement, marking, vae, whisper, resolution, preview)
    assert session.unet is not None
    stat = session.unet.stat()
    files = str(session.unet), stat.st_size, stat.st_mtime_ns
    settings = cfg.model_dump(), enhancement.model_dump(), marking.model_dump(), faces, resolution, preview
    decides = files, settings, str(vae), str(whisper)

    grants = cover_files(consent, date.today())

    def refuses(pair: Pair) -> str | None:
        try:
            grant_of_file(grants, consent, pair.video)
        except ValueError as error:
            return str(error)
        return None

    def redraw(pair: Pair, following: Pair | None) -> str:
        pair.out.parent.mkdir(parents=True, exist_ok=True)
        next_video = following.video if following is not None and refuses(following) is None else None
        return session(pair.video, pair.audio, pair.out, faces, progress, next_video=next_video).sentence

    with session:
        yield from work_through(Path(table), fingerprint(*decides), redraw, progress, refuses)


def _session(
    weights: str | Path,
    generate: Generate,
    enhance: Enhance,
    mark: Mark,
    vae: str | Path | None,
    whisper: str | Path | None,
    resolution: int | None,
    preview: bool,
) -> "LipSync":
    """A session with the files that arguments of `lip_sync` name; nothing is loaded yet."""
    unet, own_vae = find_weights(Path(weights), None if vae is None else Path(vae))
    parts = {
        "whisper": None if whisper is None else Path(whisper),
        "resolution": resolution,
        "preview": registry.find("taesd", key="--tiny-vae") if preview else None,
    }
    return LipSync(unet, own_vae, generate=generate, enhance=enhance, mark=mark, **parts)


def list_faces(video: str | Path, out: str | Path, faces: FaceBackend = "mediapipe") -> list[str]:
    """Write the table of a video's faces and their thumbnails into a folder; returns a sentence for each face.

    Args:
        video: any video that FFmpeg reads.
        out: the folder; the table is faces.csv, as voices.py describes it.
        faces: face detector, the one that `lip_sync` will use.

    Raises:
        ValueError: the video is missing or unreadable, holds no face, or the folder holds a table already.
    """
    from latentsync.generation.voices import write_table
    from latentsync.media.read import frame_times

    config.require_choice("--faces", faces, FaceBackend)
    video, out = Path(video), Path(out)
    if not video.is_file():
        raise ValueError(f"{video} is not a file.")
    with LipSync() as session, naming("The video", video):
        tracks = session.tracks(video, faces, MAX_FACES)
        if not tracks:
            raise ValueError(f"{video} shows no face.")
        return write_table(out, video, tracks, *frame_times(video))
