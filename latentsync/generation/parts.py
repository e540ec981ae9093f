"""A long video is written in parts of some seconds, so that a stopped job continues behind its last finished part.

Parts lie in the folder `<out>.parts`, each named by the key of everything that decides its pixels, and are joined by
copying packets. A job that was stopped and continued therefore gives the same bytes as one that was not.
"""

import re
from pathlib import Path

PART_FRAMES = 250  # a multiple of VideoWriter's key frame distance, so parts cost no extra key frames
_NAME = re.compile(r"[0-9a-f]{16}-\d{6}\.\w+|joined\.\w+")


class Parts:
    """The parts of one output.

    Args:
        out: the file that they will be joined to.
        key: 16 hex digits over everything that decides the frames.
        n_frames: of the whole result.
    """

    def __init__(self, out: Path, key: str, n_frames: int):
        self.folder = out.with_name(f"{out.name}.parts")
        self.key, self.suffix = key, out.suffix.lower()
        self.edges = [*range(0, n_frames, PART_FRAMES), n_frames]

    @property
    def files(self) -> list[Path]:
        """All parts, in order, finished or not."""
        return [self.folder / f"{self.key}-{index:06d}{self.suffix}" for index in range(len(self.edges) - 1)]

    @property
    def joined(self) -> Path:
        """Where they are joined, before the result is moved to its place."""
        return self.folder / f"joined{self.suffix}"

    @property
    def n_done(self) -> int:
        """How many parts are finished; a part appears whole or not at all, and in order."""
        return next((index for index, file in enumerate(self.files) if not file.exists()), len(self.files))

    def missing(self) -> list[tuple[Path, int, int]]:
        """(file, first frame, end) of each part that is not finished."""
        return list(zip(self.files, self.edges, self.edges[1:], strict=False))[self.n_done :]

    def remove_empty(self) -> None:
        """Delete the folder of a job that stopped before its first part was finished."""
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def remove(self) -> None:
        """Delete all parts, those of other settings as well; anything else in the folder stays, and so does it then."""
        for file in self.folder.iterdir():
            if _NAME.fullmatch(file.name.removeprefix(".").replace(".part.", ".")):
                file.unlink()
        self.remove_empty()
