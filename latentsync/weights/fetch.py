"""Download pretrained files: resumed where they broke off, checked before they get their name, never half there.

While it comes, a file is called `<name>.part`; a kill or a broken line leaves that, and the next call goes on from it.
It gets its name after its size and sha256 were compared. Proxies are taken from the environment (HTTPS_PROXY,
NO_PROXY), the token for the hub from HF_TOKEN, a mirror of the hub from HF_ENDPOINT; HF_HUB_OFFLINE=1 forbids the net.
"""

import errno
import fcntl
import os
import re
import shutil
import time
import zipfile
from pathlib import Path
from typing import IO

import requests
import urllib3
from tqdm import tqdm

from latentsync.ledger.files import replacing
from latentsync.weights import registry
from latentsync.weights.registry import File

ATTEMPTS = 5  # in a row without a single new byte
TIMEOUT_S = (10, 60)  # to connect; without a byte
CHUNK_BYTES = 1 << 20
RETRIED = {408, 429, 500, 502, 503, 504}


class Unavailable(ValueError):
    """The file cannot be had from here; the sentence ends with where to put it by hand."""


def fetch(file: File, offline: bool = False, pause_s: float = 1.0) -> bool:
    """Bring one file to its place; False where it was there already.

    Raises:
        ValueError: it cannot be had (Unavailable), is not what it should be, or there is no space for it.
    """
    path = file.path
    if path.exists():
        registry.require_intact(path)
        return False
    if file.url is None:
        raise Unavailable(f"{file.place} has no address to be fetched from. {_by_hand(file, path)}")
    if offline or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise Unavailable(f"{file.place} is missing, and the net is switched off. {_by_hand(file, path)}")
    if file.member is None:
        _download(file, path, pause_s)
        return True
    archive = _archive_of(file)
    if not archive.exists():
        _download(File(archive.name, file.url, sha256=file.archive_sha256), archive, pause_s)
    _extract(archive, file, path)
    return True


def drop_archives(files: tuple[File, ...]) -> None:
    """Delete the archives that fetched members came out of, which nothing needs any more."""
    for file in files:
        if file.member is not None:
            _archive_of(file).unlink(missing_ok=True)
            registry.recorded_at(_archive_of(file)).unlink(missing_ok=True)


def _archive_of(file: File) -> Path:
    """Under a name of ours, so that an archive that somebody put there is neither used nor deleted."""
    return file.path.with_name(file.url.rsplit("/", 1)[1] + ".fetched")


def part_of(path: Path) -> Path:
    """The name of a file while it comes."""
    return path.with_name(path.name + ".part")


def _download(file: File, path: Path, pause_s: float) -> None:
    part = part_of(path)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        sink = open(part, "ab")
    except OSError as error:
        raise ValueError(
            f"{part} cannot be written ({error.strerror}); set LATENTSYNC_WEIGHTS to a folder that can."
        ) from error
    with sink:
        try:
            fcntl.flock(sink, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"Another fetch is at work on {part}; wait for it.") from None
        told = _receive_all(file, path, sink, pause_s)
        sink.flush()
        try:
            os.fsync(sink.fileno())
        except OSError as error:
            if error.errno != errno.EINVAL:  # a device
                raise
        _check(file, path, part, file.sha256 or told)
        os.replace(part, path)
        _etag_of(part).unlink(missing_ok=True)


def _receive_all(file: File, path: Path, sink: IO[bytes], pause_s: float) -> str | None:
    """All bytes of the file, over as many broken lines as it takes; the sha256 that the server told, if any."""
    tries = 0
    while True:
        before = sink.tell()
        try:
            return _receive(file, path, sink)
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            sink.seek(0, os.SEEK_END)
            tries = 1 if sink.tell() > before else tries + 1
            if tries >= ATTEMPTS:
                raise Unavailable(
                    f"{_address(file)} does not answer ({_first_words(error)}); {sink.tell()} bytes are kept, so fetch "
                    f"again later, or check the network, HTTPS_PROXY and HF_ENDPOINT. {_by_hand(file, path)}"
                ) from error
            time.sleep(pause_s * 2 ** (tries - 1))
        except requests.RequestException as error:  # no address, or one that leads in circles
            raise Unavailable(
                f"{_address(file)} cannot be asked for ({_first_words(error)}); check HF_ENDPOINT and HTTPS_PROXY. "
                f"{_by_hand(file, path)}"
            ) from error


def _receive(file: File, path: Path, sink: IO[bytes]) -> str | None:
    """One request, from where the file stands."""
    sink.seek(0, os.SEEK_END)
    have, etag = sink.tell(), _etag_of(part_of(path))
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if etag.exists():
            headers["If-Range"] = etag.read_text()
    if file.url.startswith(registry.HUB) and os.environ.get("HF_TOKEN"):
        headers["Authorization"] = f"Bearer {os.environ['HF_TOKEN']}"
    url = _address(file)
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
        if answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{have}":
            return _told_sha256(answer)  # all of it is here: only the renaming was missing
        if answer.status_code == 416 or (answer.status_code == 206 and _first_byte(answer) != have):
            sink.truncate(0)  # what is there is longer than the file, or of another one: begin again
            raise requests.ConnectionError("the range is not to be had")
        if answer.status_code in RETRIED:
            raise requests.ConnectionError(f"status {answer.status_code}")
        _require_file(answer, file, path)
        if answer.status_code == 200 and have:
            sink.truncate(0)
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else file.size
        if file.size is not None and total != file.size:
            raise ValueError(f"{url} offers {total} bytes instead of {file.size}: another file. {_by_hand(file, path)}")
        _require_space(path, (total or 0) - have)
        if answer.headers.get("ETag", "").startswith('"'):  # a strong one names these very bytes
            etag.write_text(answer.headers["ETag"])
        _write(answer, sink, path, total)
        if total is not None and sink.tell() != total:
            raise requests.ConnectionError(f"broken off at {sink.tell()} of {total} bytes")
        return _told_sha256(answer)


def _write(answer: requests.Response, sink: IO[bytes], path: Path, total: int | None) -> None:
    bar = tqdm(total=total, initial=sink.tell(), desc=path.name, unit="B", unit_scale=True, disable=None)
    with bar:
        while chunk := answer.raw.read1(CHUNK_BYTES):  # what came is kept; iter_content would drop it on a break
            try:
                sink.write(chunk)
                sink.flush()
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise ValueError(
                        f"No space left for {part_of(path)}; what came is kept, so make room there, or set "
                        "LATENTSYNC_WEIGHTS to a larger disk, and fetch again."
                    ) from error
                raise
            bar.update(len(chunk))


def _require_file(answer: requests.Response, file: File, path: Path) -> None:
    if answer.status_code in (401, 403):
        raise Unavailable(
            f"{answer.url} asks who you are (status {answer.status_code}); accept its terms in a browser and set "
            f"HF_TOKEN. {_by_hand(file, path)}"
        )
    if answer.status_code not in (200, 206):
        raise Unavailable(f"{answer.url} is not there (status {answer.status_code}). {_by_hand(file, path)}")
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise Unavailable(
            f"{answer.url} answers with a web page instead of the file (a login, a quota or a proxy). "
            f"{_by_hand(file, path)}"
        )


def _require_space(path: Path, wanted: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if wanted > free:
        raise ValueError(
            f"{path.name} needs {wanted / 1e9:.2f} GB more, but {path.parent} has {free / 1e9:.2f} GB free; make room, "
            "or set LATENTSYNC_WEIGHTS to a larger disk."
        )


def _check(file: File, path: Path, part: Path, expected: str | None) -> None:
    """Compare the sha256, or record it where none is known."""
    actual = registry.sha256_of(part)
    if expected is not None and not actual.startswith(expected):
        part.unlink()
        _etag_of(part).unlink(missing_ok=True)
        raise ValueError(
            f"{_address(file)} gave a file with sha256 {actual} instead of {expected}; it was not kept. Fetch again; "
            f"if it happens again, the file was changed there. {_by_hand(file, path)}"
        )
    if file.sha256 is None and file.member is None:
        registry.recorded_at(path).write_text(f"{actual}  {path.name}\n")


def _extract(archive: Path, file: File, path: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as packed:
            names = [name for name in packed.namelist() if name.rsplit("/", 1)[-1] == file.member]
            if len(names) != 1:
                raise ValueError(f"{archive} has no {file.member}; delete it and fetch again.")
            with replacing(path) as temporary:
                with packed.open(names[0]) as source, open(temporary, "wb") as sink:
                    shutil.copyfileobj(source, sink, CHUNK_BYTES)
                actual = registry.sha256_of(temporary)
                if file.sha256 is not None and not actual.startswith(file.sha256):
                    raise ValueError(f"{file.member} of {archive} has sha256 {actual} instead of {file.sha256}.")
                if file.sha256 is None:
                    registry.recorded_at(path).write_text(f"{actual}  {path.name}\n")
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is no zip archive ({error}); delete it and fetch again.") from error


def _told_sha256(answer: requests.Response) -> str | None:
    """The hub says the sha256 of a large file on the way to it."""
    for step in [*answer.history, answer]:
        told = step.headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", told):
            return told
    return None


def _first_byte(answer: requests.Response) -> int | None:
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _etag_of(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _by_hand(file: File, path: Path) -> str:
    what = f" (sha256 {file.sha256})" if file.sha256 else ""
    if file.url is None:
        source = "get it from its source"
    else:
        source = f"take {file.member} out of {_address(file)}" if file.member else f"download {_address(file)}"
    return f"By hand: {source} and save it as {path}{what}."


def _address(file: File) -> str:
    """Its url, at the mirror of the hub where one is set."""
    mirror = os.environ.get("HF_ENDPOINT") or registry.HUB
    on_hub = file.url.startswith(registry.HUB)
    return mirror.rstrip("/") + file.url.removeprefix(registry.HUB) if on_hub else file.url


def _first_words(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))[:120]
