"""The real page in a process of its own, and a browser, for tests."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentsync.media.write import write_flac
from tests.videos import head, write_video

CHROMIUM = "/usr/bin/chromium"
FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --use-fake-ui-for-media-stream --use-fake-device-for-media-stream""".split()


class Server:
    """A page at work: its address, its folder, and what it has printed."""

    def __init__(self, folder: Path, *arguments: str, weights_folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.folder, self.log_file = f"http://127.0.0.1:{port}/", folder / "page", folder / "log.txt"
        command = [sys.executable, "-m", "latentsync", "app", f"--port={port}", f"--folder={self.folder}", *arguments]
        env = os.environ | {"LATENTSYNC_WEIGHTS": str(weights_folder), "PYTHONPATH": str(Path(__file__).parents[2])}
        self.log_stream = self.log_file.open("w")
        start_s = time.perf_counter()
        output: Any = {"stdout": self.log_stream, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command, cwd=folder, env=env, **output)
        self.wait_for("the page is at", 120)
        self.start_s = time.perf_counter() - start_s

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def wait_for(self, words: str, seconds: float = 60) -> float:
        """Wait until the log says something; returns how long that took."""
        start_s = time.perf_counter()
        while words not in self.log:
            assert self.process.poll() is None, self.log
            assert time.perf_counter() - start_s < seconds, self.log
            time.sleep(0.02)
        return time.perf_counter() - start_s

    def jobs(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if re.fullmatch("[0-9a-f]{32}", path.name)]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log_stream.close()


@contextmanager
def browser() -> Iterator[Any]:
    """Debian's chromium; tests are skipped without it unless REQUIRE_CHROMIUM=1."""
    if shutil.which(CHROMIUM) is None:
        message = f"{CHROMIUM} is missing"
        pytest.fail(message) if os.environ.get("REQUIRE_CHROMIUM") == "1" else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


def tone(n: int) -> np.ndarray:
    """A tone of n samples at 16 kHz that grows and fades, float32."""
    times = np.arange(n) / 16_000
    return (0.3 * np.sin(2 * np.pi * 300 * times) * np.abs(np.sin(5 * times))).astype(np.float32)


def make_media(folder: Path) -> Path:
    """Videos and audio of different kinds."""
    write_video(folder / "short.mp4", 25, images=head, size=(208, 176))
    write_video(folder / "wide.mp4", 25, images=head, size=(240, 176))
    write_video(folder / "long.mp4", 250, images=lambda i, w, h: head(abs(i % 200 - 100), w, h), size=(208, 176))
    write_video(folder / "sound.mp4", 0, video_track=False, audio=tone(44_100))
    write_video(folder / "cut.mp4", 25, images=head, size=(208, 176))
    (folder / "cut.mp4").write_bytes((folder / "cut.mp4").read_bytes()[:2000])
    write_flac(folder / "short.flac", tone(16_000))
    write_flac(folder / "long.flac", tone(160_000))
    return folder
