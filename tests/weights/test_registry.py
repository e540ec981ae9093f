"""The registry of pretrained files is complete and consistent; the commands that use it; commercial use."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from latentsync import required
from latentsync.cli import main as cli
from latentsync.config import Config, validate
from latentsync.faces.backends import BACKENDS
from latentsync.weights import files as weight_files
from latentsync.weights import registry
from latentsync.weights.registry import Entry, File
from tests.web import Page, serve

PLACES_OF_UPSTREAM = {  # below its folder checkpoints/, so that this folder may be used as it is (spec A.8)
    "whisper/tiny.pt", "auxiliary/syncnet_v2.model", "auxiliary/sfd_face.pth", "auxiliary/koniq_pretrained.pkl",
    "auxiliary/vit_g_hybrid_pt_1200e_ssv2_ft.pth", "auxiliary/i3d_torchscript.pt", "auxiliary/vgg16-397923af.pth",
    "auxiliary/models/buffalo_l/det_10g.onnx", "auxiliary/models/buffalo_l/2d106det.onnx", "stable_syncnet.pt",
    "auxiliary/s3fd-619a316812.pth", "latentsync_unet.pt", "latentsync_syncnet.pt",
}  # fmt: skip


def test_every_file_of_upstreams_list_is_there():
    files = [file for entry in registry.entries().values() for file in entry.files]
    places = {file.upstream or file.place for file in files}
    assert places >= PLACES_OF_UPSTREAM
    names = registry.entries().keys()
    assert names >= {"latentsync-1.0", "latentsync-1.5", "latentsync-1.6", "sd15", "vae", "2dfan4", "buffalo_l"}
    assert names >= {"gfpgan", "codeformer", "gpen"}


@pytest.mark.parametrize("entry", registry.entries().values(), ids=lambda entry: entry.name)
def test_every_entry_is_whole(entry):
    assert entry.what and entry.licence and entry.source.startswith("https://")
    assert entry.commercial in registry.ALLOWED and set(entry.needed_for) <= set(registry.USES)
    for file in entry.files:
        assert re.fullmatch(r"https://\S+", file.url) and not Path(file.place).is_absolute()
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        hash_in_name = re.search(r"-([0-9a-f]{8,10})\.pth", file.place)  # torch hub's names begin the sha256
        assert not hash_in_name or file.sha256.startswith(hash_in_name[1])
        assert "/resolve/main/" not in file.url, "a hub file is pinned to a revision"
    assert len({file.place for file in entry.files}) == len(entry.files)


def test_no_place_is_taken_twice():
    places = [file.place for entry in registry.entries().values() for file in entry.files]
    assert len(places) == len(set(places))


def test_every_use_has_what_the_published_recipe_asks_for():
    """What a default configuration asks for is fetched by --for curation, training and enhancement."""
    published = validate({"enhance": {"method": "gfpgan"}, "score_quality": {"backend": "hyperiqa"}})
    wanted = {name for parts in required.by_step(published).values() for name, _, _ in parts}
    fetched = {
        e.name for e in registry.entries().values() if {"curation", "training", "enhancement"} & set(e.needed_for)
    }
    assert wanted == fetched
    inference = {e.name for e in registry.entries().values() if "inference" in e.needed_for}
    assert inference == {"latentsync-1.6", "whisper", "vae"}


def test_the_licence_page_is_the_list():
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "licences.md").read_text()
    assert page == runpy.run_path(str(docs / "generate.py"))["licences"](), "run python docs/generate.py"
    assert page.count("\n| `") == len(registry.entries()) + len(BACKENDS)


def test_find_says_how_to_get_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError) as error:
        registry.find("hyperiqa", key="score_quality.backend: hyperiqa")
    for words in (
        f"{tmp_path}/auxiliary/koniq_pretrained.pkl is missing",
        "needed by score_quality.backend: hyperiqa",
        "run `latentsync weights fetch hyperiqa`",
        "or choose score_quality.backend: piqe",
    ):
        assert words in str(error.value)
    (tmp_path / "sd-vae-ft-mse").mkdir()
    (tmp_path / "sd-vae-ft-mse/diffusion_pytorch_model.safetensors").touch()
    with pytest.raises(ValueError, match=r"sd-vae-ft-mse/config\.json is missing"):  # incomplete
        registry.find("vae")
    (tmp_path / "sd-vae-ft-mse/config.json").touch()
    assert registry.find("vae") == tmp_path / "sd-vae-ft-mse"
    assert registry.entry("buffalo_l").path == tmp_path / "auxiliary/models/buffalo_l"
    with pytest.raises(ValueError, match="Unknown weights gfpgan2; choose one of latentsync-1.6, "):
        registry.find("gfpgan2")


def test_the_weights_folder_may_be_upstreams(tmp_path, monkeypatch):
    """The releases share one file name there; their sizes differ."""
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    places = {"1.5": "latentsync-1.5", "1.6": "latentsync-1.6"}
    for release, other in (("1.5", "1.6"), ("1.6", "1.5")):
        with open(tmp_path / "latentsync_unet.pt", "wb") as file:  # a sparse file
            file.truncate(registry.entry(f"latentsync-{release}").files[0].size)
        assert registry.find(places[release]) == tmp_path / "latentsync_unet.pt"
        with pytest.raises(ValueError, match=rf"latentsync-{other}/latentsync_unet\.pt is missing"):
            registry.find(places[other])
        known = registry.entry(places[release]).files[0].sha256
        assert registry.expected_sha256(tmp_path / "latentsync_unet.pt") == known
    (tmp_path / "latentsync-1.6").mkdir()
    (tmp_path / "latentsync-1.6/latentsync_unet.pt").touch()  # its own path comes first
    assert registry.find("latentsync-1.6") == tmp_path / "latentsync-1.6/latentsync_unet.pt"


def test_the_weights_folder_has_a_default(monkeypatch):
    for unset in ("", None):
        monkeypatch.delenv("LATENTSYNC_WEIGHTS", raising=False)
        if unset is not None:
            monkeypatch.setenv("LATENTSYNC_WEIGHTS", unset)
        assert registry.weights_folder() == Path.home() / ".cache/latentsync"


def test_the_fix_fits_the_key_or_option(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="or omit --preview"):
        registry.find("taesd", key="--preview")
    with pytest.raises(ValueError, match=r"or choose extract_features\.vae: embedded"):
        registry.find("vae", key="extract_features.vae: published")
    with pytest.raises(ValueError, match=r"sd-vae-ft-mse/diffusion_pytorch_model\.safetensors\.$"):
        registry.find("vae", key="generate without --vae")
    with pytest.raises(ValueError, match=r"mine\.pt is missing: .*correct the path, or omit it"):
        registry.find("whisper", str(tmp_path / "mine.pt"), "extract_features.audio_encoder: whisper")


def test_a_changed_byte_in_a_registered_file_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    (tmp_path / "whisper").mkdir()
    (tmp_path / "whisper/tiny.pt").write_bytes(b"not Whisper")
    with pytest.raises(ValueError, match=r"tiny\.pt has sha256 [0-9a-f]{16}\.\.\. instead of 65147644a518d12f"):
        registry.require_intact(tmp_path / "whisper/tiny.pt")
    elsewhere = tmp_path / "mine.pt"
    elsewhere.write_bytes(b"my own")
    assert registry.require_intact(elsewhere) is False  # its sha256 is unknown
    (tmp_path / "mine.pt.sha256").write_text("md5 of something")
    with pytest.raises(ValueError, match=r"mine\.pt\.sha256 does not begin with a sha256"):
        registry.require_intact(elsewhere)


# --- commercial use -------------------------------------------------------------------------------------------------


def test_commercial_runs_refuse_what_is_not_allowed_and_name_what_is(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    faces = {"align_faces": {"backend": "insightface"}}
    with pytest.raises(ValueError) as error:
        required.check(validate(faces | {"commercial": True}))
    message = str(error.value)
    assert "buffalo_l (align_faces.backend: insightface): its licence (non-commercial research only" in message
    assert "forbids it; choose mediapipe or face_alignment" in message
    assert "syncnet_v2 (score_sync.backend: syncnet_v2)" in message and "does not say that it is allowed" in message
    assert "whisper" not in message and "vae" not in message
    allowed = {
        "commercial": True,
        "score_sync": {"backend": "envelope"},
        "evaluate": {"sync_backend": "envelope"},
        "score_quality": {"backend": "piqe"},
        "train_unet_stage2": {"losses": {"lpips": 0, "trepa": 0}},
    }
    # allowed, but missing
    with pytest.raises(
        ValueError, match=r"parts are missing from (.*\n)*Run `latentsync weights fetch s3fd 2dfan4 whisper vae"
    ):
        required.check(validate(allowed))


def test_the_demo_may_be_run_commercially():
    import yaml

    demo = yaml.safe_load((Path(__file__).parents[2] / "config/config.yaml").read_text())
    required.check(validate(demo | {"commercial": True}))
    assert not Config().commercial


# --- the commands ---------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["latentsync", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        output = capsys.readouterr()
        return end.value.code, output.out, output.err

    return call


@pytest.fixture
def small_registry(tmp_path, monkeypatch):
    """Three entries on a local server: one free, one forbidden, one missing."""
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serve() as web:
        web.pages = {"/a": Page(b"first"), "/b": Page(b"second")}

        def entry(name, commercial, url, uses=("training",)):
            files = (File(f"places/{name}.pt", f"{web.url}{url}", size=None),)
            return Entry(name, f"what {name} is", uses, "its licence", commercial, web.url, files, instead="another")

        entries = [entry("free", "yes", "/a"), entry("forbidden", "no", "/b"), entry("lost", "yes", "/c", ())]
        monkeypatch.setattr(registry, "entries", lambda: {entry.name: entry for entry in entries})
        yield tmp_path / "weights/places"


def test_list(run, small_registry):
    code, out, _ = run("weights", "list")
    assert code == 0 and out.count("\n") == 7 and re.search(r"free +\? +yes +missing +training +its licence", out)
    assert "forbidden" not in run("weights", "list", "--commercial")[1]
    assert "lost" not in run("weights", "list", "--for", "training")[1]
    code, _, err = run("weights", "list", "--for", "enhancement", "--commercial")
    assert code == 1 and "Nothing that is needed for enhancement may be used commercially" in err
    code, _, err = run("weights", "verify")
    assert code == 1 and "None of these files is in" in err
    code, _, err = run("weights", "list", "--for", "fun")
    assert code == 1 and "--for fun is not known; choose inference, training" in err


def test_fetch_verify_path(run, small_registry):
    code, out, err = run("weights", "fetch")
    assert code == 1 and "Name the files to fetch" in err
    code, out, err = run("weights", "verify")
    assert code == 1 and f"None of these files is in {small_registry.parent}" in err and out == ""
    code, out, err = run("weights", "fetch", "--for", "training")
    assert code == 0 and "forbidden: what forbidden is; licence its licence, commercial use: no" in out
    assert (small_registry / "free.pt").read_bytes() == b"first"
    assert "is here" in run("weights", "fetch", "free")[1]
    code, out, err = run("weights", "fetch", "free", "lost")
    assert code == 1 and "status 404" in err and f"save it as {small_registry}/lost.pt" in err
    assert "1 of 2 could not be fetched: lost." in err
    code, out, _ = run("weights", "verify")
    assert code == 0 and out.count("as it was fetched") == 2
    (small_registry / "free.pt").write_bytes(b"worst")
    code, out, err = run("weights", "verify")
    assert code == 1 and "free.pt: sha256 " in out and "DAMAGED OR ANOTHER FILE" in out
    assert "not what it should be: 1 of 2 files" in err
    code, out, err = run("weights", "fetch", "free", "forbidden", "lost")  # a wrong file does not stop the others
    assert code == 1 and "another file of this name" in err and "forbidden.pt" in out
    assert "2 of 3 could not be fetched: free, lost." in err
    assert run("weights", "verify", "lost")[0] == 1
    (small_registry / "lost.pt").mkdir()
    assert "lost.pt is a folder, but a file is expected there" in run("weights", "fetch", "lost")[2]
    (small_registry / "lost.pt").rmdir()
    assert run("weights", "path", "free")[1] == f"{small_registry}/free.pt\n"
    assert run("weights", "path")[1] == f"{small_registry.parent}\n"
    (small_registry / "lost.pt.part").touch()
    assert re.search(r"lost +\? +yes +half", run("weights", "list")[1])


def test_commercial_fetch(run, small_registry):
    code, out, _ = run("weights", "fetch", "--for", "training", "--commercial")
    assert code == 0 and "forbidden: left out, commercial use: no (its licence); instead: another" in out
    assert [path.name for path in sorted(small_registry.glob("*.pt"))] == ["free.pt"]
    code, _, err = run("weights", "fetch", "forbidden", "--commercial")
    assert code == 1 and "forbidden (asked for by name): its licence (its licence) forbids it; choose another" in err


def test_offline_fetch_says_what_is_missing(run, small_registry):
    code, _, err = run("weights", "fetch", "free", "forbidden", "--offline")
    assert code == 1 and err.count("downloads are switched off") == 2 and "2 of 2 could not be fetched" in err


def test_inspect(run, tmp_path):
    torch.save({"state_dict": {"netcnnlip.0.weight": torch.zeros(3, 4)}}, tmp_path / "x.model")
    code, out, _ = run("weights", "inspect", tmp_path / "x.model")
    assert code == 0 and "parameters: 12 in 1 tensors, float32\n" in out and "sha256: " in out
    assert out.splitlines()[1].startswith("It looks like syncnet_v2; score_sync.weights loads it")
    assert "netcnnlip.0.weight" not in out
    assert "netcnnlip.0.weight  (3, 4)  float32" in run("weights", "inspect", tmp_path / "x.model", "--tensors")[1]
    (tmp_path / "x.model").write_bytes(b"<html>")
    code, _, err = run("weights", "inspect", tmp_path / "x.model")
    assert code == 1 and "is a web page" in err


def test_inspect_knows_our_own_nets(run, tmp_path):
    """By their metadata, whatever their shapes; a file of ours with another configuration is not guessed at."""
    state = {"a.weight": torch.zeros(2, 3), "b.weight": torch.zeros(4, dtype=torch.float16)}
    unet = {"stage": 2, "frames": 16, "resolution": 64, "vae": "710d50d7489797c1"}
    judged = {"threshold": 0.6299, "threshold_from": "val", "threshold_accuracy": 0.894}
    small = {"cross_attention_dim": 48, "block_out_channels": [32, 64]}
    for config, facts, words in (
        (small, unet, "U-Net of this project after stage 2 for 16 frames of 64 px, widths 32-64; generate --weights"),
        ({"latent_channels": 4}, {"resolution": 64}, "the VAE of this project (train_vae), trained on faces of 64 px"),
        ({"visual": {}, "audio": {}, "frames": 16, "resolution": 64}, judged,
         "the SyncNet of this project (train_syncnet) for 16 frames of 64 px; it judges 89% of the pairs of val"),
        ({"depth": 3}, {}, "Its kind is not known"),
    ):  # fmt: skip
        weight_files.save(tmp_path / "x.safetensors", state, config, **facts)
        code, out, _ = run("weights", "inspect", tmp_path / "x.safetensors")
        assert code == 0 and words in out.splitlines()[1]
        assert "parameters: 10 in 2 tensors, float32 x 1, float16 x 1" in out and "a.weight" not in out


def test_inspect_knows_published_files_and_programs(run, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    torch.save({"state_dict": {"x": torch.zeros(3)}}, tmp_path / "u.pt")
    size, sha256 = (tmp_path / "u.pt").stat().st_size, registry.sha256_of(tmp_path / "u.pt")
    file = File("places/u.pt", "https://x", size, sha256)
    known = Entry("latentsync-1.7", "LatentSync 1.7: the U-Net", (), "x", "yes", "https://x", (file,))
    monkeypatch.setattr(registry, "entries", lambda: {known.name: known})
    assert "It is LatentSync 1.7: the U-Net (latentsync-1.7 in" in run("weights", "inspect", tmp_path / "u.pt")[1]
    torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "relu.pt"))
    (tmp_path / "net.onnx").write_bytes(b"network")
    for name in ("relu.pt", "net.onnx"):
        code, out, _ = run("weights", "inspect", tmp_path / name)
        assert code == 0 and "kind: a program (ONNX or TorchScript)" in out and "Its kind is not known" in out
        with pytest.raises(ValueError, match="is a program"):
            weight_files.read(tmp_path / name)


def test_generate_refuses_forbidden_parts(run, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path))
    for name in ("v.mp4", "a.wav"):
        (tmp_path / name).touch()
    call = ("generate", "--video", tmp_path / "v.mp4", "--audio", tmp_path / "a.wav", "--out", tmp_path / "o.mp4")
    call += ("--weights", "latentsync-1.5")
    code, _, err = run(*call, "--commercial", "--enhance", "codeformer", "--faces", "insightface")
    assert code == 1 and "codeformer (--enhance codeformer)" in err and "buffalo_l (--faces insightface)" in err
    code, _, err = run(*call, "--commercial")
    assert code == 1 and "latentsync-1.5/latentsync_unet.pt is missing" in err and "weights fetch latentsync-1.5" in err
