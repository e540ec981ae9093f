"""A curation that takes seconds: videos of 40 frames, small crops, no thresholds; and functions that run it."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from tests.videos import clicks, head, write_video

ROOT = Path(__file__).parent.parent.parent
SECTIONS = {
    "run": "short",
    "align_faces": {"backend": "mediapipe", "resolution": 64},
    "score_sync": {"backend": "envelope"},
    "score_quality": {"backend": "piqe", "frames": 1},
    "select_clips": {
        "min_s": None, "min_face_px": None, "min_sync_confidence": None, "max_offset_frames": None,
        "min_quality": None, "min_speech_share": None,
    },
    "extract_features": {"audio_encoder": "embedded", "vae": "embedded"},
    "train_unet_stage1": {"init": None},
    "train_unet_stage2": {"teachers": "embedded"},
    "evaluate": {"sync_backend": "envelope"},
    "segment": {"length_s": 0.8},
}  # fmt: skip


def heads(folder: Path, *names: str) -> None:
    """One video of 1.6 s for each name; the content follows from the name."""
    folder.mkdir(exist_ok=True)
    for name in names:
        first = sum(name.encode()) % 100
        audio = clicks(1.6, [0.3 + first / 400, 1.0], 16_000)
        write_video(
            folder / name,
            40,
            size=(208, 176),
            images=lambda i, w, h, first=first: head(i + first, w, h),
            audio=audio,
            audio_rate_hz=16_000,
        )


def command(folder: Path, shards: int, target: str = "curate") -> list[str]:
    """The Snakemake command that curates `folder`/in with the results in `folder`."""
    configfile = folder / "short.yaml"
    if not configfile.exists():
        configfile.write_text(yaml.safe_dump(SECTIONS | {"input_dir": str(folder / "in"), "shards": shards}))
    parts = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder]
    parts += ["--configfile", configfile, "--profile", ROOT / "profiles/default", "--cores", "2", target]
    return [str(part) for part in parts]


def curate(folder: Path, shards: int, target: str = "curate") -> Path:
    """Run the command; returns the folder of the run."""
    done = subprocess.run(command(folder, shards, target), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder / "results/short"


def processed(run: Path) -> dict[str, list[str]]:
    """Step -> ids of all rows that it has processed, in that order, one entry per time."""
    return {
        step.name: [json.loads(line)["id"] for costs in sorted(step.glob("*.jsonl")) for line in costs.open()]
        for step in sorted((run / "costs").iterdir())
    }
