"""Clips as arrays: exact indices, the offset's sign, the cache, too little data."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import save_file

from latentsync.media.audio import read_flac
from latentsync.training.clips import ByteCache, ClipStore, FeatureStore, content_key, require_frames, sized
from tests import toys


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, [toys.clip(folder, n, n, n_frames=40, offset_frames=offset) for n, offset in enumerate((0, 4, -3))]


def test_frames_are_the_same_however_they_are_read(run):
    folder, rows = run
    whole, windowed = ClipStore(rows, folder), ClipStore(rows, folder, cache_bytes=100_000)
    for start, stop in ((0, 40), (7, 23), (30, 40), (26, 27)):
        frames = whole.frames(1, start, stop)
        assert frames.shape == (stop - start, 64, 64, 3) and frames.dtype == np.uint8
        assert np.array_equal(frames, windowed.frames(1, start, stop))
    true = np.stack([toys.face(rows[0]["opening"][k], 0, (0, 0), 64) for k in range(40)]).astype(float)
    shown = whole.frames(0, 0, 40).astype(float)
    nearest = [int(np.abs(true - frame)[:, 35:60].mean((1, 2, 3)).argmin()) for frame in shown]
    error = np.abs(np.array(rows[0]["opening"])[nearest] - rows[0]["opening"])
    assert np.median(error) < 0.1, "frame k must show the opening of tick start + k"


def test_larger_crops_are_shrunk_to_what_the_rows_ask_for(run):
    folder, rows = run
    small = ClipStore(sized(rows, 32), folder)
    shown, whole = small.frames(0, 3, 9), ClipStore(rows, folder).frames(0, 3, 9)
    means = whole.astype(float).reshape(6, 32, 2, 32, 2, 3).mean((2, 4))
    assert shown.shape == (6, 32, 32, 3) and np.abs(shown - means).max() <= 0.5
    assert sized(rows, None) == rows and small.fingerprint_parts() != ClipStore(rows, folder).fingerprint_parts()
    with pytest.raises(ValueError, match="crops are 64 px wide and 128 px are asked for; raise align_faces.resolution"):
        ClipStore(sized(rows, 128), folder).frames(0, 0, 1)


def test_an_index_outside_the_clip_is_a_bug(run):
    folder, rows = run
    with pytest.raises(AssertionError):
        ClipStore(rows, folder).frames(0, 30, 41)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_audio_is_shifted_so_that_it_fits_the_frame(run, index):
    folder, rows = run
    store = ClipStore(rows, folder)
    samples = store.audio(index)
    assert samples.dtype == np.float32 and len(samples) == 40 * 640
    loudness = np.sqrt(np.square(samples.reshape(40, 640)).mean(1))
    frames = store.frames(index, 0, 40).astype(float)
    darkness = -frames[:, 38:50, 26:38].mean((1, 2, 3))  # the inside of the mouth is dark
    together = [np.corrcoef(np.roll(loudness, shift)[8:-8], darkness[8:-8])[0, 1] for shift in range(-6, 7)]
    assert np.argmax(together) - 6 in (0, 1)  # a tick's sound lies half a tick after its image
    assert together[6] > 0.8


def test_audio_outside_the_file_is_silence(run):
    folder, rows = run
    row = rows[0] | {"offset_frames": 30}  # begins ten ticks before the file
    samples = ClipStore([row], folder).audio(0)
    assert not samples[: 10 * 640].any()
    assert np.array_equal(samples[10 * 640 :], read_flac(folder / row["audio_file"], 0, 30 * 640))


def test_mel_covers_every_window(run):
    folder, rows = run
    assert ClipStore(rows, folder).mel(0).shape == (80, 1 + 40 * 640 // 200)


def test_fingerprint_changes_with_content_and_offset_only(run, tmp_path):
    folder, rows = run
    parts = ClipStore(rows, folder).fingerprint_parts()
    assert parts == ClipStore([row | {"quality": 3} for row in rows], folder).fingerprint_parts()
    assert parts != ClipStore([rows[0] | {"offset_frames": 1}, *rows[1:]], folder).fingerprint_parts()
    file = tmp_path / "large"
    file.write_bytes(bytes(300_000))
    key = content_key(file)
    file.write_bytes(bytes(299_999) + b"x")
    assert content_key(file) != key


def test_the_cache_forgets_the_least_recently_used():
    cache, made = ByteCache(3 * 80), []

    def get(key):
        return cache.get(key, lambda: made.append(key) or np.zeros(10))

    for key in "abcabdab":
        get(key)
    assert made == list("abcd") and cache.n_bytes == 3 * 80
    get("c")
    assert made[-1] == "c" and len(made) == 5
    with pytest.raises(ValueError, match="read-only"):
        get("a")[0] = 1


def test_threads_make_arrays_at_once_and_count_each_once():
    cache, together = ByteCache(10 * 80), threading.Barrier(4, timeout=10)

    def get(key):
        return cache.get(key, lambda: (together.wait(), np.full(10, ord(key)))[1])

    with ThreadPoolExecutor(4) as threads:
        arrays = list(threads.map(get, "abca"))
    assert [array[0] for array in arrays] == [ord(key) for key in "abca"] and cache.n_bytes == 3 * 80


def test_too_little_data_is_one_sentence():
    rows = [{"start_tick": 0, "end_tick": length} for length in (10, 20, 30)]
    assert len(require_frames(rows, 20, at_least=2, what="x", fix="y")) == 2
    with pytest.raises(
        ValueError, match=r"Too little data for SyncNet: 1 of 3 clips .* 21 frames .* longest has 30.*2 .*lower it\."
    ):
        require_frames(rows, 21, at_least=2, what="SyncNet", fix="lower it")
    with pytest.raises(ValueError, match="0 of 0 clips"):
        require_frames([], 21, at_least=1, what="SyncNet", fix="lower it")


def test_features_whole_and_in_windows(tmp_path):
    array = np.arange(300, dtype=np.float16).reshape(30, 10)
    save_file({"face_moments": array, "mel": array.T.copy()}, tmp_path / "a.safetensors")
    rows = [{"start_tick": 5, "end_tick": 35, "features_file": "a.safetensors"}]
    for cache_bytes in (1 << 20, 10):
        store = FeatureStore(rows, tmp_path, cache_bytes)
        assert store.n_frames(0) == 30
        assert np.array_equal(store.window(0, "face_moments", 3, 9), array[3:9])
        assert np.array_equal(store.array(0, "mel"), array.T)
