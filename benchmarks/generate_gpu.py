"""What generation costs on a GPU with networks of the published sizes: tables, and one line of JSON.

    python benchmarks/generate_gpu.py [--small] [--work FOLDER] [--limit-s 480] [--only REGEX] [--json FILE]

Weights are random, so no file is needed; the video is a synthetic talker of 1080 x 1920. Faces are tracked once for
each length of video. A row of the first table is `pipeline.redraw` of the video, from the first frame read to the file
written. fps counts its frames; "with tracking" adds the time in which faces are found, while a GPU waits. "GPU busy":
share of the samples, every 0.1 s, at which the driver says that a kernel runs. Peak memory, MB (2^20 bytes): what
PyTorch's allocator held, apart from CUDA's own 0.5 GB. "set-up s": the first batch of windows, in which graphs are
recorded and the network is compiled; kernels compiled on other cores before, while videos are made, count towards it.

The second table is one denoising step of one window with guidance: what is launched from the host, and how long it
takes. The third compares pasting on the GPU with pasting on the CPU, in grey levels that reach the frame.

Rows that would begin after --limit-s are left out and say so. --small: tiny networks and a small video, on any machine;
nothing is compiled there.
"""

import argparse
import contextlib
import dataclasses
import gc
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.curation import repeat  # noqa: E402
from benchmarks.models import facts, forget_peak, shown  # noqa: E402
from latentsync.audio import whisper  # noqa: E402
from latentsync.config import PRESETS, Generate  # noqa: E402
from latentsync.generation.networks import Models  # noqa: E402
from latentsync.models.unet import UNet3D, UNetConfig  # noqa: E402

STEPS_FOR_MEMORY = 1  # the number of steps changes no shape
SAMPLE_S = 0.1


@dataclass(frozen=True)
class Row:
    """One video redrawn."""

    resolution: int
    preset: str
    compile: str
    video_s: int
    steps: int | None = None  # another number than the preset's
    goal: str = ""

    def __str__(self) -> str:
        preset = self.preset if self.steps is None else f"{self.steps} step"
        return f"{self.resolution} px | {preset} | {self.compile} | {self.video_s} s"


ROWS = (  # in the order of what they are worth, should time run out
    Row(256, "exact", "graph", 10, goal=">= 13.2 fps, busy >= 85 %"),
    Row(512, "exact", "graph", 10, goal=">= 4 fps"),
    Row(256, "fast", "graph", 10, goal=">= 2 x exact"),
    Row(256, "exact", "graph", 60, STEPS_FOR_MEMORY, goal="<= 8 GB"),
    Row(512, "exact", "graph", 60, STEPS_FOR_MEMORY, goal="<= 18 GB"),
    Row(256, "exact", "compile", 10),
    Row(256, "balanced", "graph", 10),
    Row(512, "fast", "graph", 10),
    Row(256, "exact", "none", 10),
)
COLUMNS = (
    "face | preset | U-Net | video | fps | fps with tracking | GPU busy | networks busy | peak MB | set-up s | "
    "ms per frame: track, decode, crop, networks, paste, encode | goal"
)


def main() -> None:
    """Measure every row, printing each as it is ready."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny networks and a small video: a rehearsal")
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "bench-gpu", help="where the videos go")
    parser.add_argument("--limit-s", type=float, default=480)
    parser.add_argument("--only", default="", help="rows whose line matches this expression")
    parser.add_argument("--json", type=Path, help="write the figures here, too; after every row")
    parser.add_argument("--compile", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = random_models(device, args.small)
    if args.compile:
        print(set_up(sized(models, args.compile, args.small), Generate(compile="compile")))
        return
    start_s = time.monotonic()
    result: dict[str, Any] = facts(device.type) | {"small": args.small, "rows": [], "steps": [], "paste": []}
    rows = [row for row in ROWS if re.search(args.only, str(row)) and not (args.small and row.compile == "compile")]

    def add(table: str, **figures: Any) -> None:
        result[table].append(figures)
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(result) + "\n", encoding="utf-8")

    print("\n".join(f"{name}: {value}" for name, value in result.items() if not isinstance(value, list)), flush=True)
    with torch.inference_mode():
        compiling = compile_ahead({row.resolution for row in rows if row.compile == "compile"}, args.small)
        work = Material(args.work / "small" if args.small else args.work, args.small)
        for video_s in sorted({row.video_s for row in rows}):
            work.track(video_s)
        compiled = {resolution: seconds_of(process, args.limit_s / 2) for resolution, process in compiling.items()}
        print(
            f"\nready after {time.monotonic() - start_s:.0f} s\n\n| {COLUMNS} |\n|{'---|' * len(COLUMNS.split(' | '))}"
        )
        for row in rows:
            if time.monotonic() - start_s > args.limit_s:
                print(f"| {row} | not measured: {args.limit_s:g} s have passed |", flush=True)
                continue
            before_s = compiled.get(row.resolution) if row.compile == "compile" else 0.0
            try:
                if before_s is None:
                    raise RuntimeError("it was not compiled in time")
                found = measured(row, sized(models, row.resolution, args.small), work)
            except RuntimeError as error:  # of CUDA, of memory, of the compiler; the next row may do
                print(f"| {row} | failed: {str(error).splitlines()[0]} |", flush=True)
                continue
            found["set_up_s"] += before_s
            add("rows", **dataclasses.asdict(row), **found)
            print(f"| {row} | {line(found)} | {row.goal} |", flush=True)
        print("\n| face | U-Net | launches per forward | kernels | ms per step |\n|---|---|---|---|---|")
        for resolution in (256, 512):
            for mode in ("none", "graph") + ("compile",) * (resolution in compiled):
                if mode == "compile" and compiled[resolution] is None:
                    print(f"| {resolution} px | {mode} | not measured: it was not compiled in time |", flush=True)
                elif time.monotonic() - start_s > args.limit_s:
                    print(f"| {resolution} px | {mode} | not measured: {args.limit_s:g} s have passed |", flush=True)
                else:
                    found = step_cost(sized(models, resolution, args.small), mode)
                    add("steps", resolution=resolution, compile=mode, **found)
                    figures = (shown(found[name], ".4g") for name in ("launches", "kernels", "ms"))
                    print(f"| {resolution} px | {mode} | {' | '.join(figures)} |", flush=True)
        # Before OpenCV 5 it samples on a grid of 1/32 of a pixel, as paste_gpu does.
        opencv = f"CPU (OpenCV {cv2.__version__})"
        print(f"\n| face | largest difference of a paste, grey levels | ms, GPU | ms, {opencv} |\n|---|---|---|---|")
        for resolution in (256, 512):
            found = paste_difference(work, resolution, device)
            add("paste", resolution=resolution, **found)
            print(f"| {resolution} px | {found['grey_levels']:.4f} | {found['gpu_ms']:.2f} | {found['cpu_ms']:.2f} |")
    print(f"\ndone after {time.monotonic() - start_s:.0f} s")
    print(json.dumps(result))


# --- networks -------------------------------------------------------------------------------------------------------


def random_models(device: torch.device, small: bool) -> Models:
    """Networks of the published sizes with random weights, fp16 on a GPU as loaded ones."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    dtype = torch.float16 if device.type == "cuda" else torch.float32
    widths = (16, 32, 32, 32) if small else (128, 256, 512, 512)
    torch.manual_seed(0)
    with torch.device(device):
        shape = UNetConfig(block_out_channels=(16, 16, 32, 32), norm_groups=8) if small else UNetConfig()
        unet = UNet3D(shape)
        vae = AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1 if small else 2,
            latent_channels=4,
            norm_num_groups=8 if small else 32,
            scaling_factor=0.18215,
        )
    for weight in unet.parameters():  # some start at zero, and products with zeros are quicker
        if not weight.any():
            nn.init.normal_(weight, std=0.02)
    encoder = whisper.build("embedded", width=384, layers=4)
    encoder.encoder.to(device)
    return Models(
        unet.eval().requires_grad_(False).to(device, dtype),
        vae.eval().requires_grad_(False).to(device, dtype),
        encoder,
        256,
        16,
        device,
        dtype,
    )


def sized(models: Models, resolution: int, small: bool) -> Models:
    """The same weights for faces of another size, with nothing recorded or compiled."""
    gc.collect()
    if models.device.type == "cuda":
        torch.cuda.empty_cache()
    return dataclasses.replace(models, resolution=resolution // (4 if small else 1))


def set_up(models: Models, cfg: Generate) -> float:
    """Seconds of the first batch of windows."""
    from latentsync.generation.sampling import windows_at_once

    windows = windows_at_once(models.frames, models.resolution, models.device)
    cfg = cfg.model_copy(update={"batch_size": windows, "steps": min(cfg.steps, 2 * cfg.reuse)})
    side = models.resolution // 8
    start_s = time.perf_counter()
    conditioning = torch.randn(windows, models.frames, 8, side, side, device=models.device)
    tokens = torch.randn(windows, models.frames, 50, 384, device=models.device, dtype=models.dtype)
    models.denoise(conditioning, tokens, cfg).sum().item()
    return time.perf_counter() - start_s


def compile_ahead(resolutions: set[int], small: bool) -> dict[int, subprocess.Popen]:
    """Start to compile the U-Net in processes of their own, which leave kernels on the disk, while videos are made."""
    command = [sys.executable, __file__, *(["--small"] if small else []), "--compile"]
    return {r: subprocess.Popen([*command, str(r)], stdout=subprocess.PIPE, text=True) for r in sorted(resolutions)}


def seconds_of(process: subprocess.Popen, limit_s: float) -> float | None:
    """The seconds that a process of `compile_ahead` prints; None: it failed or took longer."""
    try:
        printed, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return None
    return float(printed.split()[-1]) if process.returncode == 0 else None


# --- rows -----------------------------------------------------------------------------------------------------------


class Material:
    """The talker in several lengths, and the faces found in it."""

    def __init__(self, folder: Path, small: bool):
        from latentsync.synthetic.look import looks
        from latentsync.synthetic.plan import Take
        from latentsync.synthetic.render import render

        self.folder, self.small = folder, small
        self.tracks: dict[int, tuple[list, float]] = {}
        width, height, face_px = (270, 480, 105.0) if small else (1080, 1920, 420.0)
        shape = {"width": width, "height": height, "face_px": (face_px,), "duration_s": 2.0 if small else 10.0}
        if not (folder / "10" / "talker.mp4").exists():
            render(Take("talker.mp4", looks(1, 10)[0], **shape), 1, folder / "10")

    def video(self, video_s: int) -> Path:
        """The talker over and over for so long; a small one is 2 s long instead of 10 s."""
        folder = self.folder / str(10 if self.small else video_s)
        if not folder.exists():
            repeat(self.folder / "10", folder, video_s // 10)
        return folder / "talker.mp4"

    def track(self, video_s: int) -> None:
        """Find the faces, and note how long it takes."""
        from latentsync.faces.backends import open_detector
        from latentsync.generation.gates import measure_faces
        from latentsync.generation.speakers import track_video

        with open_detector("mediapipe", 2) as detector:
            start_s = time.perf_counter()
            tracks = track_video(self.video(video_s), detector, measure=measure_faces(detector.scheme))
            self.tracks[video_s] = tracks, time.perf_counter() - start_s


def measured(row: Row, models: Models, work: Material) -> dict[str, Any]:
    """Redraw a video; the figures of its row."""
    from latentsync.generation.audio import driving_audio
    from latentsync.generation.pipeline import redraw

    keys = PRESETS[row.preset] | ({} if row.steps is None else {"steps": row.steps})
    if work.small:
        keys |= {"steps": 2 * keys.get("reuse", 1)}
    cfg = Generate(max_s=None, length="video", compile=row.compile, **keys)
    gpu = models.device.type == "cuda"
    forget_peak(models.device.type)
    set_up_s = set_up(models, cfg)
    video, (tracks, tracked_s) = work.video(row.video_s), work.tracks[row.video_s]
    with sampled_use(gpu) as use:
        start_s = time.perf_counter()
        written = redraw(video, driving_audio(video), work.folder / "out.mp4", models, cfg, tracks)
        passed_s = time.perf_counter() - start_s
    n = written["n_frames"]
    assert written["n_generated"] == n, written["passed_through"]
    stages = {"track": tracked_s} | written["seconds"]
    return {
        "frames": n,
        "fps": n / passed_s,
        "fps_tracked": n / (passed_s + tracked_s),
        "busy": statistics.mean(use) / 100 if use else None,
        "networks_busy": 1 - written["waited_s"] / passed_s,
        "peak_mb": torch.cuda.max_memory_reserved() / 2**20 if gpu else None,
        "set_up_s": set_up_s,
        "ms": {stage: round(1000 * spent_s / n, 2) for stage, spent_s in stages.items()},
    }


@contextlib.contextmanager
def sampled_use(gpu: bool) -> Iterator[list[int]]:
    """How busy the driver says the GPU is while the block runs, in percent."""
    found, stop = list[int](), threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_S):
            found.append(torch.cuda.utilization())

    thread = threading.Thread(target=sample)
    if gpu:
        torch.cuda.utilization()  # an error rises here, where it is seen
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        if gpu:
            thread.join()


def line(found: dict[str, Any]) -> str:
    """The columns of a row that were measured."""
    figures = [shown(found[name], ".1f") for name in ("fps", "fps_tracked")]
    figures += [shown(found[name], ".0%") for name in ("busy", "networks_busy")]
    figures += [shown(found["peak_mb"], ".0f"), shown(found["set_up_s"], ".1f")]
    stages = ("track", "decode", "crop", "networks", "paste", "encode")
    return " | ".join([*figures, ", ".join(shown(found["ms"].get(stage), ".1f") for stage in stages)])


# --- one step, one paste --------------------------------------------------------------------------------------------


def step_cost(models: Models, mode: str) -> dict[str, float | None]:
    """Launches, kernels and milliseconds of one forward pass with both halves of guidance, one window."""
    side, gpu = models.resolution // 8, models.device.type == "cuda"
    unet = models.network(mode)
    given: dict[str, Any] = {"device": models.device, "dtype": models.dtype}
    sample = torch.randn(2, 13, models.frames, side, side, **given)
    heard = unet.listen(torch.randn(1, models.frames, 50, 384, **given))
    timesteps = torch.full((2,), 500, device=models.device)
    spent_s = []
    for _ in range(12 if gpu else 3):
        start_s = time.perf_counter()
        unet.predict(sample, timesteps, heard, None)[0].sum().item()
        spent_s.append(time.perf_counter() - start_s)
    found: dict[str, float | None] = {"launches": None, "kernels": None, "ms": 1000 * statistics.median(spent_s[2:])}
    if gpu:
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            unet.predict(sample, timesteps, heard, None)
            torch.cuda.synchronize()
        events = profile.events()
        found["launches"] = sum(bool(re.match(r"cu(da)?(Launch|GraphLaunch|MemcpyAsync)", one.name)) for one in events)
        found["kernels"] = sum(one.device_type == torch.autograd.DeviceType.CUDA for one in events)
    return found


def paste_difference(work: Material, resolution: int, device: torch.device) -> dict[str, float]:
    """Largest difference that pasting on the device makes to a frame, and how long both take."""
    from itertools import islice

    from latentsync.faces import alignment
    from latentsync.generation import paste, paste_gpu
    from latentsync.media.read import Reader

    resolution //= 4 if work.small else 1
    tracks, _ = next(iter(work.tracks.values()))
    generator, worst, spent_s = np.random.default_rng(0), 0.0, ([], [])
    for _, shown_frame in islice(Reader(work.video(10)).displayed_frames(), 12):
        frame = shown_frame.stored
        matrix = alignment.similarity(tracks[0].anchors[0], resolution)
        coarse = generator.uniform(0, 255, (3, resolution // 4, resolution // 4)).astype(np.float32)
        face = nn.functional.interpolate(torch.from_numpy(coarse)[None], scale_factor=4, mode="bicubic")[0].clamp(
            0, 255
        )
        start_s = time.perf_counter()
        on_cpu = paste.layers(frame, face.permute(1, 2, 0).contiguous().numpy(), matrix, resolution)
        spent_s[0].append(time.perf_counter() - start_s)
        face = face.to(device)
        start_s = time.perf_counter()
        on_gpu = paste_gpu.layers(frame, face, matrix, resolution)()
        spent_s[1].append(time.perf_counter() - start_s)
        for (_, values, opaque), (_, others, also) in zip(on_cpu, on_gpu, strict=True):
            for value, other in zip(values, others, strict=True):
                worst = max(worst, float(np.abs(value * opaque - other * also - 128 * (opaque - also)).max()))
    cpu_ms, gpu_ms = (1000 * statistics.median(spent) for spent in spent_s)
    return {"grey_levels": worst, "gpu_ms": gpu_ms, "cpu_ms": cpu_ms}


if __name__ == "__main__":
    main()
