"""enhance: restore the faces of generated videos; switched off (method null) the rows pass through as they are.

Columns: video_file names the restored video, unenhanced_file the one that generate wrote, n_enhanced counts restored
frames. Controls of the evaluation stay as they are.
"""

from functools import cache
from pathlib import Path

import numpy as np

from latentsync import records, registry
from latentsync.config import VERSIONS, Enhance
from latentsync.records import Row


def run(cfg: Enhance, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None) -> None:
    """Ledger of generate -> the same with restored videos, in the folder media beside it."""
    rows, ledger = records.read_ledgers(inputs["generate"]), outputs["ledger"]
    if cfg.method is None:
        records.write_ledger(ledger, rows)
        return
    path = registry.find(cfg.method, cfg.weights, f"enhance.method: {cfg.method}")

    from contextlib import ExitStack

    from latentsync.lipsync.enhance import enhance_video
    from latentsync.models.checkpoints import stamp
    from latentsync.models.faces import open_detector
    from latentsync.models.restorers import open_restorer

    root = records.run_dir(ledger)
    restorer = cache(lambda: open_restorer(cfg.method, path))
    facts = {"restorer": stamp(path)}
    with ExitStack() as stack:
        detector = cache(lambda *kind: stack.enter_context(open_detector(*kind)))

        def work(row: Row, key: str) -> list[Row]:
            if row["system"] != "ours":
                return [row]
            out = root / records.media_file("enhance", row["id"], key, ".mp4")
            with np.load(root / row["render_file"]) as render:
                matrices = render["matrices"]
            faces = detector(row["faces"], row["n_faces"])
            n = enhance_video(root / row["video_file"], out, matrices, row["resolution"], restorer(), cfg, faces)
            files = {"video_file": out.relative_to(root).as_posix(), "unenhanced_file": row["video_file"]}
            return [row | files | {"n_enhanced": n, "crf": cfg.crf}]

        records.run_shard(ledger, [row | facts for row in rows], cfg, VERSIONS["enhance"], work)
