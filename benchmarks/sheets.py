"""Contact sheets of aligned crops, one PNG for each video of a folder that has a face: for people to look at.

    python benchmarks/sheets.py FOLDER OUT [--backend mediapipe] [--resolution 256]

Each row is a clip, twelve ticks from its first to its last; a red frame marks a tick in which the face was not found
(its place is interpolated). Prints one line of JSON for each clip.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from latentsync.ledger.files import read_ledger
from latentsync.ledger.rows import Row
from latentsync.ledger.sources import write_sources
from latentsync.media.read import read_clip

STEPS = (("sources", "probe"), ("probe", "resample"), ("resample", "detect_scenes"), ("detect_scenes", "segment"))
TICKS, SIDE_PX, EDGE_PX = 12, 128, 4
SHOWN = ("path", "start_tick", "end_tick", "track", "face_px", "face_share", "raw_jitter_px", "jitter_px")


def main() -> None:
    """Curate up to align_faces, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backend", default="mediapipe")
    parser.add_argument("--resolution", type=int, default=256)
    args = parser.parse_args()
    folder, run = args.folder.resolve(), args.out.resolve() / "run"
    python = [sys.executable, "-m"]
    write_sources(folder, run / "sources", 1)
    section = {"backend": args.backend, "resolution": args.resolution}
    for before, step in (*STEPS, ("segment", "align_faces")):
        config = json.dumps(section if step == "align_faces" else {})
        call = [*python, "latentsync.steps", step, "--config", config, "--sources", str(folder)]
        call += ["--input", before, str(run / before / "00000.jsonl")]
        subprocess.run([*call, "--output", "ledger", str(run / step / "00000.jsonl")], check=True)
    clips: dict[str, list[Row]] = {}
    for row in read_ledger(run / "align_faces" / "00000.jsonl"):
        if row["kind"] == "clip" and row["status"] == "ok":
            clips.setdefault(row["path"], []).append(row)
            print(json.dumps({name: row[name] for name in SHOWN}))
    for path, rows in clips.items():
        sheet = np.concatenate([strip(row, run) for row in rows])
        Image.fromarray(sheet).save(args.out / f"{Path(path).stem}.png")


def strip(row: Row, run: Path) -> np.ndarray:
    """Twelve crops of a clip side by side, uint8 (h, w, 3)."""
    found = np.load(run / row["geometry_file"])["found"]
    crops = read_clip(run / row["crop_file"])
    tiles = []
    for tick in np.linspace(0, len(crops) - 1, TICKS).astype(int):
        tile = np.array(Image.fromarray(crops[tick]).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS))
        edge = np.full((SIDE_PX + 2 * EDGE_PX, SIDE_PX + 2 * EDGE_PX, 3), 255, np.uint8)
        edge[...] = (255, 255, 255) if found[tick] else (220, 30, 30)
        edge[EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX] = tile
        tiles.append(edge)
    return np.concatenate(tiles, 1)


if __name__ == "__main__":
    main()
