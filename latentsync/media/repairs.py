"""What is repaired in a file that is read although something is wrong with it: the kinds, and how they are said.

A row of a source and the result of `lip_sync` count them: {kind: number}.
"""

from collections import Counter
from collections.abc import Mapping

Repairs = dict[str, int]

KINDS = {
    "clock_breaks": "breaks of the clock closed",
    "stray_times": "frames with a wrong time left out",
    "close_frames": "frames too close to the one before left out",
    "empty_packets": "empty packets shown as the frame before",
    "lost_frames": "damaged frames replaced by the frame before or left out",
    "concealed_frames": "frames shown although they are damaged",
    "bad_audio": "damaged pieces of audio replaced by silence",
    "rate_changes": "changes of the audio's rate or channels followed",
    "long_silences": "gaps of the audio filled with silence",
}


def added(*counts: Mapping[str, int]) -> Repairs:
    """The sums of several counts, without zeros."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return {kind: n for kind, n in total.items() if n}


def sentence(repairs: Mapping[str, int]) -> str:
    """The repairs in words, empty if there are none."""
    return ", ".join(f"{KINDS[kind]}: {n}" for kind, n in repairs.items() if n)
