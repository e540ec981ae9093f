"""The command line: a video from small weights, wrong input in one sentence, and a clean that only takes rubbish."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from latentsync import config
from latentsync.cli import main as cli
from latentsync.config import Enhance, Generate, TrainVae
from latentsync.generation import api
from latentsync.generation.loading import load_models
from latentsync.ledger.files import write_ledger
from latentsync.ledger.superseded import superseded_media
from latentsync.media.audio import read_audio
from latentsync.media.probe import probe_media
from latentsync.models import vae as vaes
from latentsync.models.unet import UNet3D, UNetConfig
from latentsync.weights import files as weight_files
from latentsync.weights.find import find_weights
from tests.videos import write_video


def latentsync(*args) -> int:
    """Run the command in this process; its exit status."""
    try:
        cli.app([str(arg) for arg in args], standalone_mode=False)
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder like results/<run> with a small U-Net and VAE, as training leaves them."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("results") / "small"
    vae = vaes.build(TrainVae(block_out_channels=(8, 8, 8, 16)))
    vaes.save(run / "train_vae/vae.safetensors", vae, 1.0, resolution=64)
    shape = UNetConfig(block_out_channels=(16, 16), cross_attention_dim=16, attention_heads=2, norm_groups=8)
    encoder = {"backend": "embedded", "weights": None, "width": 16, "layers": 1}
    stamp = weight_files.content_hash(run / "train_vae/vae.safetensors")
    facts = {"frames": 8, "resolution": 64, "audio_encoder": encoder, "vae": stamp}
    weight_files.save(run / "train_unet_stage2/unet.safetensors", UNet3D(shape).state_dict(), asdict(shape), **facts)
    return run


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    def face(index, width, height):
        return np.ascontiguousarray(data.astronaut()[20 : 20 + height, 120 : 120 + width])

    folder = tmp_path_factory.mktemp("my videos")
    return write_video(folder / "It's me.mp4", 12, images=face, size=(208, 176), audio=tone(0.48, 44_100))


def tone(length_s: float, rate_hz: int) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 300 * np.arange(round(length_s * rate_hz)) / rate_hz)).astype(np.float32)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    import wave

    path = tmp_path_factory.mktemp("sound") / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(22_050)
        file.writeframes((tone(0.8, 22_050) * 32767).astype(np.int16).tobytes())
    return path


def test_a_wav_drives_a_video_and_keeps_its_rate(trained, video, speech, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    status = latentsync(
        "generate",
        "--video",
        video,
        "--audio",
        speech,
        "--out",
        out,
        "--weights",
        trained,
        "--steps",
        1,
        "--guidance",
        1,
    )
    assert status == 0 and "20 of 20 frames redrawn" in capsys.readouterr().out
    info = probe_media(out)
    assert (info.width, info.height, info.n_frames, info.audio_rate_hz) == (208, 176, 20, 22_050)
    assert np.corrcoef(read_audio(out, 22_050)[2000:12_000], tone(0.8, 22_050)[2000:12_000])[0, 1] > 0.99


def test_consent_is_asked_for_before_anything_is_loaded(trained, video, speech, tmp_path, capsys):
    table, out, report = tmp_path / "consent.csv", tmp_path / "out.mp4", tmp_path / "out.json"
    arguments = ["generate", "--video", video, "--audio", speech, "--out", out, "--weights", trained, "--steps", 1]
    arguments += ["--guidance", 1, "--preview", 0.2, "--consent", table, "--report", report]
    for row, words in (
        (f'"{video}",training,,', f"{video} is not covered for generation; add a row with its path and this scope."),
        (f'"{video}",generation,2026-01-01,', f"the consent of {video} to generation ended on 2026-01-01; add a row"),
        (f'"{video}",generate,,', "line 2 has the scope 'generate'; write training, generation, or both"),
    ):
        table.write_text(f"path,scope,until,document\n{row}\n")
        with pytest.raises(ValueError, match=f"^--consent {re.escape(str(table))}.*{re.escape(words)}"):
            latentsync(*arguments)
        assert not out.exists()
    table.write_text(f'path,scope,until,document\n"{video}",generation,2999-01-01,{"ab" * 32}\n')
    assert latentsync(*arguments) == 0 and out.exists()
    rests_on = {"until": "2999-01-01", "document": "ab" * 32, "ended": False}
    assert json.loads(report.read_text())["consent"] == rests_on


def test_a_table_redraws_many_and_says_what_failed(trained, video, speech, tmp_path, capsys):
    table = tmp_path / "pairs.csv"
    table.write_text(f"video,audio,out\n{video},{speech},one.mp4\n{speech},{speech},new folder/two.mp4\n")
    arguments = ["generate", "--pairs", table, "--weights", trained, "--steps", 1, "--guidance", 1]
    with pytest.raises(ValueError, match="1 of 2 rows failed; .*pairs.results.csv says why"):
        latentsync(*arguments)
    said = capsys.readouterr().out
    assert "one.mp4: 20 of 20 frames redrawn" in said and f"two.mp4: --video {speech} cannot be used" in said
    written = (tmp_path / "one.mp4").stat().st_mtime_ns
    with pytest.raises(ValueError, match="1 of 2"):
        latentsync(*arguments)
    assert (tmp_path / "one.mp4").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="--out is for one video; leave it out"):
        latentsync(*arguments, "--out", "out.mp4")
    with pytest.raises(ValueError, match="Give --video, --audio and --out"):
        latentsync("generate", "--video", video, "--weights", trained)


def test_faces_lists_them_and_says_where(video, tmp_path, capsys):
    assert latentsync("faces", video, "--out", tmp_path / "faces") == 0
    assert capsys.readouterr().out.startswith("face 1: 0.000 to ")
    assert sorted(path.name for path in (tmp_path / "faces").iterdir()) == ["face-1.png", "faces.csv"]


def test_length_video_keeps_the_video_and_copies_its_own_audio(trained, video, tmp_path):
    out = tmp_path / "out.mp4"
    common = ["--weights", trained / "train_unet_stage2/unet.safetensors", "--steps", 1, "--length", "video"]
    assert latentsync("generate", "--video", video, "--audio", video, "--out", out, *common) == 0
    before, after = probe_media(video), probe_media(out)
    assert (before.n_frames, before.audio_rate_hz) == (after.n_frames, after.audio_rate_hz)
    np.testing.assert_array_equal(read_audio(video, 44_100), read_audio(out, 44_100))  # packets, not a second encoding


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"--video": "none.mp4"}, "--video none.mp4 is not a file"),
        ({"--audio": "none.wav"}, "--audio none.wav is not a file"),
        ({"--weights": "none"}, "--weights none does not exist"),
        ({"--enhance": "dlib"}, "--enhance dlib is not known; choose gfpgan, codeformer or gpen"),
        ({"--faces": "dlib"}, "--faces dlib is not known; choose mediapipe, face_alignment or insightface"),
        ({"--enhance": "codeformer", "--enhance-weights": "none.pth"}, "none.pth is missing"),
        ({"--enhance": "gfpgan", "--enhance-weights": "none.pth"}, "none.pth is missing"),
        ({"--face": "tallest"}, "--face tallest is not known; choose largest, speaking, left, right, a number or x,y"),
        ({"--voices": "none.csv"}, "Give either --audio, or --voices"),
        ({"--high-quality": None, "--crf": "20"}, "--high-quality is CRF 8, so --crf 20 contradicts it"),
        ({"--length": "both"}, "--length both is not known; choose audio or video"),
        ({"--out": "same"}, "one of the inputs"),
        ({"--out": "o.avi"}, "--out o.avi does not end in .mp4"),
        ({"--out": "no/o.mp4"}, "--out no/o.mp4 is in a folder that does not exist; create no, or choose another"),
        ({"--out": "/proc/o.mp4"}, "--out /proc/o.mp4 cannot be written: /proc: "),
        ({"--audio": __file__}, "test_cli.py cannot be used: unreadable"),
        ({"--weights": __file__}, "test_cli.py is not a weights file, or contains more than tensors"),
        ({"--vae": "none"}, "--vae none does not exist"),
        ({"--resolution": -512}, "--resolution is -512, not a multiple of 64; published U-Nets draw 256 or 512"),
        ({"--resolution": 300}, "--resolution is 300"),
    ],
)
def test_wrong_input_is_one_sentence(changed, words, trained, video, speech, tmp_path, monkeypatch, capsys):
    values = {"--video": video, "--audio": speech, "--out": tmp_path / "o.mp4", "--weights": trained} | changed
    if values["--out"] == "same":
        values["--out"] = video
    given = [str(part) for pair in values.items() for part in pair if part is not None]
    monkeypatch.setattr(sys, "argv", ["latentsync", "generate", *given])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().err
    assert end.value.code == 1 and words in said and said.count("\n") == 1
    assert not (tmp_path / "o.mp4").exists()


@pytest.fixture
def mute(tmp_path):
    return write_video(tmp_path / "mute.mp4", 3)


def test_swapped_files_are_noticed_before_anything_is_loaded(video, speech, mute, tmp_path):
    """The weights do not exist, and nobody gets that far."""
    rest = ["--out", tmp_path / "o.mp4", "--weights", tmp_path / "none"]
    for given, words in (
        ((speech, video), f"--video {speech} cannot be used: it has no video stream; --audio {video} has one: are the"),
        ((speech, speech), f"--video {speech} cannot be used: it has no video stream; give the video of a speaking"),
        ((video, mute), f"--audio {mute} cannot be used: it has no audio stream; --video {video} has one: are the two"),
        ((mute, mute), f"--audio {mute} cannot be used: it has no audio stream; give a recording of speech."),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            latentsync("generate", "--video", given[0], "--audio", given[1], *rest)
    with pytest.raises(ValueError, match="none does not exist"):  # these are fine, so the weights are next
        latentsync("generate", "--video", mute, "--audio", speech, *rest)


def test_an_output_that_exists_is_replaced_only_when_told(trained, video, speech, tmp_path):
    out, common = tmp_path / "o.mp4", ["--weights", trained, "--steps", 1, "--guidance", 1, "--preview", 0.2]
    out.write_bytes(b"of somebody")
    call = ["generate", "--video", video, "--audio", speech, "--out", out, *common]
    with pytest.raises(ValueError, match="o.mp4 exists; give --overwrite to replace it, or choose another name"):
        latentsync(*call)
    assert out.read_bytes() == b"of somebody"
    assert latentsync(*call, "--overwrite") == 0 and probe_media(out).n_frames > 0
    with pytest.raises(ValueError, match="one of the inputs, which are never changed"):
        latentsync("generate", "--video", video, "--audio", speech, "--out", video, *common)


def test_the_version_is_printed(capsys):
    assert latentsync("--version") == 0
    assert capsys.readouterr().out == f"latentsync-studio {metadata.version('latentsync-studio')}\n"


def test_a_folder_without_weights_says_what_belongs_there(video, speech, tmp_path):
    with pytest.raises(ValueError, match=r"holds neither train_unet_stage2/unet.safetensors .* nor latentsync_unet.pt"):
        find_weights(tmp_path, None)


def test_a_unet_away_from_its_vae_asks_for_it_and_refuses_another(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path / "none"))
    unet = tmp_path / "copied.safetensors"
    shutil.copyfile(trained / "train_unet_stage2/unet.safetensors", unet)
    assert find_weights(unet, None) == (unet, None)
    with pytest.raises(ValueError, match=r"sd-vae-ft-mse/.* is missing: .*generate without --vae"):
        load_models(unet, None)
    (tmp_path / "none/sd-vae-ft-mse").mkdir(parents=True)  # as it were the published one
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (tmp_path / "none/sd-vae-ft-mse" / name).write_text("published")
    with pytest.raises(
        ValueError, match=r"trained with another VAE \(content hash \w{16}\) than .*sd-vae-ft-mse .*--vae"
    ):
        load_models(unet, None)
    assert load_models(unet, trained / "train_vae/vae.safetensors").resolution == 64


def test_a_file_finds_the_vae_of_its_own_folder_and_no_other(tmp_path, monkeypatch):
    """A published file in a folder of a run must not be drawn with the run's VAE."""
    monkeypatch.chdir(tmp_path)
    for place in ("train_vae/vae.safetensors", "train_unet_stage1/unet.safetensors", "pub/latentsync_unet.pt"):
        Path(place).parent.mkdir()
        Path(place).touch()
    stage1, published = Path("train_unet_stage1/unet.safetensors"), Path("pub/latentsync_unet.pt")
    assert find_weights(stage1, None) == (stage1, tmp_path / "train_vae/vae.safetensors")
    assert find_weights(published, None) == (published, None)
    monkeypatch.chdir("train_unet_stage1")
    assert find_weights(Path(stage1.name), None)[1] == tmp_path / "train_vae/vae.safetensors"
    monkeypatch.chdir(tmp_path)
    Path("pub/sd-vae-ft-mse").mkdir()
    assert find_weights(published, None) == (published, tmp_path / "pub/sd-vae-ft-mse")


def test_another_whisper_than_in_training_is_refused(trained, tmp_path):
    unet, vae = trained / "train_unet_stage2/unet.safetensors", trained / "train_vae/vae.safetensors"
    state, facts = weight_files.load(unet)
    facts["audio_encoder"] = {"backend": "whisper", "weights": "0" * 16}
    heard = tmp_path / "unet.safetensors"
    weight_files.save(heard, state, facts.pop("config"), **facts)
    (tmp_path / "tiny.pt").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"another Whisper \(content hash 0{16}\) than .*tiny.pt .*--whisper"):
        load_models(heard, vae, whisper=tmp_path / "tiny.pt")
    with pytest.raises(ValueError, match=r"none.pt is missing"):
        load_models(heard, vae, whisper=tmp_path / "none.pt")


@pytest.fixture
def run(tmp_path):
    """A run with a named file, a superseded one, a half-written one, and a step that was interrupted."""
    run = tmp_path / "results" / "demo"
    for step, names in (
        ("align_faces", ("kept.mp4", "old.mp4", ".killed.part.mp4")),
        ("generate", ("unfinished.mp4",)),
    ):
        for name in names:
            (run / step / "media").mkdir(parents=True, exist_ok=True)
            (run / step / "media" / name).write_bytes(b"x" * 1000)
        (run / step / "journal").mkdir()
        (run / step / "journal" / "00000.jsonl").write_text("")
    (run / "sources").mkdir()
    write_ledger(run / "align_faces/00000.jsonl", [{"id": "a", "crop_file": "align_faces/media/kept.mp4"}])
    return run


def test_clean_lists_first_and_deletes_only_when_told(run, capsys):
    latentsync("clean", run)
    said = capsys.readouterr().out
    assert "old.mp4" in said and "kept.mp4" not in said and "unfinished.mp4" not in said and "would be deleted" in said
    assert (run / "align_faces/media/old.mp4").exists()
    latentsync("clean", run, "--yes")
    left = sorted(path.name for path in run.glob("*/media/*"))
    assert left == ["kept.mp4", "unfinished.mp4"]  # a step without its ledger is not finished: nothing of it is rubbish
    capsys.readouterr()
    latentsync("clean", run)
    assert capsys.readouterr().out == "nothing is superseded\n"


def test_clean_follows_no_link_out_of_the_run(run, tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "holiday.mp4").write_bytes(b"x" * 1000)
    for name in ("score_sync", "score_quality"):
        (run / name).mkdir()
        write_ledger(run / name / "00000.jsonl", [{"id": "a"}])
    (run / "score_sync/media").symlink_to(mine)  # the folder of media
    (run / "score_quality/media").mkdir()
    (run / "score_quality/media/linked").symlink_to(mine)  # a folder in it
    (run / "score_quality/media/a.mp4").symlink_to(mine / "holiday.mp4")  # a file in it
    (run / "linked_step").symlink_to(mine.parent / "elsewhere")  # a step
    (tmp_path / "elsewhere/media").mkdir(parents=True)
    (tmp_path / "elsewhere/media/b.mp4").write_bytes(b"x")
    write_ledger(tmp_path / "elsewhere/00000.jsonl", [{"id": "a"}])
    latentsync("clean", run, "--yes")
    said = capsys.readouterr()
    assert (mine / "holiday.mp4").exists() and (tmp_path / "elsewhere/media/b.mp4").exists()
    assert (run / "score_quality/media/a.mp4").is_symlink()
    assert not (run / "align_faces/media/old.mp4").exists() and "2 files" in said.out
    assert "score_sync/media is, or lies in, a link" in said.err and "linked_step/media is, or lies" in said.err


def test_clean_works_where_results_are_on_another_disk_and_hard_links_keep_their_content(run, tmp_path, capsys):
    (tmp_path / "results").rename(tmp_path / "disk")
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    os.link(run / "align_faces/media/old.mp4", tmp_path / "mine.mp4")
    latentsync("clean", run, "--yes")
    assert sorted(path.name for path in run.glob("*/media/*")) == ["kept.mp4", "unfinished.mp4"]
    assert (tmp_path / "mine.mp4").read_bytes() == b"x" * 1000 and "2 files, 0.0 MB, deleted" in capsys.readouterr().out


def test_clean_deletes_nothing_after_a_ledger_was_changed(run):
    ledger = run / "align_faces/00000.jsonl"
    ledger.write_text(ledger.read_text().replace("kept.mp4", "old.mp4"))
    with pytest.raises(ValueError, match="is not as align_faces wrote it"):
        superseded_media(run)


def test_clean_refuses_a_folder_that_is_no_run_and_a_run_at_work(run, tmp_path):
    with pytest.raises(ValueError, match="is not the folder of a run"):
        superseded_media(tmp_path)
    with open(run / "align_faces/journal/00000.jsonl", "a") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="A job of align_faces is running"):
            superseded_media(run)


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(28, "No space left on device", "out.mp4"), "out.mp4 could not be written: the disk is full"),
        (MemoryError("Unable to allocate 7.45 GiB for an array"), "Memory ran out (7.45 GiB more were needed)"),
        (ValueError("too short"), "latentsync: too short\n"),
    ],
)
def test_faults_of_the_machine_and_users_are_one_sentence(monkeypatch, capsys, error, words):
    def failing():
        raise error

    monkeypatch.setattr(cli, "app", failing)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1 and words in (said := capsys.readouterr().err) and said.count("\n") == 1
    error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main()


def test_a_choice_that_is_not_known_is_refused_at_once():
    """Before torch, PyAV or any file is touched."""
    code = (
        "import sys; from latentsync.cli import main; sys.argv[0] = 'latentsync'\n"
        "try: main.main()\n"
        "except SystemExit as end: sys.exit(end.code + 10 * bool({'torch', 'av', 'cv2'} & set(sys.modules)))"
    )
    arguments = "generate --video none.mp4 --audio none.wav --out o.mp4 --weights none --faces dlib".split()
    start_s = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert time.perf_counter() - start_s < 3
    assert done.returncode == 1
    assert done.stderr == "latentsync: --faces dlib is not known; choose mediapipe, face_alignment or insightface.\n"


def test_options_have_the_defaults_limits_and_words_of_the_configuration(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert latentsync("generate", "--help") == 0
    shown = capsys.readouterr().out
    sections = {Generate: "steps guidance seed length overlap".split(), Enhance: ["strength", "region"]}
    for section, names in sections.items():
        for name in names:
            option = f"--enhance-{name}" if section is Enhance else f"--{name}"
            [line] = [line for line in shown.splitlines() if f" {option} " in line]
            field = section.model_fields[name]
            assert field.description in line and f"[default: {field.default}]" in line
    for choices in ("[audio|video]", "[gfpgan|codeformer|gpen]", "[mediapipe|face_alignment|insightface]"):
        assert choices in shown
    assert "[0<=x<=7]" in shown


@pytest.mark.parametrize(
    ("option", "value"), [("--steps", 0), ("--steps", 1000), ("--overlap", 16), ("--enhance-strength", 1.5)]
)
def test_a_number_out_of_range_names_the_option(option, value, monkeypatch, capsys):
    arguments = ["generate", "--video", "v", "--audio", "a", "--out", "o.mp4", "--weights", "w", option, str(value)]
    monkeypatch.setattr(sys, "argv", ["latentsync", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2 and f"'{option}'" in capsys.readouterr().err


def test_help_starts_without_torch():
    """`python -m latentsync --help` is there at once."""
    code = "import sys, latentsync.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    shown = subprocess.run([sys.executable, "-m", "latentsync", "--help"], capture_output=True, text=True, check=True)
    assert "generate" in shown.stdout and "clean" in shown.stdout


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), {"steps": 20, "solver": "ddim"}),
        (("--preset", "fast"), config.PRESETS["fast"]),
        (("--preset", "fast", "--steps", "20"), config.PRESETS["fast"] | {"steps": 20}),
    ],
)
def test_options_win_over_the_preset(monkeypatch, given, expected):
    taken = {}

    def lip_sync(*files, preset, generate, **others):
        taken.update(config.PRESETS[preset] | generate)
        raise ValueError("stop here")

    monkeypatch.setattr(api, "lip_sync", lip_sync)
    arguments = ("generate", "--video", "v", "--audio", "a", "--out", "o.mp4", "--weights", "w")
    with pytest.raises(ValueError, match="stop here"):
        latentsync(*arguments, *given)
    assert taken | expected == taken
