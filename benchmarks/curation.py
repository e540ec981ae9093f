"""What curation costs: CPU seconds per second of video by step, peak memory, and how near that is to the least.

    python benchmarks/curation.py [--clips FOLDER] [--work FOLDER] [--workers] [--json FILE]

Without --clips: a talker of 1080 x 1920, 10 s, and the same over and over for 10 minutes (packets copied). Every step
runs as the rules run it, one process, one shard. CPU seconds are user + system of a step's work, imports left out as in
published measurements (they are given beside it); peak memory is that of the process tree, sampled.

All of it on one core: where processes move between two busy cores, they need up to 40 % more CPU seconds. floor_ratio =
steps up to align_faces / (decode once + detect faces on every tick + encode the crop once), all in one run. A detector
wants RGB, so the floor contains the quickest conversion there is, of whole pictures.
--workers: clips per second of two workers, each pinned to a core of its own, over those of one.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
CHAIN = {
    "probe": ("sources", {}),
    "resample": ("probe", {}),
    "detect_scenes": ("resample", {}),
    "segment": ("detect_scenes", {}),
    "align_faces": ("segment", {"backend": "mediapipe", "resolution": 256}),
    "score_sync": ("align_faces", {"backend": "envelope"}),
    "score_quality": ("align_faces", {"backend": "piqe"}),
}
UP_TO_ALIGN = ("probe", "resample", "detect_scenes", "segment", "align_faces")


def main() -> None:
    """Make the material, run every step on it, measure the floor, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="a folder of videos instead of talkers")
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "bench-curation", help="where everything goes")
    parser.add_argument("--workers", action="store_true", help="also two pinned workers against one")
    parser.add_argument("--json", type=Path, help="also write the line there")
    parser.add_argument("--floor", type=Path, nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.floor:
        print(json.dumps(floor(args.floor)))
        return
    args.work = args.work.resolve()
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(everywhere)})  # children inherit it
    if args.clips:
        sets = {"clips": args.clips.resolve()}
    else:
        sets = {"10s": args.work / "10s", "600s": args.work / "600s"}
        make_talkers(sets["10s"], {60: sets["600s"], 6: args.work / "60s"})
    result = {name: measure(folder, args.work / f"run-{name}") for name, folder in sets.items()}
    if args.workers:
        folder = sets["clips"] if args.clips else args.work / "60s"
        os.sched_setaffinity(0, everywhere)
        result["two_workers_over_one"] = round(two_workers(folder, args.work), 3)
    line = json.dumps(flat(result))
    if args.json:
        args.json.write_text(line + "\n", encoding="utf-8")
    print(line)


def flat(result: dict) -> dict:
    """The figures of the longest material at the top, with the peaks of both."""
    sets = {name: found for name, found in result.items() if isinstance(found, dict)}
    last = list(sets.values())[-1]
    peaks = {f"peak_mb_{name}": found["peak_mb"] for name, found in sets.items()}
    return (
        {name: last[name] for name in ("cpu_s_per_video_s", "floor_ratio")}
        | peaks
        | {"sets": sets}
        | {name: value for name, value in result.items() if name not in sets}
    )


def make_talkers(short: Path, repeated: dict[int, Path]) -> None:
    """A talker of 10 s, and the same so many times over."""
    if all((folder / "talker.mp4").exists() for folder in repeated.values()):
        return
    from latentsync.synthetic.look import looks
    from latentsync.synthetic.plan import Take
    from latentsync.synthetic.render import render

    take = Take("talker.mp4", looks(1, 10)[0], duration_s=10.0, width=1080, height=1920, face_px=(420.0,))
    render(take, 1, short)
    for times, folder in repeated.items():
        repeat(short, folder, times)


def repeat(short: Path, long: Path, times: int) -> None:
    """The packets of a video of 10 s, so many times one after the other."""
    import av

    from latentsync.ledger.files import replacing

    long.mkdir(parents=True, exist_ok=True)
    with replacing(long / "talker.mp4") as temporary, av.open(str(temporary), "w", format="mp4") as writer:
        streams, last = {}, {}
        for turn in range(times):
            with av.open(str(short / "talker.mp4")) as reader:
                for stream in reader.streams:
                    streams.setdefault(stream.index, writer.add_stream_from_template(stream) if turn == 0 else None)
                for packet in reader.demux():
                    shift = round(turn * 10 / packet.time_base)
                    if packet.dts is None or packet.dts + shift <= last.get(packet.stream.index, -(10**9)):
                        continue  # where two rounds overlap, as the sound does
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    last[packet.stream.index] = packet.dts
                    packet.stream = streams[packet.stream.index]
                    writer.mux(packet)


def measure(folder: Path, run: Path) -> dict:
    """CPU seconds per video second by step, peak memory, and the floor of one folder."""
    from latentsync.ledger.files import read_ledger
    from latentsync.ledger.sources import write_sources

    subprocess.run(["rm", "-rf", str(run)], check=True)
    write_sources(folder, run / "sources", 1)
    work, start, peak = {}, {}, 0.0
    for step in CHAIN:
        cpu, peak_mb = step_in(command(step, run, folder))
        costs = run / "costs" / step / "00000.jsonl"
        work[step] = sum(row["cpu_s"] for row in read_ledger(costs))
        start[step] = cpu - work[step]
        peak = max(peak, peak_mb)
    rows = read_ledger(run / "probe" / "00000.jsonl")
    good = [row for row in rows if row["status"] == "ok"]
    video_s = sum(row["duration_s"] for row in good)
    clips = [row for row in read_ledger(run / "score_sync" / "00000.jsonl") if row["kind"] == "clip"]
    paths = [str(folder / row["path"]) for row in good]
    done = subprocess.run(
        [sys.executable, __file__, "--floor", *paths], check=True, capture_output=True, text=True, env=environment()
    )
    least = json.loads(done.stdout.splitlines()[-1])
    spent = sum(work[step] for step in UP_TO_ALIGN)
    return {
        "videos": len(good),
        "video_s": round(video_s, 2),
        "clips": len(clips),
        "cpu_s_per_video_s": {step: round(cpu / video_s, 4) for step, cpu in work.items()}
        | {"sum_to_align_faces": round(spent / video_s, 4), "sum": round(sum(work.values()) / video_s, 4)},
        "start_cpu_s": {step: round(cpu, 2) for step, cpu in start.items()},
        "floor_cpu_s_per_video_s": {part: round(cpu / video_s, 4) for part, cpu in least.items()},
        "floor_ratio": round(spent / sum(least.values()), 3),
        "peak_mb": round(peak, 1),
    }


def command(step: str, run: Path, folder: Path, shard: str = "00000") -> list[str]:
    """The arguments of one step, as its rule gives them."""
    before, section = CHAIN[step]
    name = "sources" if before == "sources" else before
    return [
        *("latentsync.steps", step, "--config", json.dumps(section), "--sources", str(folder)),
        *("--input", name, str(run / before / f"{shard}.jsonl")),
        *("--output", "ledger", str(run / step / f"{shard}.jsonl")),
    ]


def environment() -> dict[str, str]:
    """One thread wherever a library asks."""
    pinned = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return os.environ | pinned | {"PYTHONPATH": str(ROOT), "GLOG_minloglevel": "2"}


def step_in(arguments: list[str]) -> tuple[float, float]:
    """Run `python -m <arguments>`; CPU seconds of it and its children, and the peak memory of them all, MB."""
    before = os.times()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", *arguments], env=environment(), **quiet)
    peak = [0.0]
    sampler = threading.Thread(target=_sample, args=(process.pid, peak))
    sampler.start()
    status = process.wait()
    sampler.join()
    if status:
        raise SystemExit(f"python -m {' '.join(arguments[:2])} ended with status {status}; run it by hand to see why.")
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return spent, peak[0]


def _sample(pid: int, peak: list[float]) -> None:
    try:
        root = psutil.Process(pid)
        while root.is_running() and root.status() != psutil.STATUS_ZOMBIE:
            tree = [root, *root.children(recursive=True)]
            peak[0] = max(peak[0], sum(each.memory_info().rss for each in tree) / 2**20)
            time.sleep(0.05)
    except psutil.NoSuchProcess:
        return


def floor(paths: list[Path]) -> dict[str, float]:
    """CPU seconds of decoding once, detecting on every tick, and encoding the crop of every tick once."""
    import tempfile

    import numpy as np

    from latentsync.faces.alignment import similarity
    from latentsync.faces.backends import open_detector
    from latentsync.faces.crop import face_frame
    from latentsync.media.frames import DisplayedFrame
    from latentsync.media.read import Reader, frame_times
    from latentsync.media.write import VideoWriter
    from latentsync.timing import ticks_to_frames

    spent = dict.fromkeys(("decode", "detect", "encode"), 0.0)

    def clocked(part: str, work, *arguments):
        start = time.process_time()
        result = work(*arguments)
        spent[part] += time.process_time() - start
        return result

    with open_detector("mediapipe", 2) as detector, tempfile.TemporaryDirectory() as scratch:

        def detect(picture: DisplayedFrame) -> list:
            return detector.detect(picture.quick())

        for path in paths:
            ticks = ticks_to_frames(*frame_times(path))
            shown = dict(zip(*np.unique(ticks, return_counts=True), strict=True))
            pictures = Reader(path).displayed_frames(np.array(list(shown)))
            detector.reset()
            matrix = None
            writer = VideoWriter(Path(scratch) / "crop.mp4", 25, 256, 256, crf=13).__enter__()
            while (item := clocked("decode", next, pictures, None)) is not None:
                index, picture = item
                faces = clocked("detect", detect, picture)
                if faces:
                    matrix = similarity(faces[0].anchors, 256)
                if matrix is not None:
                    face = face_frame(picture, matrix, 256)
                    for _ in range(shown[index]):
                        clocked("encode", writer.write_frame, face)
            if matrix is None:
                writer.write(np.zeros((256, 256, 3), np.uint8))
            clocked("encode", writer.__exit__, None, None, None)
    return spent


def two_workers(folder: Path, work: Path) -> float:
    """Clips per second of two workers side by side over those of one; each has one core and a shard of its own."""
    from latentsync.ledger.files import read_ledger
    from latentsync.ledger.sources import write_sources

    names = ("a", "b")
    for name in names:
        run = work / f"worker-{name}"
        subprocess.run(["rm", "-rf", str(run)], check=True)
        write_sources(folder, run / "sources", 1)
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("two workers need two cores, and this machine gives one.")

    def chain(name: str, core: int) -> None:
        run = work / f"worker-{name}"
        for step in CHAIN:
            pinned = ["taskset", "-c", str(core), sys.executable, "-m", *command(step, run, folder)]
            subprocess.run(pinned, check=True, env=environment(), stderr=subprocess.DEVNULL)

    start = time.perf_counter()
    chain("a", cores[0])
    alone_s = time.perf_counter() - start
    clips = len(read_ledger(work / "worker-a" / "score_sync" / "00000.jsonl"))
    for name in names:
        for part in (*CHAIN, "costs"):
            subprocess.run(["rm", "-rf", str(work / f"worker-{name}" / part)], check=True)
    start = time.perf_counter()
    threads = [threading.Thread(target=chain, args=pair) for pair in zip(names, cores, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    both_s = time.perf_counter() - start
    return (2 * clips / both_s) / (clips / alone_s)


if __name__ == "__main__":
    main()
