"""kill -9 at random moments of an enhanced generation, continued by the same call: the bytes are those of a whole run.

`make bench-kills` kills more often.
"""

import json
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.videos import head, write_video

ROOT = Path(__file__).resolve().parents[2]
KILLS, SEED = (int(os.environ.get(name, default)) for name, default in (("KILLS", 1), ("SEED", 4)))
N_FRAMES, PART_FRAMES = 300, 25
WINDOW_S = 0.05  # how long the stand-in works on a window of 8 frames, so that kills hit it


def drifting(index: int, width: int, height: int) -> np.ndarray:
    """A head that drifts to the right and back."""
    return head(abs(index % 200 - 100), width, height)


def job(folder: Path) -> None:
    """Redraw `folder`/in.mp4; says when it begins and how many parts were there."""
    from latentsync.config import Enhance, Generate
    from latentsync.generation import parts, pipeline
    from latentsync.generation.audio import driving_audio
    from latentsync.generation.restore import Enhancer
    from tests.generation.test_two_voices import Loud

    class Slow(Loud):
        def denoise(self, conditioning, tokens, cfg):
            time.sleep(WINDOW_S)
            return super().denoise(conditioning, tokens, cfg)

    class Sharper:
        size = 64

        def __call__(self, faces):
            return faces + 2 * (faces - faces.mean((1, 2), keepdims=True))

    parts.PART_FRAMES = PART_FRAMES
    enhancer = Enhancer(Sharper(), Enhance(method="gfpgan", force=True), "")
    tracks = pickle.loads((folder / "tracks").read_bytes())
    print(finished(folder), flush=True)
    video, cfg = folder / "in.mp4", Generate(length="video", steps=1, max_s=None)
    pipeline.redraw(video, driving_audio(video), folder / "out.mp4", Slow(), cfg, tracks, enhancer=enhancer)


def finished(folder: Path) -> int:
    """How many parts of the result are there."""
    return len(list(folder.glob("out.mp4.parts/[0-9a-f]*.mp4")))


def started(folder: Path) -> tuple[subprocess.Popen, int]:
    """A process that redraws, and the finished parts that it found."""
    command = [sys.executable, "-m", "tests.generation.test_stopped_jobs", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.slow
def test_a_job_killed_repeatedly_gives_the_same_bytes(tmp_path, detector):
    from latentsync.generation import gates, speakers

    sound = np.sin(np.arange(N_FRAMES * 1764) / 9).astype(np.float32) / 4
    video = write_video(tmp_path / "in.mp4", N_FRAMES, images=drifting, size=(208, 176), audio=sound)
    tracks = speakers.track_video(video, detector, measure=gates.measure_faces(detector.scheme))
    (tmp_path / "tracks").write_bytes(pickle.dumps(tracks))
    out, moments, found_parts, after_s = tmp_path / "out.mp4", random.Random(SEED), [], []

    whole, _ = started(tmp_path)
    start_s = time.perf_counter()
    assert whole.wait() == 0, whole.stderr.read()
    whole_s = time.perf_counter() - start_s
    expected = out.read_bytes()
    out.unlink()
    while len(after_s) < KILLS:
        process, n_parts = started(tmp_path)
        left_s = whole_s * (1 - n_parts * PART_FRAMES / N_FRAMES)
        after_s.append(moments.uniform(0.05, 0.6) * left_s)
        time.sleep(after_s[-1])
        while len(after_s) == KILLS and not finished(tmp_path) and process.poll() is None:
            time.sleep(0.01)  # the last kill hits a job that has something to continue
        assert process.poll() is None and not out.exists(), process.stderr.read()
        process.kill()
        process.wait()
        found_parts.append(n_parts)
    last, n_parts = started(tmp_path)
    assert last.wait() == 0, last.stderr.read()
    print(json.dumps({"whole_s": whole_s, "kills_after_s": after_s, "finished_parts": [*found_parts, n_parts]}))
    assert out.read_bytes() == expected
    assert n_parts > 0, "nothing was continued"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4", "tracks"]


if __name__ == "__main__":
    job(Path(sys.argv[1]))
