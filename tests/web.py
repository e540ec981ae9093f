"""A web server that misbehaves on request, for tests of downloads."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """What a path is answered with."""

    content: bytes = b""
    status: int = 200
    broken_off: list[int] = field(default_factory=list)  # bytes after which each of the next answers breaks off
    busy: int = 0  # answers of status 503 before the first good one
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    redirect: str | None = None
    length: bool = True  # whether the length is announced; otherwise the end of the connection is the end

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.content).hexdigest()}"'


class Server(ThreadingHTTPServer):
    """Serves `pages` by path, and keeps what it was asked: (path, headers)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        page = self.server.pages.get(self.path.split("?")[0], Page(status=404, content=b"no such page"))
        self.close_connection = True
        if page.busy:
            page.busy -= 1
            self._answer(503, b"", {})
            return
        if page.redirect:
            self._answer(302, b"", {"Location": page.redirect} | page.headers)
            return
        wanted = self.headers.get("Range") if page.ranges else None
        if wanted and self.headers.get("If-Range") in (None, page.etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            total = len(page.content)
            if start >= total:
                self._answer(416, b"", {"Content-Range": f"bytes */{total}"})
            else:
                headers = {"Content-Range": f"bytes {start}-{total - 1}/{total}", "ETag": page.etag} | page.headers
                self._answer(206, page.content[start:], headers, page)
            return
        self._answer(page.status, page.content, {"ETag": page.etag} | page.headers, page)

    def _answer(self, status, body, headers, page=None):
        self.send_response(status)
        if page is None or page.length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        cut = page.broken_off.pop(0) if page is not None and page.broken_off else len(body)
        with suppress(ConnectionError):  # the other side has heard enough
            self.wfile.write(body[:cut])


@contextmanager
def serve() -> Iterator[Server]:
    """A server at work; its address is `url`."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
