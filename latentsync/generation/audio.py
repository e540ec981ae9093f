"""The sound that drives a video: what the model hears (16 kHz mono) and what is written beside the picture."""

from functools import partial
from pathlib import Path

import av
import numpy as np

from latentsync.generation.video import Sound
from latentsync.ledger.rows import Rejection
from latentsync.media.audio import AVERAGED, read_channels
from latentsync.media.probe import opened
from latentsync.timing import SAMPLE_RATE_HZ

COPYABLE = frozenset("aac mp3 ac3 eac3 opus flac alac".split())  # codecs of sound that may stand in an mp4 as they are
AAC_RATES_HZ = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


def sound_of(path: Path, own: bool = False, heard: np.ndarray | None = None, max_s: float | None = None) -> Sound:
    """The sound of a video (from its time zero on) or of a sound file (from its first sample on).

    Args:
        path: the file.
        own: it is the very video whose mouth is redrawn, so its packets are copied where an mp4 can hold them.
            Otherwise it is written anew, in stereo where it has more than one channel.
        heard: 16 kHz mono, where it is at hand already.
        max_s: no more than this is read of a video's sound to write it anew.

    Raises:
        Rejection: unreadable or no_audio.
    """
    with opened(path) as container:
        pictures = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not container.streams.audio:
            raise Rejection("no_audio", f"{path.name} has no sound")
        codec = container.streams.audio[0].codec_context
        name, rate_hz = codec.codec.canonical_name, codec.sample_rate  # the decoder of mp3 is called mp3float
        layout = "stereo" if codec.channels > 1 else "mono"
    read = partial(read_channels, max_s=max_s) if pictures else _read_sound_file
    heard = read(path, SAMPLE_RATE_HZ, "mono")[0] if heard is None else heard
    if own and name in COPYABLE:
        return Sound(heard, copied_from=path)
    rate_hz = rate_hz if rate_hz in AAC_RATES_HZ else 48_000
    return Sound(heard, read(path, rate_hz, layout), rate_hz)


def _read_sound_file(path: Path, sample_rate_hz: int, layout: str) -> np.ndarray:
    resampler = av.AudioResampler("fltp", layout, sample_rate_hz, options=AVERAGED)
    with opened(path) as container:
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += [part for part in resampler.resample(None) if part is not None]
        parts = [frame.to_ndarray().copy() for frame in frames]
    nothing = np.zeros((av.AudioLayout(layout).nb_channels, 0), np.float32)
    return np.concatenate(parts or [nothing], axis=1).clip(-1, 1)
