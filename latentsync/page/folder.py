"""The page's own folder: uploads, a folder for each job, examples. Nothing outside it is ever read for a user.

It is Gradio's cache, too, so that files are served from where they are and never copied. Whoever knows the name of a
file may read it; names are 128 random bits (jobs) or a hash of the content (uploads).
"""

import errno
import fcntl
import re
import secrets
import shutil
import time
from pathlib import Path

MARKER = ".latentsync-page"
EXAMPLES = "examples"
LEAST_FREE = 2 * 10**9  # bytes on the disk, for a new job
GRACE_S = 600.0
NO_ROOM = "The disk of this page is full; try again later."
_JOB = re.compile(r"[0-9a-f]{32}")


class Folder:
    """A folder that belongs to one running page.

    Raises:
        ValueError: another page uses it, or it holds files that are not a page's: they would be deleted in time.
    """

    def __init__(self, path: Path):
        self.path = path.resolve()
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"--folder {path} is a file; give a folder.")
        marker = self.path / MARKER
        if self.path.is_dir() and any(self.path.iterdir()) and not marker.is_file():
            raise ValueError(
                f"--folder {path} holds files that are not of a page, and old files of that folder are deleted; "
                "give an empty or a new folder."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        self.lock = open(marker, "a+", encoding="ascii")  # noqa: SIM115  # held as long as the page runs
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"--folder {path} is used by a page that runs already; give another folder.") from None
        self.lock.seek(0)
        self.secret = self.lock.read().strip()
        if not self.secret:
            self.secret = secrets.token_hex(16)
            self.lock.write(self.secret)
            self.lock.flush()

    def new_job(self) -> Path:
        """An empty folder for a job; its name cannot be guessed."""
        path = self.path / secrets.token_hex(16)
        path.mkdir()
        return path

    def new_upload(self) -> Path:
        """An empty folder that is deleted as uploads are."""
        path = self.path / f"faces-{secrets.token_hex(16)}"
        path.mkdir()
        return path

    def jobs(self) -> list[Path]:
        """The folders of jobs."""
        return [path for path in self.path.iterdir() if _JOB.fullmatch(path.name)]

    def remove_older(self, age_s: float) -> None:
        """Delete uploads that were written longer ago than `age_s`; jobs and examples are not touched.

        On a disk that is nearly full, the oldest uploads go sooner: those that no job took within GRACE_S.
        """
        kept = {MARKER, EXAMPLES, *(path.name for path in self.jobs())}
        uploads = sorted((_newest_s(path), path) for path in self.path.iterdir() if path.name not in kept)
        for newest_s, path in uploads:
            waited_s = time.time() - newest_s
            if waited_s > age_s or (waited_s > GRACE_S and shutil.disk_usage(self.path).free < LEAST_FREE):
                remove(path)

    def require_room(self) -> None:
        """Raises ValueError where the disk is nearly full: no job could end well."""
        if shutil.disk_usage(self.path).free < LEAST_FREE:
            raise ValueError(NO_ROOM)

    def close(self) -> None:
        """Let another page use the folder."""
        self.lock.close()


def in_words_of_disk(error: OSError) -> str:
    """The sentence that users see for a disk error; the error's own text contains paths of the server."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return NO_ROOM if full else f"The server's disk failed: {error.strerror}."


def _newest_s(path: Path) -> float:
    """When anything in it was last written; infinite where it goes while it is looked at, as an upload that ends."""
    try:
        return max(one.lstat().st_mtime for one in [path, *path.rglob("*")])
    except FileNotFoundError:
        return float("inf")


def remove(path: Path) -> None:
    """Delete a file or a folder with its content; what is gone already is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
