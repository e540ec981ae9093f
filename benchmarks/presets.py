"""What each preset of generation costs against `exact`, on the talkers of a finished run.

    python benchmarks/presets.py --weights results/demo --sources results/demo/make_talkers/videos [--videos 12]
        [--perceptual published] [--also '{"solver": "dpmpp", "steps": 8}' ...]

Test videos are driven by another talker's audio, as the run paired them. Per preset: the correlation of the measured
mouth opening with the opening behind the audio (its mean over videos, and the least), the 5 to 95 % range of the
opening, PSNR of generated mouths and LPIPS of generated faces against those of `exact`, full forward passes of the
U-Net per window (of one condition; guidance takes two), and CPU seconds of denoising per frame on one core. --also adds
rows with other keys. LPIPS is that of VGG16 with --perceptual published; otherwise an untrained SqueezeNet, whose
numbers only compare rows.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentsync.config import PRESETS, Generate
from latentsync.evaluation import measure, metrics
from latentsync.faces.mask import keep_mask
from latentsync.generation.audio import driving_audio
from latentsync.generation.networks import Models
from latentsync.generation.session import LipSync
from latentsync.ledger.files import read_ledger
from latentsync.media.read import read_video_frames
from latentsync.models.teachers import perceptual
from latentsync.timing import TICKS_PER_S
from latentsync.weights.find import find_weights


@dataclass
class Measured:
    """One preset over all videos."""

    r: list[float] = field(default_factory=list)
    lag: list[int] = field(default_factory=list)
    opening: list[np.ndarray] = field(default_factory=list)
    squared_error: list[float] = field(default_factory=list)
    lpips: list[float] = field(default_factory=list)
    forwards: int = 0
    windows: int = 0
    frames: int = 0
    cpu_s: float = 0.0


class Watched(Models):
    """Networks that keep what they draw and count what it costs."""

    def watch(self, measured: Measured) -> None:
        """Start to count."""
        object.__setattr__(self, "measured", measured)
        object.__setattr__(self, "faces", [])

    def denoise(self, conditioning: Tensor, tokens: Tensor, cfg: Generate) -> Tensor:
        """As of Models."""
        start_s = time.thread_time()
        latents = super().denoise(conditioning, tokens, cfg)
        self.measured.cpu_s += time.thread_time() - start_s
        self.measured.windows += len(conditioning)
        self.measured.frames += conditioning.shape[0] * conditioning.shape[1]
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """As of Models."""
        faces = super().decode(latents)
        self.faces.extend(faces.cpu().numpy())
        return faces


def main() -> None:
    """Measure all presets on the same videos."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--sources", type=Path, required=True, help="folder of its videos")
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--perceptual", choices=("embedded", "published"), default="embedded")
    parser.add_argument("--also", type=json.loads, nargs="*", default=[], help="further rows: keys as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for file in sorted((args.weights / "generate").glob("*.jsonl")) for row in read_ledger(file)]
    rows = [row for row in rows if (row["kind"], row["system"], row["status"]) == ("cross", "ours", "ok")]
    truth = {row["id"]: row["sound_opening"] for row in read_ledger(args.weights / "make_talkers" / "truth.jsonl")}
    choices = PRESETS | {json.dumps(keys): keys for keys in args.also}
    found, distance = {name: Measured() for name in choices}, perceptual(args.perceptual)
    with tempfile.TemporaryDirectory() as folder, LipSync(*find_weights(args.weights)) as session:
        loaded = session.models(True)
        models = Watched(**{one.name: getattr(loaded, one.name) for one in fields(loaded)})
        models.unet.mid_block.register_forward_hook(lambda *call: count(models.measured, call[-1]))
        session.models = lambda trained: models
        mouth, detector = torch.from_numpy(keep_mask(models.resolution) < 0.5), session.detector("mediapipe", 2)
        for row in rows[: args.videos]:
            exact = torch.zeros(0)
            for name, keys in choices.items():
                session.generate, measured, out = Generate(**keys), found[name], Path(folder, "out.mp4")
                models.watch(measured)
                video, audio = args.sources / row["picture_path"], driving_audio(args.weights / row["audio_file"])
                render = session.redraw(video, audio, out, "mediapipe", 2)
                seen = measure.Mouth(render, detector, models.resolution, with_crops=False)
                for _, frame in read_video_frames(out):
                    seen.see(frame)
                driving = metrics.sample_at(render["times_s"], np.array(truth[row["sound_id"]]), TICKS_PER_S)
                measured.r.append(float(metrics.correlation(seen.opening, driving)))
                measured.lag.append(metrics.best_lag(seen.opening, driving, 6)[1])
                measured.opening.append(seen.opening)
                drawn = torch.from_numpy(np.stack(models.faces)) / 127.5 - 1
                exact = drawn if name == "exact" else exact
                measured.squared_error.append(float(127.5**2 * (drawn - exact)[:, :, mouth].square().mean()))
                with torch.inference_mode():
                    measured.lpips.append(float(distance(drawn, exact).mean()))
                print(f"{row['id']} {name}: {row_of(measured)}", file=sys.stderr)
    print(
        "preset | mouth r, mean, least | lag | opening, 5 to 95 % | PSNR, dB | LPIPS | forwards | ms of CPU per frame"
    )
    result = {name: row_of(measured) for name, measured in found.items()}
    for name, row in result.items():
        print(" | ".join([name, *(str(value) for value in row.values())]))
    print(json.dumps(result))


def count(measured: Measured, middle: Tensor) -> None:
    """One full forward pass for each clip of a batch."""
    measured.forwards += len(middle)


def row_of(measured: Measured) -> dict[str, Any]:
    """The figures of one preset."""
    opening = np.concatenate(measured.opening)
    low, high = np.nanpercentile(opening, [5, 95])
    error = np.mean(measured.squared_error)
    return {
        "mouth_r": round(float(np.mean(measured.r)), 3),
        "least_r": round(min(measured.r), 3),
        "lag": round(float(np.mean(measured.lag)), 2),
        "opening": round(float(high - low), 4),
        "psnr_db": None if error == 0 else round(float(10 * np.log10(255**2 / error)), 2),
        "lpips": round(float(np.mean(measured.lpips)), 4),
        "forwards": round(measured.forwards / measured.windows, 1),
        "cpu_ms": round(1000 * measured.cpu_s / measured.frames, 1),
    }


if __name__ == "__main__":
    main()
