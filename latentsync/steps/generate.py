"""generate: lip-sync every pair of picture and sound, and some pairs once more with an untrained U-Net as a control.

Inputs: pairs, test (the clips of the pictures: which face speaks), unet, vae (none: the published one),
whisper (none: the one of the weights folder).
A pair becomes one row of kind own or cross for each system:
  system          ours, or untrained (the same network with fresh weights; id and file end in -untrained)
  status          ok, or rejected with its reason
  video_file  mp4: resolution, pixel format and frame times of the source; its name ends in a key of what made it
  render_file     npz, one entry per written frame: order int64 [m] (source frame), times_s float64 [m], matrices
                  float64 [m, 2, 3] (pixels of the file -> unstretched crop pixels, NaN where the frame passed through);
                  end_s, the end of the last frame
  n_frames, n_generated, passed_through {reason: frames}
  cut_s       seconds that generate.max_s left out at the end, 0 mostly; nothing beyond is read, tracked or measured
  resolution, crf, faces (the detector that made the crops), n_faces (most that it saw at a time)
  unet, vae (stamps of the weights), stand_ins (sentences)
"""

import shutil
import sys
from collections.abc import Callable
from functools import cache, lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from latentsync.config import VERSIONS, Generate
from latentsync.ledger.files import media_file, read_ledgers, replacing, run_dir, write_ledger
from latentsync.ledger.rows import Row
from latentsync.ledger.shard import Journal, run_shard

RENDER = ("order", "times_s", "end_s", "matrices")
NAMED = {"ours": "", "untrained": "-untrained"}


def run(cfg: Generate, inputs: dict[str, list[Path]], outputs: dict[str, Path], sources: Path) -> None:
    """Pairs -> videos in the folder media beside the ledger.

    With several workers each makes the videos of its own pictures and keeps them in part-<number>.jsonl beside the
    ledger; videos do not depend on who made them.
    """
    ledger = outputs["ledger"]
    _gather(ledger)
    if cfg.workers == 1:
        make(cfg, inputs, ledger, sources, 0)
        return
    parts = [ledger.with_name(f"part-{number}.jsonl") for number in range(cfg.workers)]
    for part in parts:  # every worker knows what is finished: its pictures may have been another's
        shutil.copyfile(_journal(ledger), _journal(part))
    fresh = get_context("spawn")  # torch does not survive a fork
    workers = [
        fresh.Process(target=_worker, args=(cfg, inputs, part, sources, number)) for number, part in enumerate(parts)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    killed = [-worker.exitcode for worker in workers if worker.exitcode < 0]
    if killed:
        raise ValueError(
            f"a worker was killed by signal {killed[0]}, 9 mostly means out of memory; lower generate.workers "
            f"({cfg.workers}) and run again: finished videos are kept."
        )
    if any(worker.exitcode for worker in workers):
        raise SystemExit(1)  # the worker has said why
    write_ledger(ledger, read_ledgers(parts))
    _gather(ledger)


def _journal(ledger: Path) -> Path:
    return ledger.parent / "journal" / ledger.name


def _gather(ledger: Path) -> None:
    """Move what workers remembered into the one journal that lasts: another number of them repeats nothing."""
    with Journal(_journal(ledger)) as journal:
        for path in sorted(_journal(ledger).parent.glob("part-*.jsonl")):
            with Journal(path) as part:
                for key, rows in part.rows.items():
                    if journal.rows.get(key) != rows:
                        journal.append(key, rows)
                path.unlink()
                ledger.with_name(path.name).unlink(missing_ok=True)


def _worker(cfg: Generate, inputs: dict[str, list[Path]], part: Path, sources: Path, number: int) -> None:
    try:
        make(cfg, inputs, part, sources, number)
    except ValueError as error:
        print(f"generate: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def make(cfg: Generate, inputs: dict[str, list[Path]], ledger: Path, sources: Path, number: int) -> None:
    """The share of worker `number`: every cfg.workers-th picture."""
    import torch

    from latentsync.generation.loading import load_models

    torch.set_num_threads(cfg.torch_threads)
    [unet] = inputs["unet"]
    vae, whisper = (next(iter(inputs.get(name, [])), None) for name in ("vae", "whisper"))
    clips = {row["id"]: row for row in read_ledgers(inputs["test"])}
    facts = describe(unet, vae)
    rows = [row | facts for row in plan(read_ledgers(inputs["pairs"]), cfg.controls)]
    mine = set(sorted({row["picture_id"] for row in rows})[number :: cfg.workers])
    load = partial(load_models, unet, vae, whisper=whisper)
    with _Renderer(cfg, load, clips, run_dir(ledger), sources) as renderer:
        work = cfg.model_copy(update={"workers": 1})  # a video does not depend on their number
        rows = [row for row in rows if row["picture_id"] in mine]
        run_shard(ledger, rows, work, VERSIONS["generate"], renderer.render)


def plan(pairs: list[Row], controls: int) -> list[Row]:
    """One row per video to make: every pair, and the first cross pairs again as controls; in the order of pictures."""
    again = [pair["id"] for pair in sorted(pairs, key=lambda pair: pair["id"]) if pair["kind"] == "cross"][:controls]
    rows = []
    for pair in sorted(pairs, key=lambda pair: (pair["picture_id"], pair["id"])):
        for system, suffix in NAMED.items():
            if system == "ours" or pair["id"] in again:
                state = {"status": "ok", "reason": None, "detail": ""}
                rows.append(pair | state | {"pair_id": pair["id"], "id": pair["id"] + suffix, "system": system})
    return rows


def describe(unet: Path, vae: Path | None) -> dict[str, Any]:
    """What the videos depend on beside the pair, and which parts are not the published ones, in words."""
    from latentsync.generation.loading import read_unet
    from latentsync.weights.files import content_hash

    tensors, facts = read_unet(unet)
    said = []
    millions = sum(tensor.numel() for tensor in tensors.values()) / 1e6
    if unet.suffix == ".safetensors":
        said.append(f"the U-Net has {millions:.1f} M parameters, trained in this run; LatentSync's has 1267 M")
    if facts["audio_encoder"]["backend"] == "embedded":
        said.append("sound was read by a small untrained encoder, not by Whisper tiny")
    if vae is not None and vae.suffix == ".safetensors":
        said.append("pictures were encoded by a small VAE trained in this run, not by sd-vae-ft-mse")
    if facts.get("teachers") == "embedded":
        said.append("the LPIPS and TREPA losses compared features of small untrained nets, not of VGG16 and VideoMAEv2")
    return {"unet": content_hash(unet), "vae": content_hash(vae) if vae is not None else "published", "stand_ins": said}


class _Renderer:
    """Models and detector, opened when the first video needs them: a second run needs neither."""

    def __init__(self, cfg: Generate, load: Callable[..., Any], clips: dict[str, Row], root: Path, sources: Path):
        from contextlib import ExitStack

        from latentsync.faces.backends import open_detector
        from latentsync.generation import speakers

        self.cfg, self.clips, self.root, self.sources = cfg, clips, root, sources
        self.stack = ExitStack()
        self.models = cache(lambda system: load(trained=system == "ours"))
        self.detector = cache(lambda backend, faces: self.stack.enter_context(open_detector(backend, faces)))
        self.tracks = lru_cache(1)(lambda path, *kind: speakers.track_video(path, self.detector(*kind), cfg.max_s))

    def __enter__(self) -> "_Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def render(self, row: Row, key: str) -> list[Row]:
        """The row of one video.

        Raises:
            Rejection: the picture or the sound cannot be read.
        """
        from latentsync.generation.audio import driving_audio
        from latentsync.generation.pipeline import redraw
        from latentsync.media.audio import read_flac
        from latentsync.media.read import frame_times

        picture, models = self.sources / row["picture_path"], self.models(row["system"])
        backend, faces, chosen = self.speaker(picture, row["picture_clips"])
        heard = read_flac(self.root / row["audio_file"])
        whole = self.cfg.max_s is None or frame_times(picture)[1] <= self.cfg.max_s
        copied = row["kind"] == "own" and self.cfg.length == "video" and whole
        sound = driving_audio(self.sources / row["sound_path"], copied, heard, self.cfg.max_s)
        out = self.root / media_file("generate", row["id"], key, ".mp4")
        out.parent.mkdir(parents=True, exist_ok=True)
        report = redraw(picture, sound, out, models, self.cfg, self.tracks(picture, backend, faces), chosen)
        with replacing(out.with_suffix(".npz")) as temporary:
            np.savez(temporary, **{name: report.pop(name) for name in RENDER})
        files = {
            "video_file": out.relative_to(self.root).as_posix(),
            "render_file": out.with_suffix(".npz").relative_to(self.root).as_posix(),
        }
        facts = {"resolution": models.resolution, "crf": self.cfg.crf, "faces": backend, "n_faces": faces}
        return [row | files | report | facts]

    def speaker(self, picture: Path, clip_ids: list[str]) -> tuple[str, int, list[int]]:
        """The detector that made these clips' crops, how many faces it saw, and the tracks that are the clips'."""
        from latentsync.generation import speakers
        from latentsync.media.read import frame_times

        rows = [self.clips[clip] for clip in clip_ids]
        backend, faces, chosen = rows[0]["faces"], max(row["n_faces"] for row in rows), []
        for row in rows:
            with np.load(self.root / row["geometry_file"]) as geometry:
                landmarks = geometry["landmarks"]
            tracks = self.tracks(picture, backend, faces)
            chosen.append(speakers.same_face(tracks, frame_times(picture)[0], landmarks, row["start_tick"]))
        return backend, faces, [index for index in chosen if index is not None]
