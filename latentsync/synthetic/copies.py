"""Videos made from finished ones: exact copies, and near duplicates that are re-encoded and rescaled."""

import shutil
from pathlib import Path

import cv2

from latentsync.ledger.files import replacing
from latentsync.media.audio import read_channels
from latentsync.media.read import read_frames
from latentsync.media.write import VideoWriter
from latentsync.synthetic.plan import NEAR_DUPLICATE, Take

# Measured on ten talkers at scale 0.8 and crf 20: quality 47 to 58, always below the 61 to 67 of the original, so that
# select_clips keeps the original; both hashes within 5 bits of it.
CRF = 21
AUDIO_RATE_HZ = 48_000


def make_copy(take: Take, folder: Path) -> None:
    """Write a copy or near duplicate below `folder` from its finished original."""
    made_from = take.made_from
    assert made_from is not None
    original = folder / made_from
    if take.fault == NEAR_DUPLICATE:
        _reencode(take, original, folder / take.path)
    else:
        with replacing(folder / take.path) as temporary:
            shutil.copyfile(original, temporary)


def _reencode(take: Take, original: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    audio = read_channels(original, AUDIO_RATE_HZ, "mono")[0]
    with VideoWriter(
        target,
        take.fps,
        take.width,
        take.height,
        crf=CRF,
        preset="veryfast",
        keyint=50,
        audio=audio,
        audio_rate_hz=AUDIO_RATE_HZ,
    ) as writer:
        for _, frame in read_frames(original):
            writer.write(cv2.resize(frame, (take.width, take.height), interpolation=cv2.INTER_AREA))
