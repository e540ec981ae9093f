"""Small videos that tests write with plain PyAV (not with our writer), each image carrying its number or a face."""

from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
from skimage import data

BITS = 10
VFR_S = np.cumsum([0.0, *[1 / 30, 2 / 30, 1 / 60, 0.1] * 10]).tolist()  # times of the frames of a phone's video


def numbered_image(number: int, width: int = 160, height: int = 64) -> np.ndarray:
    """uint8 [h, w, 3]: ten vertical bars, bright where the bit of `number` is set."""
    bars = np.array([215 if number >> bit & 1 else 40 for bit in range(BITS)], np.uint8)
    row = np.repeat(bars, -(-width // BITS))[:width]
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_of(rgb: np.ndarray) -> int:
    """The number that a image of `numbered_image` shows."""
    width = rgb.shape[1]
    centres = ((np.arange(BITS) + 0.5) * -(-width // BITS)).astype(int).clip(max=width - 1)
    levels = rgb[rgb.shape[0] // 2, centres].mean(axis=1)
    return sum(1 << bit for bit, level in enumerate(levels) if level > 128)


def head(index: int, width: int = 208, height: int = 176) -> np.ndarray:
    """The astronaut's head, drifting to the right by half a pixel a frame."""
    left = 120 - index // 2
    return np.ascontiguousarray(data.astronaut()[20 : 20 + height, left : left + width])


def clicks(length_s: float, at_s: list[float], rate_hz: int, width: int = 1) -> np.ndarray:
    """float32 [n]: silence with a click of full scale at each time (rounded to the nearest sample)."""
    audio = np.zeros(round(length_s * rate_hz), np.float32)
    for time in at_s:
        start = round(time * rate_hz)
        audio[start : start + width] = 0.9
    return audio


def smooth_images(n: int, width: int, height: int, seed: int = 0) -> list[np.ndarray]:
    """n images, uint8 [h, w, 3], of soft colours that move up by one row each."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (6, 8, 3))
    rows, columns = np.linspace(0, 4.99, height + n), np.linspace(0, 6.99, width)
    i, j = rows.astype(int), columns.astype(int)
    a, b = (rows - i)[:, None, None], (columns - j)[None, :, None]
    big = (coarse[i][:, j] * (1 - a) + coarse[i + 1][:, j] * a) * (1 - b) + (
        coarse[i][:, j + 1] * (1 - a) + coarse[i + 1][:, j + 1] * a
    ) * b
    return [big[k : k + height].astype(np.uint8) for k in range(n)]


def woven(images, order: str):
    """Interlaced frames: frame i has lines of images(2 i) and images(2 i + 1); `order` says whose field is first."""

    def frame(index: int, width: int, height: int) -> np.ndarray:
        first, second = (images(2 * index + k, width, height) for k in range(2))
        result, top = first.copy(), 0 if order == "tff" else 1
        result[1 - top :: 2] = second[1 - top :: 2]
        return result

    return frame


def packets(path: Path) -> list[tuple]:
    """Stream, times and content of every packet, in the order of the file: all of a video but its container."""
    with av.open(str(path)) as container:
        return [
            (packet.stream_index, packet.pts, packet.dts, packet.duration, packet.is_keyframe, bytes(packet))
            for packet in container.demux()
            if packet.size
        ]


def write_two_sizes(
    path: Path,
    n_frames: int = 20,
    sizes: tuple[tuple[int, int], ...] = ((160, 64), (320, 128)),
    images=numbered_image,
) -> Path:
    """A transport stream, 25 fps, whose image changes its size on the way: `n_frames` of each size."""
    parts = []
    for k, size in enumerate(sizes):
        part = path.with_suffix(f".{k}.ts")
        first = k * n_frames
        write_video(  # without B-frames, whose delay would shift the first part against the second
            part,
            n_frames,
            start_s=first / 25,
            size=size,
            b_frames=0,
            images=lambda i, w, h, a=first: images(a + i, w, h),
        )
        parts.append(part.read_bytes())
        part.unlink()
    path.write_bytes(b"".join(parts))
    return path


def write_video(
    path: Path,
    n_frames: int = 50,
    fps: Fraction | int = 25,
    *,
    times_s: list[float] | None = None,
    start_s: float = 0.0,
    codec: str = "libx264",
    codec_options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (160, 64),
    gop: int = 12,
    b_frames: int = 2,
    rotation: tuple[float, bool] | None = None,
    sample_aspect: Fraction | None = None,
    images=numbered_image,
    audio: np.ndarray | None = None,
    audio_start_s: float = 0.0,
    audio_rate_hz: int = 44_100,
    audio_codec: str = "aac",
    audio_layout: str = "mono",
    options: dict[str, str] | None = None,
    container_format: str | None = None,
    video_track: bool = True,
    field_order: str | None = None,
) -> Path:
    """A video whose frame i shows images(i) at times_s[i], or at start_s + i / fps; audio starts at audio_start_s.

    `field_order`: tff or bff, how frames are flagged as interlaced; None: progressive.
    """
    clock = Fraction(1, 90_000) if times_s is not None or start_s else 1 / Fraction(fps)
    times = times_s if times_s is not None else [start_s + float(i / Fraction(fps)) for i in range(n_frames)]
    if field_order is not None:
        flags = {"flags": "+ilme+ildct", "field_order": {"tff": "tt", "bff": "bb"}[field_order]}
        flags |= {"x264-params": f"{field_order}=1"} if codec == "libx264" else {}
        codec_options, flagged = flags | (codec_options or {}), av.filter.Graph()
        source = flagged.add_buffer(width=size[0], height=size[1], format=av.VideoFormat(pix_fmt), time_base=clock)
        flagged.link_nodes(source, flagged.add("setfield", field_order), flagged.add("buffersink")).configure()
    with av.open(str(path), "w", format=container_format, options=options or {}) as container:
        packets = []
        if video_track:
            video = container.add_stream(codec, rate=fps, options=codec_options or {})
            video.width, video.height, video.pix_fmt = *size, pix_fmt
            video.codec_context.time_base = clock
            video.codec_context.gop_size, video.codec_context.max_b_frames = gop, b_frames
            if sample_aspect is not None:
                video.codec_context.sample_aspect_ratio = sample_aspect
            if rotation is not None:
                video.set_display_rotation(rotation[0], hflip=rotation[1])
        if audio is not None:
            track = container.add_stream(audio_codec, rate=audio_rate_hz, layout=audio_layout)
        container.start_encoding()
        if video_track:
            for index, time in enumerate(times):
                frame = av.VideoFrame.from_ndarray(images(index, *size), format="rgb24").reformat(format=pix_fmt)
                if field_order is not None:
                    flagged.vpush(frame)
                    frame = flagged.vpull()
                frame.time_base, frame.pts = clock, round(time / clock)
                packets += video.encode(frame)
            packets += video.encode(None)
        if audio is not None:
            channels = av.AudioLayout(audio_layout).nb_channels
            size_of = 1024
            for start in range(0, len(audio), size_of):
                part = np.repeat(audio[None, start : start + size_of], channels, axis=0)
                if audio_codec.startswith("pcm") or audio_codec == "flac":
                    pcm = (part * 32767).astype(np.int16)
                    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm.T.reshape(1, -1)), "s16", audio_layout)
                else:
                    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), "fltp", audio_layout)
                frame.sample_rate, frame.time_base = audio_rate_hz, Fraction(1, audio_rate_hz)
                frame.pts = start + round(audio_start_s * audio_rate_hz)
                packets += track.encode(frame)
            packets += track.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path
