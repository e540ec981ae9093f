"""Videos made from other videos: the same bytes under another name, and the same pictures encoded and scaled anew."""

import shutil
from pathlib import Path

import cv2

from latentsync.ledger.files import replacing
from latentsync.media.audio import read_channels
from latentsync.media.read import read_frames
from latentsync.media.write import VideoWriter
from latentsync.synthetic.plan import AGAIN, Take

# Measured on ten talkers at 0.8 and crf 20: quality 47 to 58 and always below the original's 61 to 67, so that the
# original is the one to keep; both hashes within 5 bits of it.
AGAIN_CRF = 21
AUDIO_RATE_HZ = 48_000


def make_again(take: Take, folder: Path) -> None:
    """Write a video below `folder` from the finished one that it repeats."""
    original = folder / take.made_from
    if take.fault == AGAIN:
        _encode(take, original, folder / take.path)
    else:
        with replacing(folder / take.path) as temporary:
            shutil.copyfile(original, temporary)


def _encode(take: Take, original: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    sound = read_channels(original, AUDIO_RATE_HZ, "mono")[0]
    with VideoWriter(
        target,
        take.fps,
        take.width,
        take.height,
        crf=AGAIN_CRF,
        preset="veryfast",
        keyint=50,
        audio=sound,
        audio_rate_hz=AUDIO_RATE_HZ,
    ) as writer:
        for _, frame in read_frames(original):
            writer.write(cv2.resize(frame, (take.width, take.height), interpolation=cv2.INTER_AREA))
