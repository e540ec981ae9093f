"""The configuration: published defaults, refusals in one sentence, overlays and generated pages up to date."""

import runpy
from pathlib import Path

import pytest
import yaml

from latentsync import config

ROOT = Path(__file__).parent.parent


def test_defaults_are_the_published_recipe():
    """Numbers of LatentSync 1.5's configuration files and of its data pipeline."""
    cfg = config.Config()
    assert (cfg.select_clips.min_sync_confidence, cfg.select_clips.max_offset_frames) == (3, 6)
    assert (cfg.select_clips.min_quality, cfg.segment.length_s, cfg.align_faces.crf) == (40, 5, 13)
    assert cfg.align_faces.resolution == 256
    assert cfg.train_unet_stage2.losses.model_dump() == {"recon": 1, "sync": 0.05, "lpips": 0.1, "trepa": 10}
    assert cfg.train_unet_stage2.trainable == ("motion_modules.", "attentions.")
    assert cfg.train_unet_stage1.unet.block_out_channels == (320, 640, 1280, 1280)
    assert cfg.train_syncnet.visual.block_out_channels == (64, 128, 256, 256, 512, 1024, 2048, 2048)
    assert cfg.train_syncnet.audio.downsample_factors == ((2, 1), 2, 2, 1, 2, 2, (2, 3))
    assert (cfg.generate.steps, cfg.generate.guidance, cfg.generate.seed) == (20, 1.5, 1247)
    assert cfg.train_unet_stage1.init == "sd15"
    assert cfg.train_unet_stage1.learning_rate == 1e-5 and cfg.train_unet_stage1.ema_decay is None


@pytest.mark.parametrize(
    "values, words",
    [
        ({"foo": 1}, ["foo", "Unknown"]),
        ({"align_faces": {"resolutoin": 256}}, ["align_faces.resolutoin", "resolution"]),
        ({"align_faces": {"backend": "dlib"}}, ["align_faces.backend", "dlib", "mediapipe"]),
        ({"generate": {"guidance": 0.5}}, ["generate.guidance", "0.5", "1"]),
        ({"run": "a/b"}, ["run", "a/b"]),
        ({"shards": 0}, ["shards", "0"]),
        ({"train_syncnet": {"min_negative_frames": 9, "max_negative_frames": 3}}, ["max_negative_frames", "3", "9"]),
        ({"score_sync": {"backend": "stable_syncnet"}}, ["min_sync_confidence", "3", "stable_syncnet", "1 at most"]),
        ({"select_clips": {"max_duplicate_bits": 40}}, ["max_duplicate_bits", "40", "16"]),
        ({"probe": None}, ["probe", "None"]),
    ],
)
def test_a_wrong_key_or_value_is_named(values, words):
    with pytest.raises(ValueError) as refusal:
        config.validate(values)
    assert all(word in str(refusal.value) for word in words)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_every_file_in_config_is_valid(path):
    config.validate(yaml.safe_load(path.read_text()))


def test_the_demo_needs_no_download():
    demo = config.validate(yaml.safe_load((ROOT / "config/config.yaml").read_text()))
    assert demo.synthetic and demo.train_unet_stage2.teachers == "embedded"
    assert (demo.align_faces.backend, demo.score_sync.backend) == ("mediapipe", "envelope")


def test_a_file_other_than_the_demo_names_whole_sections():
    """Nothing of config.yaml may leak into another file; each stands alone on the published defaults."""
    latent = yaml.safe_load((ROOT / "config/latentsync-256.yaml").read_text())
    assert config.validate(latent) == config.Config(**{key: latent[key] for key in ("run", "input_dir", "shards")})


def test_generated_pages_are_up_to_date():
    generate = runpy.run_path(str(ROOT / "docs/generate.py"))
    assert (ROOT / "config/README.md").read_text() == generate["readme"](), "run python docs/generate.py"
    assert (ROOT / "config/schema.json").read_text() == generate["schema"](), "run python docs/generate.py"
    assert (ROOT / "docs/ledger.md").read_text() == generate["ledger"](), "run python docs/generate.py"


@pytest.mark.parametrize("name", ["16_pixel", "25_pixel"])
def test_files_of_syncnet_are_the_published_shapes(name):
    from latentsync.models import syncnet

    path = ROOT / f"config/syncnet-{name.replace('_', '-')}.yaml"
    cfg, published = config.validate(yaml.safe_load(path.read_text())).train_syncnet, syncnet.PUBLISHED[name]
    assert (cfg.visual, cfg.audio, cfg.frames) == (published.visual, published.audio, published.frames)


def test_the_efficient_stage_2_trains_what_was_published():
    """392 tensors with 284.7 M numbers (spec A.5)."""
    import torch

    from latentsync.models.unet import UNet3D, UNetConfig

    cfg = config.validate(yaml.safe_load((ROOT / "config/stage2-efficient.yaml").read_text())).train_unet_stage2
    assert cfg.losses.trepa == 0 and cfg.losses.sync == 0.05
    for section, tensors, millions in ((cfg, 392, 284.7), (config.TrainUnetStage2(), 936, 674.8)):
        with torch.device("meta"):
            net = UNet3D(UNetConfig(motion=section.motion))
        trained = [p for name, p in net.named_parameters() if any(part in name for part in section.trainable)]
        assert len(trained) == tensors and sum(p.numel() for p in trained) / 1e6 == pytest.approx(millions, abs=0.05)
