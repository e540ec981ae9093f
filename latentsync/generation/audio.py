"""The audio that drives a video: what the model gets (16 kHz mono), and what is written into the result."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from latentsync.ledger.rows import Rejection
from latentsync.media import join
from latentsync.media.audio import AVERAGED, audio_pieces, in_range, read_channels
from latentsync.media.probe import opened
from latentsync.timing import SAMPLE_RATE_HZ

COPYABLE = frozenset("aac mp3 ac3 eac3 opus flac alac".split())  # codecs whose packets an mp4 can hold
AAC_RATES_HZ = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


@dataclass(frozen=True)
class DrivingAudio:
    """Audio for the model, and where the audio for the file comes from."""

    for_model: np.ndarray
    """float32 [n], 16 kHz mono, from time zero."""
    path: Path | None = None
    """The file; None: the result has no audio."""
    copied: bool = False
    """Whether its packets are copied. Otherwise it is decoded and encoded as AAC, at `rate_hz` and in `layout`."""
    rate_hz: int = SAMPLE_RATE_HZ
    layout: str = "mono"
    in_video: bool = False
    """Whether time zero is that of a video; otherwise it is the first sample."""

    @property
    def length_s(self) -> float:
        """Length in seconds."""
        return len(self.for_model) / SAMPLE_RATE_HZ

    def track(self, end_s: float) -> join.AddAudio | None:
        """What `join.join` writes into a result of this length."""
        if self.path is None:
            return None
        if self.copied:
            return join.copied_audio(self.path, end_s)
        return join.encoded_audio(self.pieces(self.rate_hz, self.layout), self.rate_hz, self.layout, end_s)

    def pieces(self, rate_hz: int, layout: str) -> Iterator[np.ndarray]:
        """The samples float32 [c, n], piece by piece."""
        assert self.path is not None
        return audio_pieces(self.path, rate_hz, layout) if self.in_video else _file_pieces(self.path, rate_hz, layout)


def driving_audio(path: Path, for_model: np.ndarray | None = None, max_s: float | None = None) -> DrivingAudio:
    """The audio of a video (from its time zero on) or of an audio file (from its first sample on).

    Packets are copied where an mp4 can hold them; otherwise the audio is encoded at its own rate and with its own
    channels, where AAC knows them.

    Args:
        path: the file.
        for_model: 16 kHz mono, if the caller has it already.
        max_s: reads no more than this of a video's audio for the model, in seconds.

    Raises:
        Rejection: unreadable or no_audio.
    """
    with opened(path) as container:
        in_video = any(not s.disposition & Disposition.attached_pic for s in container.streams.video)
        if not container.streams.audio:
            raise Rejection("no_audio", f"{path.name} has no audio")
        codec = container.streams.audio[0].codec_context
        name, rate_hz = codec.codec.canonical_name, codec.sample_rate  # the decoder of mp3 is called mp3float
        layout = codec.layout.name
        if layout not in join.AAC_LAYOUTS:
            layout = "stereo" if codec.channels > 1 else "mono"
    if for_model is not None:
        samples = for_model
    elif in_video:
        samples = read_channels(path, SAMPLE_RATE_HZ, "mono", max_s)[0]
    else:
        samples = np.concatenate([np.zeros((1, 0), np.float32), *_file_pieces(path, SAMPLE_RATE_HZ, "mono")], 1)[0]
    if not len(samples):
        raise Rejection("no_audio", f"{path.name} holds no samples")
    rate_hz = rate_hz if rate_hz in AAC_RATES_HZ else 48_000
    return DrivingAudio(samples, path, name in COPYABLE, rate_hz, layout, in_video)


def _file_pieces(path: Path, rate_hz: int, layout: str) -> Iterator[np.ndarray]:
    resampler = av.AudioResampler("fltp", layout, rate_hz, options=AVERAGED)
    with opened(path) as container:
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                yield in_range(part.to_ndarray(), path)
        for part in resampler.resample(None):
            if part is not None:
                yield in_range(part.to_ndarray(), path)
