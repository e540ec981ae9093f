"""Small images and previews as data URIs, made from crops, sources and results."""

import base64
import io
import itertools
import tempfile
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from latentsync.ledger.files import iterate_ledger
from latentsync.ledger.rows import Rejection, Row
from latentsync.media.audio import read_audio
from latentsync.media.display import displayed_size
from latentsync.media.frames import to_rgb
from latentsync.media.probe import probe_media, timeline
from latentsync.media.read import frame_times, read_clip, read_frames, read_video_frames
from latentsync.media.write import VideoWriter
from latentsync.timing import seconds

THUMB_PX = 112  # shorter side of an image on a contact sheet
PREVIEW_PX = 256  # shorter side of a transcoded preview
PREVIEW_S = 12  # longer videos are cut here
EMBED_BYTES = 400_000  # a smaller file that browsers can play is embedded as it is
PREVIEW_RATE_HZ = 32_000
ENCODING: dict[str, Any] = {"crf": 27, "preset": "veryfast", "keyint": 50, "audio_bitrate": 64_000}


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def jpeg_uri(rgb: np.ndarray, side_px: int = THUMB_PX, quality: int = 80) -> str:
    """An image (h, w, 3) uint8 as JPEG whose shorter side is at most `side_px`."""
    image = Image.fromarray(rgb)
    factor = side_px / min(image.size)
    if factor < 1:
        image = image.resize([max(1, round(side * factor)) for side in image.size], Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return data_uri(buffer.getvalue(), "image/jpeg")


def middle_image(row: Row, root: Path, sources: Path | None) -> str:
    """The middle frame of a row's crop, or of its part of the source; a sentence if neither can be read."""
    try:
        if row.get("crop_file"):
            middle = (row["end_tick"] - row["start_tick"]) // 2
            return jpeg_uri(read_clip(root / row["crop_file"], middle, middle + 1)[0])
        if sources is None:
            return "no image: the sources are not available"
        times_s, _ = frame_times(sources / row["path"])
        wanted = len(times_s) // 2
        if row.get("start_tick") is not None:
            wanted = int(np.abs(times_s - seconds(row["start_tick"] + row["end_tick"]) / 2).argmin())
        [(_, rgb)] = read_frames(sources / row["path"], np.array([wanted]))
        return jpeg_uri(rgb)
    except (Rejection, FileNotFoundError):
        return "no image: the file cannot be read"


def middle_images(ids: Iterable[str], ledgers: Iterable[Path], root: Path, sources: Path | None) -> dict[str, str]:
    """`middle_image` of these rows of the ledgers, by id; the ledgers are read row by row."""
    wanted = set(ids)
    rows = (row for ledger in ledgers for row in iterate_ledger(ledger))
    return {row["id"]: middle_image(row, root, sources) for row in rows if row["id"] in wanted}


def preview(path: Path) -> dict[str, Any]:
    """A video for the page: {uri, poster, width, height, cut}; `cut`: seconds shown of a longer video, else 0."""
    info = probe_media(path)
    playable = path.suffix.lower() == ".mp4" and info.video_codec == "h264" and info.pix_fmt == "yuv420p"
    times_s, end_s = frame_times(path)
    n_frames = int(np.searchsorted(times_s, PREVIEW_S))
    [(_, rgb)] = read_frames(path, np.array([n_frames // 2]))
    result = {"poster": jpeg_uri(rgb, PREVIEW_PX, quality=70), "width": info.width, "height": info.height}
    cut = PREVIEW_S if n_frames < len(times_s) else 0
    if playable and not cut and path.stat().st_size <= EMBED_BYTES:
        content = path.read_bytes()
    else:
        content = _transcode(path, times_s[:n_frames], min(end_s, PREVIEW_S), info.has_audio)
    return result | {"uri": data_uri(content, "video/mp4"), "cut": cut}


def _transcode(path: Path, times_s: np.ndarray, end_s: float, has_audio: bool) -> bytes:
    audio = read_audio(path, PREVIEW_RATE_HZ)[: round(end_s * PREVIEW_RATE_HZ)] if has_audio else None
    aspect = timeline(path).pixel_aspect
    frames = (_small(frame, aspect) for _, frame in read_video_frames(path, np.arange(len(times_s))))
    first = next(frames)
    height, width = first.shape[:2]
    streams = {"audio": audio, "audio_rate_hz": PREVIEW_RATE_HZ, "frame_times": times_s, "end_s": end_s}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "preview.mp4"
        with VideoWriter(target, max(1, round(len(times_s) / end_s)), width, height, **ENCODING, **streams) as writer:
            for rgb in itertools.chain([first], frames):
                writer.write(rgb)
        return target.read_bytes()


def _small(frame: av.VideoFrame, aspect: Fraction) -> np.ndarray:
    """A frame with at most PREVIEW_PX on its shorter side, and even sides, as 4:2:0 needs."""
    width, height = displayed_size(frame.width, frame.height, aspect)
    rgb = to_rgb(frame, round(width * min(1.0, PREVIEW_PX / min(width, height))), aspect)
    return np.ascontiguousarray(rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2])
