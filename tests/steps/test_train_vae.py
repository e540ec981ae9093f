"""The small VAE learns, sees masked faces, and knows the spread of its latents."""

import csv

import numpy as np
import pytest
import torch

from latentsync.config import TrainVae
from latentsync.faces.mask import keep_mask
from latentsync.ledger.files import read_ledger, write_ledger
from latentsync.models import vae as vaes
from latentsync.steps import train_vae
from latentsync.training.clips import ClipStore
from latentsync.weights import files as weight_files
from tests import toys

CFG = TrainVae(
    steps=120, batch_size=4, learning_rate=4e-3, mixed_precision="no", gradient_checkpointing=False, log_every=40,
    save_every=120, torch_threads=1, block_out_channels=(8, 16, 16, 16),
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = toys.run_folder(tmp_path_factory.mktemp("run"), n_frames=12)
    outputs = {"weights": folder / "train_vae/vae.safetensors", "curve": folder / "train_vae/curve.csv"}
    train_vae.run(CFG, toys.ledgers(folder, "train", "val"), outputs, None)
    return folder, outputs


def test_it_learns(trained):
    rows = list(csv.DictReader(trained[1]["curve"].open()))
    assert [row["step"] for row in rows] == ["40", "80", "120"]
    assert float(rows[-1]["l1"]) < 0.8 * float(rows[0]["l1"])
    assert float(rows[-1]["val_psnr_db"]) > 12 and float(rows[-1]["val_masked_psnr_db"]) > 12


def test_latents_of_the_written_vae_have_unit_spread(trained):
    folder, outputs = trained
    vae = vaes.load(outputs["weights"])
    assert weight_files.metadata(outputs["weights"])["resolution"] == 64
    clips = ClipStore(read_ledger(folder / "select_clips/train.jsonl"), folder)
    pixels = train_vae.fixed_frames(clips)
    latents = vaes.sample(vae, vaes.encode_moments(vae, pixels), torch.Generator().manual_seed(1))
    assert latents.shape[1:] == (4, 8, 8)
    assert float(latents.std()) == pytest.approx(1, abs=0.02)


def test_fixed_frames_are_spread_over_all_clips(trained, monkeypatch):
    folder, _ = trained
    clips = ClipStore(read_ledger(folder / "select_clips/train.jsonl"), folder)
    assert len(train_vae.fixed_frames(clips)) == 8 * 12, "all there are, where there are few"
    monkeypatch.setattr(train_vae, "MEASURED_FRAMES", 10)
    some = train_vae.fixed_frames(clips)
    assert 8 <= len(some) <= 10
    assert len(some.flatten(1).unique(dim=0)) == len(some)


def test_fixed_frames_reach_the_last_of_many_clips(monkeypatch):
    class Numbered(list):
        """Clips of 20 frames whose images show the clip's number."""

        def n_frames(self, index):
            return 20

        def frames(self, index, start, stop):
            assert 0 <= start < stop <= 20
            return np.full((stop - start, 2, 2, 3), self[index], np.uint8)

    monkeypatch.setattr(train_vae, "MEASURED_FRAMES", 10)
    for n_clips in (15, 100, 250):
        shown = (train_vae.fixed_frames(Numbered(range(n_clips)))[:, 0, 0, 0] + 1) * 127.5
        assert np.allclose(shown, [k * n_clips // 10 for k in range(10)], atol=0.01)


def test_the_share_of_masked_images_is_kept(trained):
    folder, _ = trained
    clips = ClipStore(read_ledger(folder / "select_clips/train.jsonl"), folder)
    hole = keep_mask(64) == 0
    masked = {}
    for share in (0.0, 0.25, 1.0):
        task = train_vae._task(CFG.model_copy(update={"masked_share": share}), torch.nn.Identity(), clips, clips)
        items = [task.item(n, np.random.default_rng([1, n]))["pixels"] for n in range(200)]
        masked[share] = sum(not item[:, hole].any() for item in items)
    assert masked[0.0] == 0 and masked[1.0] == 200 and 30 <= masked[0.25] <= 70


def test_no_clip_at_all_is_one_sentence(trained, tmp_path):
    write_ledger(tmp_path / "select_clips/empty.jsonl", [])
    inputs = {"train": [tmp_path / "select_clips/empty.jsonl"], "val": [tmp_path / "select_clips/empty.jsonl"]}
    outputs = {"weights": tmp_path / "train_vae/v.safetensors", "curve": tmp_path / "train_vae/c.csv"}
    with pytest.raises(ValueError, match=r"Too little data for train_vae: 0 of 0 clips .* select_clips"):
        train_vae.run(CFG, inputs, outputs, None)
