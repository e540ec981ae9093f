"""The audio that drives a video: what the model gets (16 kHz mono), and what is written into the result."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from latentsync.ledger.rows import Rejection
from latentsync.media.audio import AVERAGED, read_channels
from latentsync.media.probe import opened
from latentsync.timing import SAMPLE_RATE_HZ

COPYABLE = frozenset("aac mp3 ac3 eac3 opus flac alac".split())  # codecs whose packets an mp4 can hold
AAC_RATES_HZ = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


@dataclass(frozen=True)
class DrivingAudio:
    """Audio for the model, and audio for the file."""

    for_model: np.ndarray
    """float32 [n], 16 kHz mono, from time zero."""
    written: np.ndarray | None = None
    """float32 [c, n], mono or stereo at `rate_hz`, encoded as AAC; None: the packets of `copied_from` are copied."""
    rate_hz: int = SAMPLE_RATE_HZ
    copied_from: Path | None = None

    @property
    def length_s(self) -> float:
        """Length in seconds."""
        return len(self.for_model) / SAMPLE_RATE_HZ


def driving_audio(
    path: Path, own: bool = False, for_model: np.ndarray | None = None, max_s: float | None = None
) -> DrivingAudio:
    """The audio of a video (from its time zero on) or of an audio file (from its first sample on).

    Args:
        path: the file.
        own: `path` is the very video that is lip-synced, so its packets are copied where an mp4 can hold them.
            Otherwise the audio is encoded again, in stereo if it has more than one channel.
        for_model: 16 kHz mono, if the caller has it already.
        max_s: reads no more than this of a video's audio, in seconds.

    Raises:
        Rejection: unreadable or no_audio.
    """
    with opened(path) as container:
        video_streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not container.streams.audio:
            raise Rejection("no_audio", f"{path.name} has no audio")
        codec = container.streams.audio[0].codec_context
        name, rate_hz = codec.codec.canonical_name, codec.sample_rate  # the decoder of mp3 is called mp3float
        layout = "stereo" if codec.channels > 1 else "mono"
    read = partial(read_channels, max_s=max_s) if video_streams else _read_audio_file
    samples = read(path, SAMPLE_RATE_HZ, "mono")[0] if for_model is None else for_model
    if own and name in COPYABLE:
        return DrivingAudio(samples, copied_from=path)
    rate_hz = rate_hz if rate_hz in AAC_RATES_HZ else 48_000
    return DrivingAudio(samples, read(path, rate_hz, layout), rate_hz)


def _read_audio_file(path: Path, sample_rate_hz: int, layout: str) -> np.ndarray:
    resampler = av.AudioResampler("fltp", layout, sample_rate_hz, options=AVERAGED)
    with opened(path) as container:
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += [part for part in resampler.resample(None) if part is not None]
        parts = [frame.to_ndarray().copy() for frame in frames]
    nothing = np.zeros((av.AudioLayout(layout).nb_channels, 0), np.float32)
    return np.concatenate(parts or [nothing], axis=1).clip(-1, 1)
