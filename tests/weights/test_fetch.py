"""Downloads from a server that interrupts, changes, refuses and sends wrong sizes: no wrong file gets its name."""

import fcntl
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
import zipfile

import pytest
import requests

from latentsync.weights import fetch, registry
from latentsync.weights.registry import File
from tests.web import Page, serve

CONTENT = bytes(range(256)) * 4096  # a megabyte
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def web():
    with serve() as server:
        server.pages["/tiny.pt"] = Page(CONTENT)
        yield server


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LATENTSYNC_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def file(web, **changes):
    return File(**({"place": "sounds/tiny.pt", "url": f"{web.url}/tiny.pt", "sha256": SHA256} | changes))


def get(*args, **options):
    return fetch.fetch(*args, pause_s=0, **options)


def contents(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_file_is_fetched_once(web, folder):
    assert get(file(web, size=len(CONTENT))) is True
    assert (folder / "sounds/tiny.pt").read_bytes() == CONTENT
    assert contents(folder) == {"sounds/tiny.pt"}
    assert get(file(web)) is False and len(web.asked) == 1


def test_an_interrupted_download_resumes(web, folder):
    web.pages["/tiny.pt"].broken_off = [300_000, 1, 0, 0, 200_000]
    assert get(file(web))
    assert (folder / "sounds/tiny.pt").read_bytes() == CONTENT
    assert [headers.get("Range") for _, headers in web.asked] == [None, "bytes=300000-"] + ["bytes=300001-"] * 3 + [
        "bytes=500001-"
    ]


def test_a_failed_download_keeps_its_bytes_and_the_next_call_resumes(web, folder):
    web.pages["/tiny.pt"].broken_off = [700_000] + [0] * fetch.ATTEMPTS
    with pytest.raises(fetch.Unavailable, match=r"700000 bytes are kept.*save it as .*sounds/tiny\.pt"):
        get(file(web))
    assert contents(folder) == {"sounds/tiny.pt.part", "sounds/tiny.pt.part.etag"}
    web.asked.clear()
    assert get(file(web)) and web.asked[0][1]["Range"] == "bytes=700000-"
    assert contents(folder) == {"sounds/tiny.pt"}


def test_a_killed_download_resumes(web, folder):
    """A child process is killed during the download; its part is used."""
    code = (
        "import sys, time; from latentsync.weights import fetch; from latentsync.weights.registry import File\n"
        "write = fetch._write\n"
        "def slowly(response, sink, *rest):\n"
        "    sink.write(response.raw.read(400_000)); sink.flush(); print('half', flush=True); time.sleep(60)\n"
        "fetch._write = slowly\n"
        f"fetch.fetch(File('sounds/tiny.pt', '{web.url}/tiny.pt'))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"half\n"
    with pytest.raises(ValueError, match="Another process is downloading"):
        get(file(web))
    child.send_signal(signal.SIGKILL)
    child.wait()
    web.asked.clear()
    assert get(file(web)) and web.asked[0][1]["Range"] == "bytes=400000-"
    assert (folder / "sounds/tiny.pt").read_bytes() == CONTENT


def test_a_complete_part_is_only_renamed(web, folder):
    (folder / "sounds").mkdir(parents=True)
    (folder / "sounds/tiny.pt.part").write_bytes(CONTENT)
    assert get(file(web)) and contents(folder) == {"sounds/tiny.pt"} and len(web.asked) == 1


def test_a_file_that_changed_meanwhile_is_downloaded_from_scratch(web, folder):
    web.pages["/tiny.pt"].broken_off = [500_000] + [0] * fetch.ATTEMPTS
    with pytest.raises(fetch.Unavailable):
        get(file(web, sha256=None))
    other = CONTENT[::-1]
    web.pages["/tiny.pt"] = Page(other)
    assert get(file(web, sha256=None)) and (folder / "sounds/tiny.pt").read_bytes() == other


@pytest.mark.parametrize("junk", [b"", b"x" * 10, b"x" * 2_000_000])
def test_servers_without_ranges_and_foreign_parts(web, folder, junk):
    web.pages["/tiny.pt"].ranges = len(junk) > 10
    (folder / "sounds").mkdir(parents=True)
    (folder / "sounds/tiny.pt.part").write_bytes(junk)
    assert get(file(web)) and (folder / "sounds/tiny.pt").read_bytes() == CONTENT


def test_a_busy_server_is_retried(web, folder):
    web.pages["/tiny.pt"].busy = 3
    assert get(file(web)) and len(web.asked) == 4


def test_a_wrong_checksum_leaves_nothing(web, folder):
    with pytest.raises(ValueError, match=rf"sha256 {SHA256} instead of {'0' * 64}; it was not kept.*By hand"):
        get(file(web, sha256="0" * 64))
    assert contents(folder) == set()
    with pytest.raises(ValueError, match=r"offers 1048576 bytes instead of 5"):
        get(file(web, size=5))
    assert not (folder / "sounds/tiny.pt").exists()


def test_an_unpublished_checksum_is_recorded_at_download(web, folder):
    assert get(file(web, sha256=None))
    path = folder / "sounds/tiny.pt"
    assert (folder / "sounds/tiny.pt.sha256").read_text() == f"{SHA256}  tiny.pt\n"
    assert registry.expected_sha256(path) == SHA256 and registry.require_intact(path)
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(ValueError, match="is damaged, or another file of this name"):
        get(file(web, sha256=None))
    assert path.read_bytes()[-1:] == b"?"  # it may be a file of the user: nothing deletes it


def test_the_first_digits_suffice_if_no_more_are_published(web):
    assert get(file(web, sha256=SHA256[:8]))
    with pytest.raises(ValueError, match="instead of 1234abcd"):
        get(file(web, place="other.pt", sha256="1234abcd"))


def test_the_hub_announces_the_checksum_in_its_redirect(web, folder, monkeypatch):
    """A mirror replaces the hub; the token is not for it."""
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_TOKEN", "secret")
    target = f"{registry.HUB}/who/what/resolve/abc/model.bin"
    linked = {"X-Linked-Etag": f'"{SHA256}"'}
    web.pages["/who/what/resolve/abc/model.bin"] = Page(redirect=f"{web.url}/tiny.pt", headers=linked)
    assert get(File("model.bin", target))
    assert [headers.get("Authorization") for _, headers in web.asked] == [None, None]
    web.pages["/who/what/resolve/abc/model.bin"].headers = {"X-Linked-Etag": '"' + "1" * 64 + '"'}
    with pytest.raises(ValueError, match="instead of 1111"):
        get(File("again.bin", target))


def test_the_token_goes_to_the_hub_over_https_and_to_nobody_else(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert fetch._authorization(registry.HUB + "/who/what") == {"Authorization": "Bearer secret"}
    others = ["http://huggingface.co/a", "https://huggingface.co.example.org/a", "https://mirror.example.org/a"]
    assert [fetch._authorization(url) for url in [*others, "https://huggingface.co:444/a"]] == [{}] * 4
    session = requests.Session()  # what a redirect of the hub does with it
    assert all(session.should_strip_auth(registry.HUB + "/who/what", url) for url in others)


@pytest.mark.parametrize("announced", [True, False])
def test_a_server_that_sends_more_than_the_file_is_stopped_at_its_size(web, folder, announced):
    web.pages["/tiny.pt"] = Page(bytes(50 << 20), length=announced)
    with pytest.raises(ValueError, match=r"offers 52428800|sends more than the 1000 bytes of the file"):
        get(file(web, size=1000))
    assert len(web.asked) == 1 and (folder / "sounds/tiny.pt.part").stat().st_size == 0
    assert contents(folder) == {"sounds/tiny.pt.part"}


def test_a_file_of_unknown_size_has_a_limit(web, folder, monkeypatch):
    monkeypatch.setattr(fetch, "MOST_BYTES", 100_000)
    web.pages["/tiny.pt"].length = False
    with pytest.raises(ValueError, match="sends more than the 100000 bytes"):
        get(file(web))
    monkeypatch.setattr(fetch, "MOST_BYTES", 2_000_000)
    assert get(file(web)) and (folder / "sounds/tiny.pt").read_bytes() == CONTENT


def test_errors_name_the_path_for_a_manual_download(web, folder):
    by_hand = rf"By hand: download {web.url}/.* and save it as {folder}/sounds/tiny\.pt"
    with pytest.raises(fetch.Unavailable, match=rf"does not exist \(status 404\)\. {by_hand}"):
        get(file(web, url=f"{web.url}/nowhere.pt"))
    web.pages["/tiny.pt"].status = 403
    with pytest.raises(fetch.Unavailable, match=rf"requires a login \(status 403\).*HF_TOKEN\. {by_hand}"):
        get(file(web))
    web.pages["/tiny.pt"] = Page(b"<html>Please log in</html>", headers={"Content-Type": "text/html"})
    with pytest.raises(fetch.Unavailable, match=rf"returns a web page.*{by_hand}"):
        get(file(web))
    with pytest.raises(fetch.Unavailable, match=r"has no download address"):
        get(file(web, url=None))
    assert "sounds/tiny.pt" not in contents(folder)


def test_nothing_is_requested_offline(web, monkeypatch):
    with pytest.raises(fetch.Unavailable, match="downloads are switched off. By hand: download"):
        get(file(web), offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(fetch.Unavailable, match="downloads are switched off"):
        get(file(web))
    assert web.asked == []


def test_a_missing_server_is_one_sentence(folder):
    with pytest.raises(fetch.Unavailable, match=r"does not respond \(.*check the network, HTTPS_PROXY and HF_ENDPOINT"):
        get(File("x.pt", "http://127.0.0.1:9/x.pt"))


def test_a_redirect_loop_and_an_invalid_address_are_one_sentence(web, monkeypatch):
    web.pages["/tiny.pt"] = Page(redirect="/tiny.pt")
    with pytest.raises(fetch.Unavailable, match=r"redirects.*check HF_ENDPOINT.*save it as .*sounds/tiny\.pt"):
        get(file(web))
    monkeypatch.setenv("HF_ENDPOINT", "no-scheme")
    with pytest.raises(fetch.Unavailable, match=r"No scheme.*check HF_ENDPOINT"):
        get(File("tiny.pt", registry.HUB + "/of/file"))


def test_an_unusable_weights_folder_is_named_with_the_fix(web, folder):
    folder.write_text("a file where a folder should be")
    with pytest.raises(ValueError, match=r"sounds/tiny\.pt\.part cannot be written .*set LATENTSYNC_WEIGHTS"):
        get(file(web))
    assert not web.asked


def test_proxies_of_the_environment_are_used(web, monkeypatch):
    """The test server acts as the proxy: it receives the full URL."""
    monkeypatch.setenv("http_proxy", web.url)
    monkeypatch.setenv("no_proxy", "")
    web.pages["http://example.invalid/tiny.pt"] = Page(CONTENT)
    assert get(File("tiny.pt", "http://example.invalid/tiny.pt", sha256=SHA256))
    assert web.asked[0][0] == "http://example.invalid/tiny.pt"


def test_too_little_space_is_an_error_before_the_download(web, folder, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ValueError, match=r"needs 0\.00 GB more, but .* has 0\.00 GB free"):
        get(file(web))
    assert (folder / "sounds/tiny.pt.part").stat().st_size == 0


def test_a_disk_that_fills_up_during_the_download(web, folder):
    """/dev/full raises the error of a full disk."""
    (folder / "sounds").mkdir(parents=True)
    (folder / "sounds/tiny.pt.part").symlink_to("/dev/full")
    with pytest.raises(ValueError, match=r"No space left for .*tiny\.pt\.part; what was received is kept"):
        get(file(web))
    assert not (folder / "sounds/tiny.pt").exists()


def test_members_of_an_archive(web, folder):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("pack/a.onnx", b"first")
        archive.writestr("pack/b.onnx", b"second")
    web.pages["/pack.zip"] = Page(packed.getvalue())
    files = [File(f"models/{name}.onnx", f"{web.url}/pack.zip", member=f"{name}.onnx") for name in "ab"]
    assert [get(one) for one in files] == [True, True] and len(web.asked) == 1
    assert (folder / "models/b.onnx").read_bytes() == b"second"
    (folder / "models/pack.zip").write_bytes(b"a file of the user")
    assert registry.require_intact(folder / "models/a.onnx")
    wrong = File("models/c.onnx", f"{web.url}/pack.zip", member="a.onnx", sha256="0" * 64)
    with pytest.raises(ValueError, match=r"a\.onnx of .*pack\.zip\.fetched has sha256"):
        get(wrong)
    with pytest.raises(ValueError, match=r"has no d\.onnx; delete it and fetch again"):
        get(File("models/d.onnx", f"{web.url}/pack.zip", member="d.onnx"))
    assert {"models/c.onnx", "models/d.onnx"} & contents(folder) == set()
    fetch.drop_archives((*files, wrong))
    assert contents(folder) == {"models/pack.zip"} | {
        f"models/{name}.onnx{end}" for name in "ab" for end in ("", ".sha256")
    }
    web.pages["/pack.zip"] = Page(b"PK no more")
    with pytest.raises(ValueError, match="is not a zip archive"):
        get(File("models/e.onnx", f"{web.url}/pack.zip", member="e.onnx"))


def test_a_second_download_of_one_file_fails_at_once(web, folder):
    (folder / "sounds").mkdir(parents=True)
    with open(folder / "sounds/tiny.pt.part", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        before = time.monotonic()
        with pytest.raises(ValueError, match="Another process is downloading .*wait until it has finished"):
            get(file(web))
        assert time.monotonic() - before < 5
    assert get(file(web)) and os.listdir(folder / "sounds") == ["tiny.pt"]
