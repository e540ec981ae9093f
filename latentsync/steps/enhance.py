"""enhance: restore the faces of a shard's generated videos; with method null the rows pass through unchanged.

Columns: video_file names the restored video, unenhanced_file the one that generate wrote; n_enhanced counts restored
frames. The controls of the evaluation stay as they are.
"""

from pathlib import Path
from typing import Any

import numpy as np

from latentsync.config import VERSIONS, EnhanceInRun
from latentsync.ledger.columns import Video
from latentsync.ledger.files import media_file, read_ledgers, run_dir, write_ledger
from latentsync.ledger.shard import run_shard
from latentsync.weights import registry


def run(cfg: EnhanceInRun, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None) -> None:
    """Ledger of generate -> the same with restored videos, in the folder media beside it."""
    rows, ledger = read_ledgers(inputs["generate"]), outputs["ledger"]
    weights = cfg.method and registry.find(cfg.method, cfg.weights, f"enhance.method: {cfg.method}")
    if weights is None or not rows:
        write_ledger(ledger, rows)
        return

    from latentsync.generation.api import LipSync
    from latentsync.weights.files import content_hash

    root, restorer = run_dir(ledger), {"restorer": content_hash(weights)}
    with LipSync(enhance=cfg, tracking=cfg.tracking) as session:

        def work(row: Video, key: str) -> list[Any]:
            if row["system"] != "ours":
                return [row]
            out = root / media_file("enhance", row["id"], key, ".mp4")
            with np.load(root / row["render_file"]) as render:
                matrices = render["matrices"]
            video = root / row["video_file"]
            crf = row["crf"] if cfg.crf is None else cfg.crf
            n_enhanced = session.restore(video, out, matrices, row["resolution"], row["faces"], row["n_faces"], crf)
            files = {"video_file": out.relative_to(root).as_posix(), "unenhanced_file": row["video_file"]}
            return [row | files | {"n_enhanced": n_enhanced, "crf": crf}]

        run_shard(ledger, [row | restorer for row in rows], cfg, VERSIONS["enhance"], work)
