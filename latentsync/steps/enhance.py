"""enhance: restore the faces of generated videos; switched off (method null) the rows pass through as they are.

Columns: video_file names the restored video, unenhanced_file the one that generate wrote, n_enhanced counts restored
frames. Controls of the evaluation stay as they are.
"""

from functools import cache
from pathlib import Path

import numpy as np

from latentsync.config import VERSIONS, Enhance
from latentsync.ledger.files import media_file, read_ledgers, run_dir, write_ledger
from latentsync.ledger.rows import Row
from latentsync.ledger.shard import run_shard
from latentsync.weights import registry


def run(cfg: Enhance, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None) -> None:
    """Ledger of generate -> the same with restored videos, in the folder media beside it."""
    rows, ledger = read_ledgers(inputs["generate"]), outputs["ledger"]
    if cfg.method is None:
        write_ledger(ledger, rows)
        return
    path = registry.find(cfg.method, cfg.weights, f"enhance.method: {cfg.method}")

    from contextlib import ExitStack

    from latentsync.faces.backends import open_detector
    from latentsync.generation.restore import enhance_video
    from latentsync.models.restorers import open_restorer
    from latentsync.weights.files import content_hash

    root = run_dir(ledger)
    restorer = cache(lambda: open_restorer(cfg.method, path))
    facts = {"restorer": content_hash(path)}
    with ExitStack() as stack:
        detector = cache(lambda *kind: stack.enter_context(open_detector(*kind)))

        def work(row: Row, key: str) -> list[Row]:
            if row["system"] != "ours":
                return [row]
            out = root / media_file("enhance", row["id"], key, ".mp4")
            with np.load(root / row["render_file"]) as render:
                matrices = render["matrices"]
            faces = detector(row["faces"], row["n_faces"])
            n = enhance_video(root / row["video_file"], out, matrices, row["resolution"], restorer(), cfg, faces)
            files = {"video_file": out.relative_to(root).as_posix(), "unenhanced_file": row["video_file"]}
            return [row | files | {"n_enhanced": n, "crf": cfg.crf}]

        run_shard(ledger, [row | facts for row in rows], cfg, VERSIONS["enhance"], work)
