"""Every conversion between seconds, ticks, source frames, samples, mel columns and Whisper rows.

Convention
    Time zero is the presentation time of the first displayed video frame after edit lists.
    Tick k lies at k / 25 s and shows the source frame with the nearest presentation time, ties to the earlier;
    the last tick lies before the end of the last frame. Sample n lies at n / 16000 s.
    All ranges are half-open. A frame of a mel window, of a clip or of an offset is a tick (1/25 s); a frame of a video
    (`n_frames`, `ticks_to_frames`) is one of its own frames.
"""

import numpy as np


def _exact_div(total: int, parts: int) -> int:
    assert total % parts == 0, (total, parts)
    return total // parts


TICKS_PER_S = 25
SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_TICK = _exact_div(SAMPLE_RATE_HZ, TICKS_PER_S)  # 640
MEL_HOP_SAMPLES = 200  # hop of the SyncNet mel
MEL_COLUMNS_PER_S = _exact_div(SAMPLE_RATE_HZ, MEL_HOP_SAMPLES)  # 80
WHISPER_ROW_SAMPLES = 320  # log-mel hop 160, halved by Whisper's second convolution
WHISPER_ROWS_PER_S = _exact_div(SAMPLE_RATE_HZ, WHISPER_ROW_SAMPLES)  # 50
WHISPER_ROWS_BEFORE, WHISPER_ROWS_AFTER = 4, 6  # rows c-4 .. c+5 around the centre row c

_US_PER_S = 1_000_000
_US_PER_TICK = _exact_div(_US_PER_S, TICKS_PER_S)


def n_ticks(end_s: float) -> int:
    """Number of ticks before `end_s`, at least one. Times within a microsecond are equal: time bases round."""
    return max(1, -(-_microseconds(end_s) // _US_PER_TICK))


def ticks_to_frames(times_s: np.ndarray, end_s: float) -> np.ndarray:
    """The frame that each tick shows.

    Args:
        times_s: float64 [n], strictly increasing presentation times relative to time zero, so times_s[0] == 0.
        end_s: end of the last frame, relative to time zero.

    Returns:
        int32 [n_ticks], indices in presentation order, never decreasing. Two distances that differ by at most a
        microsecond are a tie, and a tie goes to the earlier frame.
    """
    times = np.rint(np.asarray(times_s, np.float64) * _US_PER_S).astype(np.int64)
    assert times.ndim == 1 and len(times) > 0 and times[0] == 0, times_s
    ticks = np.arange(n_ticks(end_s), dtype=np.int64) * _US_PER_TICK
    later = np.searchsorted(times, ticks, side="left").clip(max=len(times) - 1)
    earlier = (later - 1).clip(min=0)
    nearer = np.abs(times[later] - ticks) + 1 < np.abs(ticks - times[earlier])
    return np.where(nearer | (earlier == later), later, earlier).astype(np.int32)


def _microseconds(time_s: float) -> int:
    return int(round(float(time_s) * _US_PER_S))


def seconds(ticks: int) -> float:
    """A number of ticks in seconds: the length of a range, or the time of a tick."""
    return ticks / TICKS_PER_S


def ticks_in(length_s: float) -> int:
    """A length in seconds as whole ticks, at least one."""
    return max(1, round(length_s * TICKS_PER_S))


def evenly_spaced(n: int, count: int) -> list[int]:
    """At most `count` of the indices 0 .. n-1, evenly spaced, both ends included; none where n is 0."""
    return np.rint(np.linspace(0, n - 1, min(count, n))).astype(int).tolist()


def pieces(start: int, stop: int, length: int) -> list[tuple[int, int]]:
    """Cut [start, stop) into pieces of `length`; the rest joins the last, which is thus shorter than twice `length`."""
    assert start < stop and length > 0, (start, stop, length)
    starts = list(range(start, max(start + 1, stop - length + 1), length))
    return list(zip(starts, [*starts[1:], stop], strict=True))


def samples_of(start: int, stop: int) -> tuple[int, int]:
    """The audio samples of the ticks [start, stop)."""
    return start * SAMPLES_PER_TICK, stop * SAMPLES_PER_TICK


def shifted_samples_of(start: int, stop: int, offset_frames: int) -> tuple[int, int]:
    """The samples that belong to the frames of the ticks [start, stop): audio is taken at t - offset_frames / 25.

    offset_frames > 0 means that the video is late against the audio. The range may begin before 0 or end after the
    audio; samples outside are silence.
    """
    return samples_of(start - offset_frames, stop - offset_frames)


def mel_start(frame: int) -> int:
    """First SyncNet mel column of a window that starts at a frame: int(80 * frame / 25), as published."""
    return MEL_COLUMNS_PER_S * frame // TICKS_PER_S


def mel_width(frames: int) -> int:
    """Mel columns of a window of so many frames: ceil(frames / 5 * 16), 52 for 16."""
    return -(-frames * 16 // 5)


def whisper_rows(times_s: np.ndarray) -> np.ndarray:
    """The Whisper row nearest to each time, ties to the later: float64 [n] -> int64 [n].

    At tick k it is row 2 k, as published (int(i * 50 / 25)). The published code knows no other frame rate:
    it re-encodes every video to 25 fps. At other rates the nearest row is at most 10 ms away; rounding down, as the
    published formula would, reads the audio up to 20 ms early. Rounding to a microsecond first keeps ties exact.
    """
    return np.floor(np.round(np.asarray(times_s) * WHISPER_ROWS_PER_S, 6) + 0.5).astype(np.int64)


def whisper_window(centres: np.ndarray, n_rows: int) -> np.ndarray:
    """Rows around each centre row, clamped at both ends of the audio: int64 [n] -> int64 [n, 10]."""
    offsets = np.arange(-WHISPER_ROWS_BEFORE, WHISPER_ROWS_AFTER)
    return (np.asarray(centres, np.int64)[:, None] + offsets).clip(0, n_rows - 1)
