"""The audio that drives a video: what the model gets (16 kHz mono), and what is written into the result."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from latentsync.ledger.rows import Rejection
from latentsync.media import join
from latentsync.media.audio import AVERAGED, audio_pieces, in_range, joined, read_channels
from latentsync.media.probe import opened
from latentsync.timing import SAMPLE_RATE_HZ

COPYABLE = {  # codecs whose packets a file can hold, and that players know there
    ".mp4": frozenset("aac mp3 ac3 eac3 opus flac alac".split()),
    ".mov": frozenset("aac mp3 ac3 eac3 alac pcm_s16le pcm_s24le pcm_s32le pcm_f32le pcm_s16be pcm_s24be".split()),
}
LIKE = {"5.1(side)": "5.1", "5.0(side)": "5.0", "quad": "5.0", "6.1": "5.1", "7.1": "5.1"}  # what AAC has for others
LEAST_BITS = 64_000  # of a channel that is encoded, bits per second
AAC_RATES_HZ = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


@dataclass(frozen=True)
class DrivingAudio:
    """Audio for the model, and where the audio for the file comes from."""

    for_model: np.ndarray
    """float32 [n], 16 kHz mono, from time zero."""
    path: Path | None = None
    """The file; None: the result has no audio."""
    codec: str = ""
    """Of the file; where `copied`, its packets are. Otherwise it is encoded as AAC, at `rate_hz` and in `layout`."""
    channel_bits: int = join.AAC_BITS
    """Bits per second of a channel, if it is encoded."""
    rate_hz: int = SAMPLE_RATE_HZ
    layout: str = "mono"
    in_video: bool = False
    """Whether time zero is that of a video; otherwise it is the first sample."""
    later_s: float = 0.0
    """How much later it is heard than the file says; below 0 earlier, and its beginning is left out."""

    @property
    def length_s(self) -> float:
        """Length in seconds."""
        return len(self.for_model) / SAMPLE_RATE_HZ

    def copied(self, suffix: str = ".mp4") -> bool:
        """Whether a result with this suffix gets the packets of the file."""
        return self.codec in COPYABLE[suffix]

    def track(self, end_s: float, suffix: str = ".mp4") -> join.AddAudio | None:
        """What `join.join` writes into a result of this length and with this suffix."""
        if self.path is None:
            return None
        if self.copied(suffix):
            return join.copied_audio(self.path, end_s, self.later_s)
        pieces = later(self.pieces(self.rate_hz, self.layout), round(self.later_s * self.rate_hz))
        return join.encoded_audio(pieces, self.rate_hz, self.layout, end_s, self.channel_bits)

    def shifted(self, later_s: float) -> "DrivingAudio":
        """The same audio, heard so much later, for the model and in the file.

        Raises:
            ValueError: nothing is left of it.
        """
        n = round(later_s * SAMPLE_RATE_HZ)
        if -n >= len(self.for_model):
            raise ValueError(
                f"--audio-offset {1000 * later_s:g} leaves nothing of an audio of {self.length_s:.1f} s; move it less."
            )
        samples = np.pad(self.for_model, (n, 0)) if n >= 0 else self.for_model[-n:]
        return dataclasses.replace(self, for_model=samples, later_s=self.later_s + later_s)

    def pieces(self, rate_hz: int, layout: str) -> Iterator[np.ndarray]:
        """The samples float32 [c, n], piece by piece."""
        assert self.path is not None
        return audio_pieces(self.path, rate_hz, layout) if self.in_video else _file_pieces(self.path, rate_hz, layout)


def later(pieces: Iterator[np.ndarray], n: int) -> Iterator[np.ndarray]:
    """Pieces [c, k] after n samples of silence, or without the first -n."""
    for piece in pieces:
        if n > 0:
            yield np.zeros((len(piece), n), piece.dtype)
        skipped = min(-n, piece.shape[1]) if n < 0 else 0
        n = min(0, n + skipped)
        if skipped < piece.shape[1]:
            yield piece[:, skipped:]


def driving_audio(path: Path, for_model: np.ndarray | None = None, max_s: float | None = None) -> DrivingAudio:
    """The audio of a video (from its time zero on) or of an audio file (from its first sample on).

    Packets are copied where the result can hold them; otherwise the audio is encoded at its own rate and with its own
    channels, where AAC knows them, and from other codecs with loss at twice their bits.

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
        stream = container.streams.audio[0]
        codec = stream.codec_context
        name, rate_hz = codec.codec.canonical_name, codec.sample_rate  # the decoder of mp3 is called mp3float
        layout, bits = LIKE.get(codec.layout.name, codec.layout.name), stream.bit_rate or 0
        channel_bits = join.AAC_BITS
        if codec.codec.lossy and not codec.codec.lossless and bits:
            channel_bits = min(channel_bits, max(LEAST_BITS, 2 * bits // codec.channels))
        if layout not in join.AAC_LAYOUTS:
            layout = "stereo" if codec.channels > 1 else "mono"
    if for_model is not None:
        samples = for_model
    elif in_video:
        samples = read_channels(path, SAMPLE_RATE_HZ, "mono", max_s)[0]
    else:
        samples = joined(_file_pieces(path, SAMPLE_RATE_HZ, "mono"), 1)[0]
    if not len(samples):
        raise Rejection("no_audio", f"{path.name} holds no samples")
    rate_hz = rate_hz if rate_hz in AAC_RATES_HZ else 48_000
    return DrivingAudio(samples, path, name, channel_bits, rate_hz, layout, in_video)


def _file_pieces(path: Path, rate_hz: int, layout: str) -> Iterator[np.ndarray]:
    resampler = av.AudioResampler("fltp", layout, rate_hz, options=AVERAGED)
    with opened(path) as container:
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                yield in_range(part.to_ndarray(), path)
        for part in resampler.resample(None):
            if part is not None:
                yield in_range(part.to_ndarray(), path)
