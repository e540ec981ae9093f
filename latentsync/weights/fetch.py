"""Download pretrained files, resume interrupted downloads, and verify files before they get their final name.

A download is written to `<name>.part`. If it is interrupted, the next call resumes from that file. The file gets its
final name once its size and sha256 have been verified. Proxies come from the environment (HTTPS_PROXY, NO_PROXY), the
token for the Hugging Face hub from HF_TOKEN, a mirror of the hub from HF_ENDPOINT; HF_HUB_OFFLINE=1 forbids downloads.
The token goes to the hub itself over https and to nobody else: no mirror, no target of a redirect, no plain http.
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
from urllib.parse import urlsplit

import requests
import urllib3
from tqdm import tqdm

from latentsync.ledger.files import replacing
from latentsync.weights import registry
from latentsync.weights.registry import File

ATTEMPTS = 5  # consecutive attempts without a new byte
TIMEOUT_S = (10, 60)  # to connect; to receive the next byte
CHUNK_BYTES = 1 << 20
MOST_BYTES = 1 << 34  # of a file whose size is neither in the registry nor announced; three times the largest known
RETRIED = {408, 429, 500, 502, 503, 504}


class Unavailable(ValueError):
    """The file cannot be downloaded; the message ends with how to get it by hand."""


def fetch(file: File, offline: bool = False, pause_s: float = 1.0) -> bool:
    """Download one file to its path; False if it already exists.

    Raises:
        Unavailable: the file cannot be downloaded.
        ValueError: it does not match its size or sha256, or there is no space for it.
    """
    path = file.path
    if path.exists():
        registry.require_intact(path)
        return False
    if file.url is None:
        raise Unavailable(f"{file.place} has no download address. {_by_hand(file, path)}")
    if offline or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise Unavailable(f"{file.place} is missing, and downloads are switched off. {_by_hand(file, path)}")
    if file.member is None:
        _download(file, path, pause_s)
        return True
    archive = _archive_of(file)
    if not archive.exists():
        _download(File(archive.name, file.url, sha256=file.archive_sha256), archive, pause_s)
    _extract(archive, file, path)
    return True


def drop_archives(files: tuple[File, ...]) -> None:
    """Delete downloaded archives after their members have been extracted."""
    for file in files:
        if file.member is not None:
            _archive_of(file).unlink(missing_ok=True)
            registry.recorded_at(_archive_of(file)).unlink(missing_ok=True)


def _archive_of(file: File) -> Path:
    """Path of the downloaded archive; its suffix keeps it apart from an archive of the user, which stays untouched."""
    assert file.url is not None
    return file.path.with_name(file.url.rsplit("/", 1)[1] + ".fetched")


def part_of(path: Path) -> Path:
    """Path of a file during its download."""
    return path.with_name(path.name + ".part")


def _download(file: File, path: Path, pause_s: float) -> None:
    part = part_of(path)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        sink = open(part, "ab")
    except OSError as error:
        raise ValueError(
            f"{part} cannot be written ({error.strerror}); set LATENTSYNC_WEIGHTS to a writable folder."
        ) from error
    with sink:
        try:
            fcntl.flock(sink, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"Another process is downloading {part}; wait until it has finished.") from None
        announced = _receive_all(file, path, sink, pause_s)
        sink.flush()
        try:
            os.fsync(sink.fileno())
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: a device
                raise
        _verify(file, path, part, file.sha256 or announced)
        os.replace(part, path)
        _etag_of(part).unlink(missing_ok=True)


def _receive_all(file: File, path: Path, sink: IO[bytes], pause_s: float) -> str | None:
    """Receive the whole file, with retries; returns the sha256 that the server announced, if any."""
    attempts = 0
    while True:
        before = sink.tell()
        try:
            return _receive(file, path, sink)
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            sink.seek(0, os.SEEK_END)
            attempts = 1 if sink.tell() > before else attempts + 1
            if attempts >= ATTEMPTS:
                raise Unavailable(
                    f"{_address(file)} does not respond ({_shortened(error)}); {sink.tell()} bytes are kept, so fetch "
                    f"again later, or check the network, HTTPS_PROXY and HF_ENDPOINT. {_by_hand(file, path)}"
                ) from error
            time.sleep(pause_s * 2 ** (attempts - 1))
        except requests.RequestException as error:  # an invalid address or a redirect loop
            raise Unavailable(
                f"{_address(file)} cannot be requested ({_shortened(error)}); check HF_ENDPOINT and HTTPS_PROXY. "
                f"{_by_hand(file, path)}"
            ) from error


def _receive(file: File, path: Path, sink: IO[bytes]) -> str | None:
    """Make one request for the bytes that are missing."""
    sink.seek(0, os.SEEK_END)
    received, etag = sink.tell(), _etag_of(part_of(path))
    headers = {"Accept-Encoding": "identity"}
    assert file.url is not None
    if received:
        headers["Range"] = f"bytes={received}-"
        if etag.exists():
            headers["If-Range"] = etag.read_text()
    url = _address(file)
    headers |= _authorization(url)
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code == 416 and response.headers.get("Content-Range") == f"bytes */{received}":
            return _announced_sha256(response)  # the file is complete: only the rename is missing
        if response.status_code == 416 or (response.status_code == 206 and _first_byte(response) != received):
            sink.truncate(0)  # the part is longer than the file, or belongs to another one: start over
            raise requests.ConnectionError("the requested range is not available")
        if response.status_code in RETRIED:
            raise requests.ConnectionError(f"status {response.status_code}")
        _require_file(response, file, path)
        if response.status_code == 200 and received:
            sink.truncate(0)
            received = 0
        length = response.headers.get("Content-Length")
        total = received + int(length) if length else file.size
        if file.size is not None and total != file.size:
            raise ValueError(f"{url} offers {total} bytes instead of {file.size}. {_by_hand(file, path)}")
        _require_space(path, (total or 0) - received)
        if response.headers.get("ETag", "").startswith('"'):  # a strong ETag identifies exactly these bytes
            etag.write_text(response.headers["ETag"])
        _write(response, sink, path, total)
        if sink.tell() > (total or MOST_BYTES):
            sink.truncate(0)
            etag.unlink(missing_ok=True)
            raise ValueError(
                f"{url} sends more than the {total or MOST_BYTES} bytes of the file; nothing was kept. "
                f"{_by_hand(file, path)}"
            )
        if total is not None and sink.tell() != total:
            raise requests.ConnectionError(f"interrupted at {sink.tell()} of {total} bytes")
        return _announced_sha256(response)


def _authorization(url: str) -> dict[str, str]:
    """The header with the hub's token, if this is the hub; requests drops it in a redirect to another host."""
    token, hub = os.environ.get("HF_TOKEN"), urlsplit(registry.HUB)
    asked = urlsplit(url)
    is_hub = (asked.scheme, asked.netloc) == ("https", hub.netloc)
    return {"Authorization": f"Bearer {token}"} if token and is_hub else {}


def _write(response: requests.Response, sink: IO[bytes], path: Path, total: int | None) -> None:
    bar = tqdm(total=total, initial=sink.tell(), desc=path.name, unit="B", unit_scale=True, disable=None)
    with bar:
        while chunk := response.raw.read1(CHUNK_BYTES):  # iter_content would drop what was received before an error
            try:
                sink.write(chunk)
                sink.flush()
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise ValueError(
                        f"No space left for {part_of(path)}; what was received is kept, so free some space, or set "
                        "LATENTSYNC_WEIGHTS to a larger disk, and fetch again."
                    ) from error
                raise
            bar.update(len(chunk))
            if sink.tell() > (total or MOST_BYTES):  # a server that announces no length may send for ever
                return


def _require_file(response: requests.Response, file: File, path: Path) -> None:
    if response.status_code in (401, 403):
        raise Unavailable(
            f"{response.url} requires a login (status {response.status_code}); accept its terms in a browser and set "
            f"HF_TOKEN. {_by_hand(file, path)}"
        )
    if response.status_code not in (200, 206):
        raise Unavailable(f"{response.url} does not exist (status {response.status_code}). {_by_hand(file, path)}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise Unavailable(
            f"{response.url} returns a web page instead of the file (a login, a quota or a proxy). "
            f"{_by_hand(file, path)}"
        )


def _require_space(path: Path, wanted: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if wanted > free:
        raise ValueError(
            f"{path.name} needs {wanted / 1e9:.2f} GB more, but {path.parent} has {free / 1e9:.2f} GB free; free some "
            "space, or set LATENTSYNC_WEIGHTS to a larger disk."
        )


def _verify(file: File, path: Path, part: Path, expected: str | None) -> None:
    """Compare the sha256, or record it if none is known."""
    actual = registry.sha256_of(part)
    if expected is not None and not actual.startswith(expected):
        part.unlink()
        _etag_of(part).unlink(missing_ok=True)
        raise ValueError(
            f"{_address(file)} sent a file with sha256 {actual} instead of {expected}; it was not kept. Fetch again; "
            f"if the sha256 is wrong again, the file has changed there. {_by_hand(file, path)}"
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
        raise ValueError(f"{archive} is not a zip archive ({error}); delete it and fetch again.") from error


def _announced_sha256(response: requests.Response) -> str | None:
    """The sha256 that the hub sends in a header of its redirect to a large file."""
    for step in [*response.history, response]:
        etag = step.headers.get("X-Linked-Etag", "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", etag):
            return etag
    return None


def _first_byte(response: requests.Response) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _etag_of(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _by_hand(file: File, path: Path) -> str:
    what = f" (sha256 {file.sha256})" if file.sha256 else ""
    if file.url is None:
        source = "get it from its publisher"
    else:
        source = f"extract {file.member} from {_address(file)}" if file.member else f"download {_address(file)}"
    return f"By hand: {source} and save it as {path}{what}."


def _address(file: File) -> str:
    """The URL of the file, at the mirror of the hub if one is set."""
    assert file.url is not None
    mirror = os.environ.get("HF_ENDPOINT") or registry.HUB
    on_hub = file.url.startswith(registry.HUB)
    return mirror.rstrip("/") + file.url.removeprefix(registry.HUB) if on_hub else file.url


def _shortened(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))[:120]
