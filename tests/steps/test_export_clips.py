"""Step export_clips: the crop's packets untouched, its audio shifted into sync, readable by anything."""

import av
import numpy as np
import pytest

from latentsync.config import ExportClips
from latentsync.ledger.files import read_ledger, write_ledger
from latentsync.ledger.rows import clip_id, source_id
from latentsync.media.audio import read_audio
from latentsync.media.probe import probe_media
from latentsync.media.write import VideoWriter, write_flac
from latentsync.steps import export_clips
from tests import fixtures
from tests.videos import clicks, smooth_images


def packets(path):
    with av.open(str(path)) as container:
        return [(packet.pts, bytes(packet)) for packet in container.demux(video=0) if packet.size]


@pytest.fixture
def run_dir(tmp_path):
    """A source of 8 s with clicks at 3.0 and 5.0 s; its image is cropped to the ticks 50 to 150."""
    root = tmp_path / "results" / "demo"
    write_flac(root / "resample/media/s.flac", clicks(8, [3.0, 5.0], 16_000))
    with VideoWriter(root / "align_faces/media/c.mp4", 25, 64, 64) as writer:
        for image in smooth_images(100, 64, 64):
            writer.write(image)
    return root


def export(root, rows_by_split):
    inputs = {}
    for split in ("train", "val", "test"):
        ledger = root / "select_clips" / f"{split}.jsonl"
        write_ledger(ledger, rows_by_split.get(split, []))
        inputs[split] = [ledger]
    export_clips.run(ExportClips(), inputs, {"ledger": root / "export_clips" / "clips.jsonl"}, None)
    return read_ledger(root / "export_clips" / "clips.jsonl")


def clip(offset, track=0, audio_file="resample/media/s.flac"):
    files = {"audio_file": audio_file, "crop_file": "align_faces/media/c.mp4"}
    return fixtures.clip("s.mp4", 50, 150, track, split="train", offset_frames=offset, **files)


@pytest.mark.parametrize("offset", [0, 4, -7])
def test_the_audio_is_taken_at_t_minus_offset(run_dir, offset):
    [row] = export(run_dir, {"train": [clip(offset)]})
    path = run_dir / row["export_file"]
    assert packets(path) == packets(run_dir / "align_faces/media/c.mp4")
    sound = read_audio(path)
    # at clip time t the source's audio of 2 s + t - offset / 25 is heard
    for click_s in (1.0, 3.0):
        expected = round((click_s + offset / 25) * 16_000)
        assert abs(expected - 300 + int(np.abs(sound[expected - 300 : expected + 300]).argmax()) - expected) <= 1
    info = probe_media(path)
    assert (info.n_frames, info.fps, info.audio_rate_hz) == (100, 25, 16_000)


def test_audio_beyond_the_source_is_silence_and_a_silent_source_has_none(run_dir):
    row = clip(0) | {"start_tick": 150, "end_tick": 250, "id": clip_id(source_id("s.mp4"), 150, 250, 0)}
    rows = export(run_dir, {"train": [row], "test": [clip(0, track=1, audio_file=None)]})
    by_id = {r["id"]: r for r in rows}
    late = read_audio(run_dir / by_id[row["id"]]["export_file"])
    assert 64_000 <= len(late) <= 66_000 and np.abs(late).max() < 1e-3
    assert not probe_media(run_dir / by_id[clip(0, track=1)["id"]]["export_file"]).has_audio


def test_a_clip_that_is_both_train_and_test_is_exported_once(run_dir):
    assert len(export(run_dir, {"train": [clip(0)], "test": [clip(0) | {"split": "test"}]})) == 1
