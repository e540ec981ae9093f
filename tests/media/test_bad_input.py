"""Everything that people have in folders of videos: each ends as a row with a reason, and nothing of it is changed."""

import csv
import functools
import hashlib
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from latentsync.ledger import sources
from latentsync.ledger.columns import REASONS
from latentsync.ledger.files import read_ledger, read_ledgers
from latentsync.ledger.rows import Rejection
from latentsync.media.boxes import refuse_absurd_index
from latentsync.steps import probe
from latentsync.synthetic import plan, render
from latentsync.synthetic.look import looks
from tests.steps.test_probe import unprivileged
from tests.videos import clicks, head, write_video

ROOT = Path(__file__).parents[2]
SOUND = clicks(2, [0.5, 1.0], 44_100)
NAMES = [
    "two  spaces.mp4", "it's \"quoted\".mp4", "line\nbreak.mp4", "\N{GRINNING FACE}.mp4", "--help.mp4", "tab\t.MP4",
    ";touch me;.mp4", "$(touch me).mp4", "`touch me`.mp4", "{shard}.mp4", "back\\slash.mp4", "*.mp4", "a:b.mp4",
    "é" * 125 + ".mp4", os.fsdecode(b"latin \xe9.mp4"),
]  # fmt: skip


def beginning(data, share=0.7):
    return data[: int(len(data) * share)]


def renamed(folder, suffix, **options):
    """The bytes of a file written as `suffix`."""
    path = write_video(folder / f"made{suffix}", **options)
    data = path.read_bytes()
    path.unlink()
    return data


def huge(folder, n_frames=5000):
    """An mp4 of 7680 x 4320 that declares frames: its parameter sets are real, the frames are noise."""
    path = folder / "huge.part"
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "tune": "zerolatency"})
        video.width, video.height, video.pix_fmt = 7680, 4320, "yuv420p"
        video.codec_context.thread_count = 1
        container.start_encoding()
        for number in range(n_frames):
            packet = av.Packet(b"\0\0\0\1\x65" + bytes([1 + number % 250]) * 100)
            packet.stream, packet.time_base = video, video.codec_context.time_base
            packet.pts = packet.dts = number
            packet.duration, packet.is_keyframe = 1, True
            container.mux(packet)
    data = path.read_bytes()
    path.unlink()
    return data


def without_data(data):
    return data[: data.index(b"mdat") + 4]


def absurd_table(data, count=85_000_000):
    """The sizes of all samples are one byte, so that the table needs no room; one chunk holds them all."""
    data = bytearray(without_data(data))
    sizes, chunks = data.index(b"stsz"), data.index(b"stsc")
    data[sizes + 8 : sizes + 16] = struct.pack(">II", 1, count)
    data[chunks + 16 : chunks + 20] = struct.pack(">I", count)
    return bytes(data)


def absurd_fragment(folder, count=85_000_000):
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    data = bytearray(renamed(folder, ".mp4", options=flags))
    run = data.index(b"trun")
    data[run + 4 : run + 12] = struct.pack(">II", 1, count)
    return bytes(data)


def wild(folder: Path) -> dict[str, str | None]:
    """Fill a folder; path -> the reason that its rows must end with, None where clips of it must be selected.

    Of "good 0.mp4" and the files in NAMES, which are equal, one must be selected; "one frame.mp4" and "ten bits.mp4"
    must come to a judgement.
    """
    (folder / "folder.mp4").mkdir(parents=True)
    people = looks(3, 8)
    for number in range(2):
        render.render(plan.Take(f"good {number}.mp4", people[number], duration_s=2.4), 3, folder)
    good = (folder / "good 0.mp4").read_bytes()
    vast = huge(folder)
    contents = {
        "index lost.mp4": beginning(renamed(folder, ".mp4", audio=SOUND), 0.9),
        "half.mp4": beginning(renamed(folder, ".mp4", audio=SOUND, options={"movflags": "+faststart"})),
        "half.mkv": beginning(renamed(folder, ".mkv", n_frames=100), 0.5),
        "zero.mp4": b"",
        "text.mp4": b"Dear diary,\n" * 999,
        "folder.mp4/text.mp4": b"Dear diary,\n",
        "audio.mp4": renamed(folder, ".m4a", audio=SOUND, video_track=False, container_format="mp4"),
        "song.mp4": renamed(folder, ".mp3", audio=SOUND, video_track=False, audio_codec="libmp3lame"),
        "8K, no data.mp4": without_data(vast),
        "8K, noise.mp4": vast,
        "8K, absurd table.mp4": absurd_table(vast),
        "absurd fragment.mp4": absurd_fragment(folder),
    }
    expected = dict.fromkeys(contents, "unreadable") | {"good 1.mp4": None}
    expected |= dict.fromkeys(("audio.mp4", "song.mp4"), "not_video")
    for name, data in (contents | dict.fromkeys(NAMES, good)).items():
        (folder / name).write_bytes(data)
    faces = {"images": head, "size": (208, 176)}
    write_video(folder / "silent.mp4", **faces)
    write_video(folder / "ten bits.mp4", pix_fmt="yuv420p10le", audio=SOUND, **faces)
    write_video(folder / "one frame.mp4", 1, audio=SOUND, **faces)
    write_video(folder / "odd.mkv", size=(101, 75), codec="ffv1", pix_fmt="yuv444p", b_frames=0, audio=SOUND)
    os.mkfifo(folder / "pipe.mp4")
    for link, target in {"loop.mp4": "loop.mp4", "dangling.mp4": "nowhere.mp4", "ring": ".", "ring.mp4": ".."}.items():
        (folder / link).symlink_to(target)
    expected |= dict.fromkeys(("folder.mp4", "pipe.mp4", "loop.mp4", "dangling.mp4"), "unreadable")
    return expected | {"silent.mp4": "no_audio", "odd.mkv": "no_face"}


def inventory(folder: Path) -> dict[str, tuple]:
    """What must never change: every name, its kind and time, and the content of what can be opened."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        found[str(path)] = (stat.st_mode, stat.st_mtime_ns, stat.st_ino, content)
    return found


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    """(folder of the run, what was expected, inventories of the input before and after)"""
    folder = tmp_path_factory.mktemp("wild")
    expected = wild(folder / "in")
    (folder / "in/ring.mp4").unlink()  # it would lead to the results
    before = inventory(folder / "in")
    tiny = yaml.safe_load((ROOT / "tests/workflow/tiny.yaml").read_text())
    (folder / "wild.yaml").write_text(yaml.safe_dump(tiny | {"input_dir": str(folder / "in"), "shards": 2}))
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder]
    command += ["--configfile", folder / "wild.yaml", "--profile", ROOT / "profiles/default", "--cores", "2", "curate"]
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder / "results/tiny", expected, before, inventory(folder / "in")


@pytest.mark.slow
def test_every_file_ends_as_rows_with_a_reason_and_the_good_ones_are_selected(curated):
    run, expected, *_ = curated
    rows = read_ledgers((run / "score_sync").glob("*.jsonl"))
    listed = {row["path"] for row in read_ledgers((run / "sources").glob("*.jsonl"))}
    assert {row["path"] for row in rows} == listed >= set(expected) | set(NAMES)
    assert all(row["reason"] in REASONS and row["detail"] for row in rows if row["status"] != "ok")
    selected = {row["path"]: None for row in read_ledger(run / "select_clips/train.jsonl")}
    with open(run / "select_clips/rejected.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rejected = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    ends = rejected | selected
    assert set(ends) == listed
    copies = [ends[path] for path in ["good 0.mp4", *NAMES]]
    assert sorted(copies, key=str) == [None] + ["duplicate"] * len(NAMES), "one file of equal ones is kept"
    assert {path: ends[path] for path in expected} == expected
    assert ends["one frame.mp4"] and ends["one frame.mp4"] not in ("unreadable", "no_face")
    assert ends["ten bits.mp4"] != "unreadable"


@pytest.mark.slow
def test_no_source_is_changed_moved_or_joined_by_a_new_file(curated):
    *_, before, after = curated
    assert len(before) > 30 and after == before


@pytest.mark.slow
def test_names_are_never_run_as_commands(curated):
    run, *_ = curated
    assert not [path for path in (run.parent.parent, ROOT) if (path / "me").exists() or (path / "me;.mp4").exists()]


def test_folders_and_files_without_permission_have_a_row_and_hold_up_nobody():
    with tempfile.TemporaryDirectory() as folder:  # tmp_path lies in a folder that only its owner may enter
        videos = Path(folder, "in")
        for place in ("private", "listed only"):
            (videos / place).mkdir(parents=True)
            write_video(videos / place / "x.mp4", 5)
        for path in (write_video(videos / "good.mp4", 5), write_video(videos / "secret.mp4", 5)):
            path.chmod(0o644 if path.name == "good.mp4" else 0)
        modes = {videos / "private": 0, videos / "listed only": 0o444, videos: 0o755, Path(folder): 0o755}
        for path, mode in modes.items():
            path.chmod(mode)
        try:
            with unprivileged():
                found = sources.scan(videos)
                ends = {row["path"]: probe.probe_source(row, videos) for row in found.rows}
            assert found.passed_over == []
            broken = ["listed only/x.mp4", "private/", "secret.mp4"]
            reasons = {path: row["reason"] for path, row in ends.items()}
            assert reasons == dict.fromkeys(broken, "unreadable") | {"good.mp4": None}
            assert "folder may not be entered" in ends["private/"]["detail"]
            assert all("no permission to read it" in ends[p]["detail"] for p in ("secret.mp4", "listed only/x.mp4"))
        finally:
            for path in modes:
                path.chmod(0o755)


def test_an_input_folder_that_may_not_be_read_is_one_sentence():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        Path(folder, "in").mkdir(mode=0)
        with unprivileged(), pytest.raises(PermissionError, match="Permission denied.*in"):
            sources.scan(Path(folder, "in"))


HEADERS = {
    "8K without data": lambda folder: without_data(huge(folder)),
    "8K of noise": huge,
    "absurd table": lambda folder: absurd_table(huge(folder)),
    "absurd fragment": absurd_fragment,
}
PROBE = """
import resource, sys
from latentsync.media.probe import probe_media
from latentsync.ledger.rows import Rejection
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    probe_media(sys.argv[1])
except Rejection as verdict:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, verdict)
"""


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_promises_much_costs_little(tmp_path, name):
    """FFmpeg alone took 3 GB and 10 s for the table, 3 GB for the fragment."""
    (tmp_path / "x.mp4").write_bytes(HEADERS[name](tmp_path))
    command = [sys.executable, "-c", PROBE, str(tmp_path / "x.mp4")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    peak_mb, reason = done.stdout.split(" ", 1)
    assert int(peak_mb) < 400 and reason.startswith("unreadable: ")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_an_index_of_any_bytes_is_judged_and_never_a_fault_of_ours(data):
    """Bytes of a real header replaced at will: no loop, no depth, no struct that is too short."""
    whole = bytearray(ordinary())
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=8)):
        whole[place] = value
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(whole[: data.draw(st.integers(0, len(whole)))])
        file.flush()
        try:
            refuse_absurd_index(Path(file.name))
        except Rejection as verdict:
            assert verdict.reason == "unreadable"


def test_boxes_in_boxes_without_end_are_no_depth_of_ours(tmp_path):
    n = 20_000
    nested = b"".join(struct.pack(">I4s", 8 * (n - k), b"moov") for k in range(n))
    (tmp_path / "x.mp4").write_bytes(nested)
    refuse_absurd_index(tmp_path / "x.mp4")


@functools.cache
def ordinary() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return renamed(Path(folder), ".mp4", n_frames=12, audio=SOUND, options={"movflags": "+faststart"})
