"""The audio that drives a video: what the model gets (16 kHz mono), and what is written into the result."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from latentsync.ledger.rows import Rejection
from latentsync.media import join, repairs
from latentsync.media.audio import Damage, audio_pieces, chosen_track, heard, read_channels
from latentsync.media.decode import keep_layout
from latentsync.media.opening import opened
from latentsync.timing import SAMPLE_RATE_HZ

COPYABLE = {  # codecs whose packets a file can hold, and that players know there
    ".mp4": frozenset("aac mp3 ac3 eac3 opus flac alac".split()),
    ".mov": frozenset("aac mp3 ac3 eac3 alac pcm_s16le pcm_s24le pcm_s32le pcm_f32le pcm_s16be pcm_s24be".split()),
}
LIKE = {"5.1(side)": "5.1", "5.0(side)": "5.0", "quad": "5.0", "6.1": "5.1", "7.1": "5.1"}  # what AAC has for others
BY_CHANNELS = {1: "mono", 2: "stereo", 6: "5.1"}  # for an order of channels that has no name of its own
LEAST_S = 0.04  # of audio; a mouth has one frame then
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
    number: int | None = None
    """Of the audio track in the file; None: the preferred one."""
    whole: bool = True
    """Whether nothing of it had to be repaired; packets of others are not copied."""
    notes: tuple[str, ...] = ()
    """What a user should know: which track it is, what was repaired."""
    later_s: float = 0.0
    """How much later it is heard than the file says; below 0 earlier, and its beginning is left out."""

    @property
    def length_s(self) -> float:
        """Length in seconds."""
        return len(self.for_model) / SAMPLE_RATE_HZ

    def copied(self, suffix: str = ".mp4") -> bool:
        """Whether a result with this suffix gets the packets of the file."""
        return self.whole and self.codec in COPYABLE[suffix]

    def track(self, end_s: float, suffix: str = ".mp4") -> join.AddAudio | None:
        """What `join.join` writes into a result of this length and with this suffix."""
        if self.path is None:
            return None
        if self.copied(suffix):
            return join.copied_audio(self.path, end_s, self.later_s, self.number)
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
        return audio_pieces(self.path, rate_hz, layout, self.number)


def later(pieces: Iterator[np.ndarray], n: int) -> Iterator[np.ndarray]:
    """Pieces [c, k] after n samples of silence, or without the first -n."""
    for piece in pieces:
        if n > 0:
            yield np.zeros((len(piece), n), piece.dtype)
        skipped = min(-n, piece.shape[1]) if n < 0 else 0
        n = min(0, n + skipped)
        if skipped < piece.shape[1]:
            yield piece[:, skipped:]


def driving_audio(
    path: Path, for_model: np.ndarray | None = None, max_s: float | None = None, track: int | None = None
) -> DrivingAudio:
    """The audio of a video (from its time zero on) or of an audio file (from its first sample on).

    Packets are copied where the result can hold them; otherwise the audio is encoded at its own rate and with its own
    channels, where AAC knows them, and from other codecs with loss at twice their bits.

    Args:
        path: the file.
        for_model: 16 kHz mono, if the caller has it already.
        max_s: reads no more than this of it for the model, in seconds.
        track: number of the audio track, from 1; None: the preferred one (media/tracks.py).

    Raises:
        Rejection: unreadable or no_audio.
    """
    tracks, _ = heard(path)
    if not tracks:
        raise Rejection("no_audio", _without_audio(path))
    chosen = tracks[0] if track is None else chosen_track(path, track)
    layout, wanted, channel_bits = _encoding(path, chosen.stream)
    damage = Damage()
    samples = for_model
    if samples is None:
        samples = read_channels(path, SAMPLE_RATE_HZ, "mono", max_s, track, damage)[0]
        damage.require_little(path)
    if len(samples) < LEAST_S * SAMPLE_RATE_HZ:
        length = f"only {len(samples) / SAMPLE_RATE_HZ:.3f} s of audio" if len(samples) else "no samples"
        raise Rejection("no_audio", f"{path.name} holds {length}")
    rate_hz = chosen.rate_hz if chosen.rate_hz in AAC_RATES_HZ else 48_000
    broken = chosen.parts.n_moved + sum(damage.repairs.values())
    counted = damage.repairs | {"clock_breaks": chosen.parts.n_moved}
    notes = [] if len(tracks) == 1 and chosen.number == 1 else [f"audio track {chosen.number} of {path.name} drives"]
    notes += [f"{path.name}: {repairs.sentence(counted)}"] if broken else []
    notes += [] if wanted == layout else [f"audio of {wanted} written as {layout}"]
    notes += [] if np.abs(samples).max() > 0 else [f"the audio of {path.name} is silent"]
    own = track if track is not None else (chosen.number if len(tracks) > 1 else None)
    return DrivingAudio(samples, path, chosen.codec, channel_bits, rate_hz, layout, own, not broken, tuple(notes))


def _without_audio(path: Path) -> str:
    with opened(path) as container:
        streams = container.streams.audio
        if any(stream.codec_context is not None for stream in streams):
            return f"{path.name} holds no samples"
        return f"{path.name} has " + ("audio of a codec that FFmpeg cannot decode" if streams else "no audio")


def _encoding(path: Path, index: int) -> tuple[str, str, int]:
    """How the audio is encoded if it must be: the layout, that of the file, and bits per second of a channel."""
    with opened(path) as container:
        stream = container.streams[index]
        assert isinstance(stream, av.AudioStream)
        codec, own = stream.codec_context, stream.codec_context.layout
        keep_layout(own)  # `codec.channels` would make another one
        bits = stream.bit_rate or 0
        channel_bits = join.AAC_BITS
        if codec.codec.lossy and not codec.codec.lossless and bits:
            channel_bits = min(channel_bits, max(LEAST_BITS, 2 * bits // max(own.nb_channels, 1)))
        layout = LIKE.get(own.name, own.name)
        if layout not in join.AAC_LAYOUTS:
            layout = BY_CHANNELS.get(own.nb_channels, "stereo")
        return layout, own.name if own.nb_channels != av.AudioLayout(layout).nb_channels else layout, channel_bits
