"""What generation costs without its networks, and how near that is to the least: one line of JSON.

    python benchmarks/generate.py [--work FOLDER] [--json FILE] [--only floor paste enhance speedup peak]

An identity generator stands in place of the networks: the face comes back as it went in, so everything else is as in
`latentsync generate`: tracking, a second decode, crop, joining, paste, encoding, audio. Material: a synthetic talker of
10 s at 1080 x 1920 and at 512 x 512, the first three times over (speedup), the second for 1 and 10 minutes (memory).

floor_ratio = CPU seconds of all that / (decode once + detect faces in every frame + encode once), both pinned to one
core, imports left out; the median of three pairs. paste_ms: CPU milliseconds of a paste into a frame of 1080 x 1920.
enhance_ms: those of its enhancement without the restorer, whose place a sharpening takes, for mouth and for whole face.
speedup: frames per second on two cores over those on one; the median of three pairs. Peak memory is the process's.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.curation import environment, repeat  # noqa: E402

CRF = 13  # of floor and whole alike
SIZES = {"1080p": (1080, 1920, 420.0), "512": (512, 512, 240.0)}
LONG = {"30s": ("1080p", 3), "60s": ("512", 6), "600s": ("512", 60)}  # packets copied so many times
PAIRS = 3
FIGURES = ("floor", "paste", "enhance", "speedup", "peak")
CASES = {"floor_ratio": ("1080p", 256), "floor_ratio_512": ("512", 256), "floor_ratio_512_512": ("512", 512)}


def main() -> None:
    """Make the material, run every case in a process of its own, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "bench-generate", help="where everything goes")
    parser.add_argument("--json", type=Path, help="also write the line there, after every figure")
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=FIGURES)
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(JOBS[args.job.pop("job")](**args.job)))
        return
    work = args.work.resolve()
    videos, result, stages = make_talkers(work), {}, {}
    whole_job = {"job": "generate", "resolution": 256, "out": str(work / "out.mp4")}

    def found(**figures: object) -> None:
        result.update(figures)
        print(figures, file=sys.stderr, flush=True)
        if args.json:
            args.json.write_text(json.dumps(result | {"stages": stages}) + "\n", encoding="utf-8")

    for name, (size, resolution) in CASES.items() if "floor" in args.only else ():
        ratios = []
        for _ in range(PAIRS):  # one after the other, so that other load meets both
            least = child(1, job="floor", video=videos[size])
            whole = child(1, **whole_job | {"video": videos[size], "resolution": resolution})
            ratios.append(whole["cpu_s"] / least["cpu_s"])
        stages[name] = {
            "ratios": [round(ratio, 3) for ratio in ratios],
            "ms_per_frame": whole["ms"],
            "floor_ms_per_frame": least["ms"],
        }
        found(**{name: round(statistics.median(ratios), 3)})
    for resolution in (256, 512) if "paste" in args.only else ():
        cost = child(1, job="paste", video=videos["1080p"], resolution=resolution)
        found(**{f"paste_ms_{resolution}": cost["ms"]})
    for region in ("mouth", "face") if "enhance" in args.only else ():
        cost = child(1, job="enhance", video=videos["1080p"], region=region)
        found(**{f"enhance_ms_{region}": cost["ms"]})
    if "speedup" in args.only:
        fps = [[child(cores, **whole_job | {"video": videos["30s"]})["fps"] for cores in (1, 2)] for _ in range(PAIRS)]
        ratios = [two / one for one, two in fps]
        stages["speedup"] = {"ratios": [round(ratio, 3) for ratio in ratios], "fps": fps}
        found(speedup=round(statistics.median(ratios), 3))
    if "peak" in args.only:
        for length in ("60s", "600s"):
            found(**{f"peak_mb_{length}": child(2, **whole_job | {"video": videos[length]})["peak_mb"]})
        found(peak_ratio=round(result["peak_mb_600s"] / result["peak_mb_60s"], 3))
    print(json.dumps(result | {"stages": stages}))


def make_talkers(work: Path) -> dict[str, str]:
    """Paths of the material by name."""
    from latentsync.synthetic.look import looks
    from latentsync.synthetic.plan import Take
    from latentsync.synthetic.render import render

    for name, (width, height, face_px) in SIZES.items():
        if not (work / name / "talker.mp4").exists():
            shape = {"width": width, "height": height, "face_px": (face_px,)}
            render(Take("talker.mp4", looks(1, 10)[0], duration_s=10.0, **shape), 1, work / name)
    for name, (size, times) in LONG.items():
        if not (work / name / "talker.mp4").exists():
            repeat(work / size, work / name, times)
    return {name: str(work / name / "talker.mp4") for name in (*SIZES, *LONG)}


def child(cores: int, **job: object) -> dict:
    """Run one job in a process of its own, pinned to so many cores."""
    pins = ",".join(map(str, sorted(os.sched_getaffinity(0))[-cores:]))
    command = ["taskset", "-c", pins, sys.executable, __file__, "--job", json.dumps(job)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment())
    return json.loads(done.stdout.splitlines()[-1])


def floor(video: str) -> dict:
    """Decode once, find faces in every frame, encode once with the settings of generation."""
    import cv2

    from latentsync.config import Generate
    from latentsync.faces.backends import open_detector
    from latentsync.generation.video import encoder_threads, open_writer
    from latentsync.media.read import Reader, frame_times

    cv2.setNumThreads(1)
    cfg, path = Generate(crf=CRF), Path(video)
    times_s, end_s = frame_times(path)
    out, like = path.with_name("floor.mp4"), next(Reader(path).displayed_frames())[1].stored
    with open_detector("mediapipe", 2) as detector:
        start_s = time.process_time()
        with open_writer(out, like, path, times_s, end_s, CRF, encoder_threads(cfg)) as writer:
            for _, frame in Reader(path).displayed_frames():
                detector.detect(frame.quick())
                writer.write_frame(frame.stored)
        cpu_s = time.process_time() - start_s
    return {"cpu_s": cpu_s, "ms": round(1000 * cpu_s / len(times_s), 2)}


def generate(video: str, resolution: int, out: str) -> dict:
    """Everything that generation does beside the networks."""
    import cv2

    from latentsync.config import Generate
    from latentsync.faces.backends import open_detector
    from latentsync.generation.audio import driving_audio
    from latentsync.generation.gates import measure_faces
    from latentsync.generation.pipeline import redraw
    from latentsync.generation.speakers import track_video

    cv2.setNumThreads(1)
    path, cfg = Path(video), Generate(max_s=None, length="video", crf=CRF)
    with open_detector("mediapipe", 2) as detector:
        start_s, cpu_s = time.perf_counter(), time.process_time()
        tracks = track_video(path, detector, measure=measure_faces(detector.scheme))
        tracked_s = time.process_time() - cpu_s
        written = redraw(path, driving_audio(path), Path(out), identity(resolution), cfg, tracks)
        cpu_s, passed_s = time.process_time() - cpu_s, time.perf_counter() - start_s
    n = written["n_frames"]
    assert written["n_generated"] == n, written["passed_through"]
    stages = {"track": tracked_s} | written["seconds"]
    return {
        "cpu_s": cpu_s,
        "fps": round(n / passed_s, 2),
        "ms": {stage: round(1000 * spent / n, 2) for stage, spent in stages.items()},
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def identity(resolution: int):
    """A generator that gives faces back; only their numbers go through torch."""
    import numpy as np
    import torch

    class Identity:
        frames, weights = 16, {}

        def __init__(self):
            self.resolution, self.kept, self.n = resolution, {}, 0

        def listen(self, samples):
            return lambda rows: torch.zeros(len(rows), 1, 1)

        def encode(self, faces):
            numbers = np.arange(self.n, self.n + len(faces))
            self.n += len(faces)
            self.kept |= dict(zip(numbers.tolist(), faces, strict=True))
            return torch.from_numpy(numbers.astype(np.float32)).reshape(-1, 1, 1, 1)

        def denoise(self, conditioning, tokens, cfg):
            return conditioning

        def decode(self, latents):
            numbers = latents.flatten().round().int().tolist()
            faces = np.stack([self.kept[number] for number in numbers]).astype(np.float32)
            for number in [number for number in self.kept if number < numbers[0]]:
                del self.kept[number]
            return torch.from_numpy(faces).permute(0, 3, 1, 2)

    return Identity()


def paste(video: str, resolution: int) -> dict:
    """CPU milliseconds of one paste."""
    from itertools import islice

    import cv2
    import numpy as np

    from latentsync.faces import alignment
    from latentsync.faces.backends import open_detector
    from latentsync.faces.crop import align_face
    from latentsync.generation.paste import paste_face
    from latentsync.media.read import Reader

    cv2.setNumThreads(1)
    frames = [frame for _, frame in islice(Reader(Path(video)).displayed_frames(), 50)]
    with open_detector("mediapipe", 2) as detector:
        matrices = [alignment.similarity(detector.detect(frame.quick())[0].anchors, resolution) for frame in frames]
    pairs = list(zip(frames, matrices, strict=True))
    faces = [align_face(frame, matrix, resolution).astype(np.float32) for frame, matrix in pairs]
    start_s = time.process_time()
    for (frame, matrix), face in zip(pairs, faces, strict=True):
        paste_face(frame.stored, face, matrix, resolution)
    return {"ms": round(1000 * (time.process_time() - start_s) / len(frames), 2)}


def enhance(video: str, region: str) -> dict:
    """CPU milliseconds of enhancing one frame, without the restorer."""
    from itertools import islice

    import cv2
    import numpy as np

    from latentsync.config import Enhance
    from latentsync.faces import alignment
    from latentsync.faces.backends import open_detector
    from latentsync.generation import gates, speakers
    from latentsync.generation.enhancing import Enhancing
    from latentsync.generation.paste import copied
    from latentsync.generation.plan import Plan, VoicePlan
    from latentsync.generation.restore import Enhancer, find_places
    from latentsync.generation.stopwatch import Stopwatch
    from latentsync.media.read import read_video_frames

    cv2.setNumThreads(1)
    resolution, n = 256, 80
    restoring_s = []

    class Sharper:
        size = 512

        def __call__(self, faces: np.ndarray) -> np.ndarray:
            start_s = time.process_time()
            sharper = np.stack([2 * face - cv2.GaussianBlur(face, (0, 0), 2) for face in faces])
            restoring_s.append(time.process_time() - start_s)
            return sharper

    frames = [copied(frame) for _, frame in islice(read_video_frames(Path(video)), n)]
    with open_detector("mediapipe", 2) as detector:
        measure = gates.measure_faces(detector.scheme)
        [track] = speakers.track_video(Path(video), detector, n / 25, measure=measure)[:1]
    matrices = np.array([alignment.similarity(anchors, resolution) for anchors in track.anchors[:n]])
    none, closed = np.zeros(0, np.int64), (np.zeros((n, 0), np.float32), np.zeros(0, np.float32))
    voice = VoicePlan(np.zeros(n, np.int64), matrices, np.ones(n, np.float32), *closed, none, np.zeros((0, 2, 3)), 0)
    enhancer = Enhancer(Sharper(), Enhance(method="gfpgan", region=region, force=True), "")
    plan = Plan(np.arange(n), np.arange(n) / 25, n / 25, [voice])
    start_s = time.process_time()
    places = find_places(plan, voice, [track], np.eye(3), resolution, enhancer)
    assert places.restored.all()
    for _ in Enhancing(places, enhancer, resolution, Stopwatch()).restored(iter(frames), 0):
        pass
    return {"ms": round(1000 * (time.process_time() - start_s - sum(restoring_s)) / n, 2)}


JOBS = {"floor": floor, "generate": generate, "paste": paste, "enhance": enhance}

if __name__ == "__main__":
    main()
