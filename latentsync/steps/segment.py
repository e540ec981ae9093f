"""Cut scenes into segments. Only times are computed; no file is written. A segment never crosses a cut."""

from pathlib import Path

from latentsync.config import VERSIONS, Segment
from latentsync.ledger.columns import Source
from latentsync.ledger.files import read_ledger
from latentsync.ledger.rows import Row, segment_id
from latentsync.ledger.shard import run_shard
from latentsync.timing import pieces, ticks_in


def run(cfg: Segment, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path | None = None) -> None:
    """Ledger of sources -> ledger of segments, ticks [start_tick, end_tick)."""
    [ledger] = inputs["detect_scenes"]
    length = ticks_in(cfg.length_s)
    run_shard(
        outputs["ledger"], read_ledger(ledger), cfg, VERSIONS["segment"], lambda row, _: segment_source(row, length)
    )


def segment_source(row: Source, length: int) -> list[Row]:
    """One row for each piece of each scene; short scenes stay, since select_clips judges length."""
    bounds = [0, *row["cuts"], row["n_ticks"]]
    base = {name: value for name, value in row.items() if name != "cuts"} | {"kind": "segment"}
    return [
        base | {"id": segment_id(row["source_id"], first, last), "start_tick": first, "end_tick": last}
        for start, stop in zip(bounds, bounds[1:], strict=False)
        for first, last in pieces(start, stop, length)
    ]
