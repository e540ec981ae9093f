"""Step export_webdataset and the mp4 files it is made of, read back by a program that knows nothing of ours."""

import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from latentsync.config import ExportClips, ExportWebdataset
from latentsync.faces import alignment
from latentsync.ledger.columns import Clip, Tar
from latentsync.ledger.files import read_ledger, write_ledger
from latentsync.ledger.rows import clip_id, source_id
from latentsync.media.write import VideoWriter, write_flac
from latentsync.steps import export_clips, export_webdataset
from tests import fixtures
from tests.fixtures import faults
from tests.videos import clicks

START, STOP, SIDE = 50, 130, 64  # ticks of every clip in a source of 8 s
FLASH = 30  # the frame of the clip that is white
OFFSETS = {"early.mp4": -6, "good.mp4": 0, "late.mp4": 4, "ein Über.mp4": 9, "mute.mp4": 0}

# No name of ours in it: what anybody could write who was given the files.
READER = """
import io, json, sys, av, numpy as np, webdataset

def look(data):
    with av.open(io.BytesIO(data)) as file:
        video = file.streams.video[0]
        images = [frame.to_ndarray(format="rgb24") for frame in file.decode(video)]
        facts = {"fps": float(video.average_rate), "shape": np.shape(images)}
    bright = [float(image.mean()) for image in images]
    facts["flash_s"] = int(np.argmax(bright)) / facts["fps"]
    with av.open(io.BytesIO(data)) as file:
        if file.streams.audio:
            rate = file.streams.audio[0].sample_rate
            sound = np.zeros(rate * 60, np.float32)
            for frame in file.decode(file.streams.audio[0]):
                start = round(frame.pts * frame.time_base * rate)
                part = frame.to_ndarray()[0]
                sound[max(start, 0) : start + len(part)] = part[max(-start, 0) :]
            facts["click_s"] = int(np.abs(sound).argmax()) / rate
            facts["rate_hz"] = rate
    return facts

result = {}
for path in sys.argv[1:]:
    if path.endswith(".mp4"):
        result[path] = look(open(path, "rb").read())
        continue
    for sample in webdataset.WebDataset(path, shardshuffle=False):
        facts = look(sample["mp4"]) | {"json": json.loads(sample["json"])}
        facts["sizes"] = {k: np.load(io.BytesIO(sample[k])).shape for k in sample if k.endswith(".npy")}
        result.setdefault(path, {})[sample["__key__"]] = facts
assert not any(name.startswith("latentsync") for name in sys.modules)
print(json.dumps(result))
"""


def read_back(folder, *paths):
    reader = folder / "reader.py"
    reader.write_text(READER)
    command = [sys.executable, "-I", str(reader), *map(str, paths)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def clip(root, path, group="anna"):
    """A clip whose flash and click are OFFSETS[path] frames apart: a positive offset is a image that is late."""
    source, offset = source_id(path), OFFSETS[path]
    ident = clip_id(source, START, STOP, 0)
    crop, flac, npz = (
        f"align_faces/media/{ident}.mp4",
        f"resample/media/{source}.flac",
        f"align_faces/media/{ident}.npz",
    )
    with VideoWriter(root / crop, 25, SIDE, SIDE) as writer:
        for frame in range(STOP - START):
            writer.write(np.full((SIDE, SIDE, 3), 250 if frame == FLASH else 60, np.uint8))
    write_flac(root / flac, clicks(8, [(START + FLASH - offset + 0.5) / 25], 16_000, width=40))
    rng = np.random.default_rng(len(path))
    matrix = np.array([[0.5, 0.02, -30], [-0.02, 0.5, -40]]) + rng.normal(size=(STOP - START, 2, 3)) * 0.01
    np.savez(
        root / npz,
        matrices=matrix.astype(np.float32),
        landmarks=rng.uniform(90, 200, (STOP - START, 5, 2)),
        found=[True],
    )
    has_audio = path != "mute.mp4"
    columns = {
        "n_ticks": 200, "crop_file": crop, "geometry_file": npz, "audio_file": flac if has_audio else None,
        "has_audio": has_audio, "resolution": SIDE, "offset_frames": offset, "group": group, "sync_confidence": 7.5,
        "quality": 55.0, "fps": 30.0, "n_frames": 240, "width": 640, "sha256": "00", "video_codec": "h264",
    }  # fmt: skip
    return fixtures.clip(path, START, STOP, **columns)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "results/demo"


def export(root, splits, samples_per_tar=2):
    """Both exports of the rows of each split; the rows of the tars."""
    inputs = {}
    for split in ("train", "val", "test"):
        inputs[split] = [root / f"select_clips/{split}.jsonl"]
        write_ledger(inputs[split][0], [row | {"split": split} for row in splits.get(split, [])])
    clips, tars = root / "export_clips/clips.jsonl", root / "export_webdataset/tars.jsonl"
    export_clips.run(ExportClips(), inputs, {"ledger": clips}, None)
    cfg = ExportWebdataset(samples_per_tar=samples_per_tar)
    export_webdataset.run(cfg, inputs | {"clips": [clips]}, {"ledger": tars}, None)
    rows = read_ledger(tars)
    assert not [fault for row in read_ledger(clips) for fault in faults(row, Clip)]
    assert not [fault for row in rows for fault in faults(row, Tar)]
    return rows


def test_others_read_both_exports_and_find_flash_and_click_together(root, tmp_path):
    rows = {path: clip(root, path) for path in OFFSETS}
    export(root, {"train": list(rows.values())})
    tars = sorted((root / "export_webdataset").glob("*.tar"))
    assert [path.name for path in tars] == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    files = {row["id"]: root / row["export_file"] for row in read_ledger(root / "export_clips/clips.jsonl")}
    read = read_back(tmp_path, *tars, *files.values())
    samples = {key: facts for path in tars for key, facts in read[str(path)].items()}
    assert list(samples) == sorted(row["id"] for row in rows.values())
    for path, row in rows.items():
        for facts in (samples[row["id"]], read[str(files[row["id"]])]):
            assert (facts["fps"], facts["shape"]) == (25, [STOP - START, SIDE, SIDE, 3])
            assert facts["flash_s"] == FLASH / 25
            if path == "mute.mp4":
                assert "click_s" not in facts
            else:  # the click lies in the middle of the frame that flashes
                assert facts["rate_hz"] == 16_000 and abs(facts["click_s"] - (FLASH + 0.5) / 25) < 0.5 / 25, path
        known = samples[row["id"]]["json"]
        assert (known["split"], known["group"], known["offset_frames"]) == ("train", "anna", OFFSETS[path])
        assert (known["fps"], known["n_frames"], known["start_tick"]) == (25, STOP - START, START)
        assert (known["source"]["path"], known["source"]["fps"], known["source"]["n_frames"]) == (path, 30, 240)
        assert known["audio_rate_hz"] == (None if path == "mute.mp4" else 16_000) and known["quality"] == 55
        assert not [name for name in known if name.endswith("_file")]
        sizes = samples[row["id"]]["sizes"]
        assert sizes == {"landmarks.npy": [STOP - START, 5, 2], "matrices.npy": [STOP - START, 2, 3]}


def test_landmarks_lie_in_pixels_of_the_mp4(root):
    """A mark in the source lands in the written face where matrices.npy and landmarks.npy say."""
    row = clip(root, "good.mp4")
    image = np.zeros((400, 400, 3), np.uint8)
    mark = np.array([120, 160])
    image[mark[1] - 2 : mark[1] + 3, mark[0] - 2 : mark[0] + 3] = 255
    with np.load(root / row["geometry_file"]) as arrays:
        matrix = arrays["matrices"][0]
        marked = dict(arrays) | {"landmarks": np.broadcast_to(mark, (STOP - START, 1, 2))}
    np.savez(root / row["geometry_file"], **marked)
    face = alignment.stretch(alignment.crop(image, matrix, SIDE), SIDE)[..., 0].clip(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    seen = np.array([(x * face).sum(), (y * face).sum()]) / face.sum()
    export(root, {"train": [row]})
    with tarfile.open(root / "export_webdataset/train-000000.tar") as tar:
        name = f"{row['id']}.landmarks.npy"
        told = np.load(io.BytesIO(tar.extractfile(name).read()))[0, 0]
    assert np.abs(told - seen).max() < 0.1 and face.sum() > 0


def contents(root):
    return {path.name: path.read_bytes() for path in (root / "export_webdataset").glob("*.tar")}


def test_the_same_clips_give_the_same_bytes_anywhere(root, tmp_path):
    for place in (root, tmp_path / "elsewhere/demo"):
        export(place, {"train": [clip(place, path) for path in ("good.mp4", "late.mp4")]})
    assert contents(root) == contents(tmp_path / "elsewhere/demo")
    with tarfile.open(root / "export_webdataset/train-000000.tar") as tar:
        members = tar.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}


def test_clips_below_three_groups_stand_in_the_tars_of_every_split(root):
    row = clip(root, "good.mp4")
    rows = export(root, dict.fromkeys(("train", "val", "test"), [row]))
    assert [(r["id"], r["n_samples"]) for r in rows] == [(f"{s}-000000", 1) for s in ("test", "train", "val")]
    for split in ("train", "val", "test"):
        with tarfile.open(root / f"export_webdataset/{split}-000000.tar") as tar:
            assert json.load(tar.extractfile(f"{row['id']}.json"))["split"] == split
    assert len(read_ledger(root / "export_clips/clips.jsonl")) == 1, "one mp4, however many tars hold it"


def test_a_second_export_writes_what_changed_and_names_that_are_no_more_go(root):
    rows = sorted((clip(root, path) for path in OFFSETS), key=lambda row: row["id"])
    export(root, {"train": rows})
    folder = root / "export_webdataset"
    before = {path.name: (path.readlink(), path.stat().st_mtime_ns) for path in folder.glob("*.tar")}
    export(root, {"train": rows[:3]})  # the second tar loses a clip, the third goes
    after = {path.name: (path.readlink(), path.stat().st_mtime_ns) for path in folder.glob("*.tar")}
    assert sorted(after) == ["train-000000.tar", "train-000001.tar"]
    assert after["train-000000.tar"] == before["train-000000.tar"]
    assert after["train-000001.tar"] != before["train-000001.tar"]
    export(root, {"train": rows})  # and back: everything is still there, and nothing is written again
    assert {path.name: (path.readlink(), path.stat().st_mtime_ns) for path in folder.glob("*.tar")} == before


def test_an_export_that_fails_leaves_the_tars_of_the_one_before(root):
    rows = sorted((clip(root, path) for path in OFFSETS), key=lambda row: row["id"])
    export(root, {"train": rows[:2]})
    before = contents(root)
    (root / rows[2]["geometry_file"]).unlink()
    with pytest.raises(ValueError, match="missing or empty"):
        export(root, {"train": rows[2:]})
    assert contents(root) == before
    assert not list(root.rglob("*.part*"))
    assert [path.name for path in (root / "export_webdataset").rglob(".*")] == [".tars.jsonl.sha256"]
