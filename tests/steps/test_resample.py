"""Step resample: one clock for video and audio, and no frame encoded."""

import numpy as np
import pytest

from latentsync.config import Probe, Resample
from latentsync.ledger.files import read_ledger, write_ledger
from latentsync.media.audio import read_flac
from latentsync.media.read import frame_times, read_frames
from latentsync.steps import probe, resample
from tests.fixtures import source
from tests.videos import clicks, number_of, write_video

VFR_S = np.cumsum([0.0, *[1 / 30, 2 / 30, 1 / 60, 0.1] * 15]).tolist()


def run_both(run_dir, videos, names):
    rows = [source(name, size=1, mtime_ns=1) for name in names]
    ledgers = [run_dir / step / "00000.jsonl" for step in ("sources", "probe", "resample")]
    write_ledger(ledgers[0], rows)
    probe.run(Probe(), {"sources": [ledgers[0]]}, {"ledger": ledgers[1]}, videos)
    resample.run(Resample(), {"probe": [ledgers[1]]}, {"ledger": ledgers[2]}, videos)
    return {row["path"]: row for row in read_ledger(ledgers[2])}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resample")
    write_video(folder / "late.mp4", 50, start_s=0.2, audio=clicks(3, [0.1, 1.2], 44_100))
    write_video(folder / "short_sound.mp4", 50, audio=clicks(1, [0.5], 48_000), audio_rate_hz=48_000)
    write_video(folder / "mute.mp4", 30, 24)
    write_video(folder / "vfr.mp4", times_s=VFR_S, audio=clicks(2.75, [0.04 * 40], 44_100))
    (folder / "text.mp4").write_text("no video")
    names = sorted(path.name for path in folder.glob("*.mp4"))
    run_dir = folder / "results" / "demo"
    return run_dir, folder, run_both(run_dir, folder, names)


def test_audio_is_as_long_as_the_video_and_in_place(results):
    run_dir, _, rows = results
    late = read_flac(run_dir / rows["late.mp4"]["audio_file"])
    assert rows["late.mp4"]["n_ticks"] == 50 and len(late) == 50 * 640
    assert abs(int(np.abs(late).argmax()) - 16_000) <= 1  # 1.2 s of the container is 1.0 s after time zero
    short = read_flac(run_dir / rows["short_sound.mp4"]["audio_file"])
    assert len(short) == 50 * 640 and abs(int(np.abs(short).argmax()) - 8_000) <= 1 and not short[20_000:].any()


def test_no_audio_is_null_and_a_broken_file_passes_through(results):
    run_dir, _, rows = results
    assert rows["mute.mp4"]["audio_file"] is None and rows["mute.mp4"]["status"] == "ok"
    assert rows["text.mp4"]["reason"] == "unreadable" and "ticks_file" not in rows["text.mp4"]
    written = sorted(path.name for path in (run_dir / "resample" / "media").iterdir())
    assert len(written) == 4 + 3  # tables and audio files; nothing else, no images


def test_each_tick_shows_the_frame_of_its_time(results):
    run_dir, folder, rows = results
    for name, row in rows.items():
        if row["status"] != "ok":
            continue
        table = np.load(run_dir / row["ticks_file"])
        times, end_s = frame_times(folder / name)
        assert table.dtype == np.int32 and len(table) == row["n_ticks"] and (np.diff(table) >= 0).all()
        assert table[0] == 0 and (len(table) - 1) / 25 < end_s <= len(table) / 25 + 1e-6
        nearest = np.abs(times[None] - np.arange(len(table))[:, None] / 25).min(axis=1)
        assert np.abs(times[table] - np.arange(len(table)) / 25) == pytest.approx(nearest, abs=2e-6)
        shown = {index: number_of(rgb) for index, rgb in read_frames(folder / name, table)}
        assert all(shown[index] == index for index in table)
    # the click at tick 40 of the VFR file is heard at tick 40
    sound = read_flac(run_dir / rows["vfr.mp4"]["audio_file"])
    assert abs(int(np.abs(sound).argmax()) - 40 * 640) <= 1


def test_declared_files_repeat_byte_for_byte(results, tmp_path):
    run_dir, folder, rows = results
    again = run_both(tmp_path / "demo", folder, sorted(rows))
    assert again == rows
    for row in rows.values():
        for column in ("audio_file", "ticks_file"):
            if row.get(column):
                assert (run_dir / row[column]).read_bytes() == (tmp_path / "demo" / row[column]).read_bytes()


def test_real_clips(clips, tmp_path):
    """Rates from 16 to 30, VFR, late start, silent files: each table ends where the image ends."""
    n_ticks = {"vrt1.mp4": 153, "talkvid_aoc.mp4": 115, "talkvid_tys.mp4": 100, "realtime_girl.mp4": 252}
    n_ticks |= {"iplap_129.mp4": 225, "cosmos10.mp4": 250, "vrt3.mp4": 125}
    rows = run_both(tmp_path / "real", clips, sorted(n_ticks))
    silent = {name for name, row in rows.items() if row["audio_file"] is None}
    assert silent == {"realtime_girl.mp4", "iplap_129.mp4", "cosmos10.mp4"}
    for name, row in rows.items():
        table = np.load(tmp_path / "real" / row["ticks_file"])
        assert row["n_ticks"] == n_ticks[name] and (np.diff(table) >= 0).all() and table[-1] == row["n_frames"] - 1
        if name not in silent:
            assert len(read_flac(tmp_path / "real" / row["audio_file"])) == 640 * n_ticks[name]
