"""The page as its users see it: in a browser, with real jobs of small networks; and by gradio_client."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from latentsync.media.probe import probe_media
from latentsync.page.words import NEEDS_CONSENT
from tests.page.server import Server, browser, make_media
from tests.small_run import small_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return make_media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    run = small_run(folder / "results" / "small")
    opened = Server(folder, f"--weights={run}", "--max-s=20", "--max-queue=2", weights_folder=folder / "none")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


@pytest.fixture
def user(chromium, server):
    """`user()` is the page in a browser of its own; nothing may be fetched from elsewhere or fail in the browser."""
    contexts, elsewhere = [], []

    def note(request):
        if not request.url.startswith((server.url, "data:", "blob:")):
            elsewhere.append(request.url)

    def new(width=1400, theme="light"):
        context = chromium.new_context(viewport={"width": width, "height": 900}, permissions=["microphone"])
        contexts.append(context)
        page = context.new_page()
        page.on("request", note)
        page.on("pageerror", lambda error: elsewhere.append(str(error)))
        page.goto(f"{server.url}?__theme={theme}")
        page.locator("#start").wait_for()
        return page

    yield new
    for context in contexts:
        context.close()
    assert not elsewhere


def give(page, video=None, audio=None, steps="1", consent=True):
    """Fill in the page."""
    for where, file in (("#video", video), ("#audio", audio)):
        if file is not None:
            page.locator(f"{where} input[type=file]").set_input_files(file)
    if video is not None:
        page.locator("#video video").wait_for()
    if audio is not None:
        page.locator("#audio .waveform-container, #audio [data-testid=waveform-x]").first.wait_for()
    if steps is not None:
        page.get_by_role("button", name="More options").click()
        page.get_by_label("Denoising steps").fill(steps)
    if consent:
        page.locator("#consent input").check()


def said(page, state, seconds=60):
    """The sentence of a state, once it is reached."""
    page.locator(f"#state .{state}").wait_for(timeout=1000 * seconds)
    return page.locator("#state p").inner_text()


def test_a_job_from_upload_to_download(user, server, media):
    page = user()
    give(page, media / "long.mp4", media / "long.flac")
    page.locator("#start").click()
    shares = []
    while not page.locator("#state .done").count():
        assert not page.locator("#state .failed").count(), page.locator("#state").inner_text()
        share = page.evaluate("document.querySelector('#state progress')?.value")
        shares += [] if share is None else [share]
        page.wait_for_timeout(30)
    assert shares == sorted(shares) and len(set(shares)) >= 5, shares
    assert said(page, "done") == "250 of 250 frames redrawn, face 1 of 1."
    page.locator(".player .play").click()
    times = "[...document.querySelectorAll('.player video')].map(video => video.currentTime)"
    page.wait_for_function(f"{times}[1] > 1.5")
    pairs = []
    for _ in range(10):
        pairs.append(page.evaluate(times))
        page.wait_for_timeout(50)
    assert pairs[-1][1] > pairs[0][1] + 0.3
    assert max(abs(source - result) for source, result in pairs) < 0.08, pairs
    with page.expect_download() as report:
        page.locator(".get-report").click()
    assert report.value.suggested_filename == "long-lipsync.json"
    values = json.loads(report.value.path().read_text())
    assert (values["n_frames"], values["n_generated"], values["settings"]["generate"]["steps"]) == (250, 250, 1)
    with page.expect_download() as video:
        page.locator(".get-video").click()
    assert video.value.path().read_bytes()[4:8] == b"ftyp"
    assert len(re.findall("loaded in", server.log)) == 1


def test_the_second_job_finds_the_networks_loaded(user, server, media):
    page = user()
    give(page, media / "short.mp4", media / "short.flac")
    page.locator("#start").click()
    assert said(page, "done").startswith("25 of 25 frames redrawn")
    assert len(re.findall("loaded in", server.log)) == 1 and "networks of" in server.log


def test_what_is_wrong_is_said_in_one_sentence(user, server, media):
    page = user()
    page.locator("#start").click()
    assert said(page, "failed") == NEEDS_CONSENT
    page.locator("#consent input").check()
    page.locator("#start").click()
    page.get_by_text("There is no video yet").wait_for()
    give(page, media / "sound.mp4", steps=None, consent=False)
    page.locator("#start").click()
    page.get_by_text("sound.mp4 is audio without a picture; it belongs under Speech").wait_for()
    page.locator("#video").get_by_label("Clear").click()
    give(page, media / "cut.mp4", media / "short.flac", steps=None, consent=False)
    page.locator("#start").click()
    page.get_by_text("cut.mp4 is no video that can be read").wait_for()
    page.locator("#video").get_by_label("Clear").click()
    give(page, media / "short.mp4", steps="many", consent=False)
    page.locator("#start").click()
    page.get_by_text("Denoising steps is 'many', which is no number.").wait_for()
    page.get_by_label("Denoising steps").fill("0")
    page.locator("#start").click()
    page.get_by_text("Denoising steps is 0: ").wait_for()
    page.get_by_label("Denoising steps").fill("1")
    page.get_by_role("button", name="Enhance the face").click()
    page.get_by_label("Face enhancement").click()
    page.get_by_role("option", name="gfpgan").click()
    page.locator("#start").click()
    refused = page.get_by_text("GFPGAN 1.4, face enhancement is not on this machine")
    refused.wait_for()
    assert "latentsync weights fetch gfpgan" in refused.inner_text()
    for wrong in ("#video", "#audio"):  # Gradio itself refuses what its field does not take
        page.locator(wrong).get_by_label("Clear").click()
        other = media / ("short.flac" if wrong == "#video" else "short.mp4")
        page.locator(f"{wrong} input[type=file]").set_input_files(other)
        page.locator(".toast-body").filter(has_text="Invalid file type").first.wait_for()
    assert not [path for path in server.jobs() if not (path / "job.json").exists()]
    assert "Traceback" not in page.content()


def test_two_users_at_once_get_their_own(user, server, media):
    pages = {"short.mp4": user(), "wide.mp4": user()}
    for name, page in pages.items():
        give(page, media / name, media / "short.flac")
    for page in pages.values():
        page.locator("#start").click()
    widths = {}
    for name, page in pages.items():
        assert said(page, "done").startswith("25 of 25 frames redrawn")
        page.wait_for_function("document.querySelectorAll('.player video')[1].videoWidth > 0")
        widths[name] = page.evaluate("[...document.querySelectorAll('.player video')].map(v => v.videoWidth)")
    assert widths == {"short.mp4": [208, 208], "wide.mp4": [240, 240]}
    jobs = [page.locator(".get-video").get_attribute("href") for page in pages.values()]
    assert len(set(jobs)) == 2


def test_cancel_frees_the_worker_within_two_seconds(user, server, media):
    page = user()
    give(page, media / "long.mp4", media / "long.flac", steps="999")
    page.locator("#start").click()
    page.get_by_text("Redrawing mouths: 0 of 250").wait_for(timeout=60_000)
    page.wait_for_timeout(1000)  # in the middle of a window, which takes minutes
    n_cancelled = server.log.count(" cancelled after")
    start_s = time.perf_counter()
    page.locator("#cancel").click()
    while server.log.count(" cancelled after") == n_cancelled:
        assert time.perf_counter() - start_s < 2
        time.sleep(0.02)
    print(f"cancelled after {time.perf_counter() - start_s:.2f} s")
    assert said(page, "cancelled") == "Cancelled."
    assert all({one.name for one in job.iterdir()} & {"job.json"} for job in server.jobs())
    assert not list(server.folder.glob("*/*.parts"))
    page.get_by_label("Denoising steps").fill("1")
    page.locator("#preview").click()
    assert said(page, "done").startswith("125 of 125 frames redrawn")
    assert len(re.findall("loaded in", server.log)) == 1


def test_a_reload_finds_the_job_again(user, media):
    page = user()
    give(page, media / "long.mp4", media / "long.flac", steps="2")
    page.locator("#start").click()
    page.locator("#state .running").wait_for()
    page.reload()
    page.locator("#state .running").wait_for()
    assert page.locator("#start").is_disabled() and page.locator("#cancel").is_visible()
    assert said(page, "done", 120).startswith("250 of 250 frames redrawn")
    page.reload()
    page.locator(".player video").first.wait_for()
    assert said(page, "done").startswith("250 of 250 frames redrawn")


def test_faces_are_chosen_by_their_thumbnails(user, media):
    page = user()
    give(page, media / "short.mp4", steps=None, consent=False)
    page.get_by_role("button", name="Which face").click()
    page.locator("#find-faces").click()
    page.get_by_text("Face 1: 0.000 to 1.000 s").wait_for()
    page.locator("#gallery button img").first.click()
    page.wait_for_function("document.querySelector('#face input').value === '1'")


def test_speech_is_recorded(user, media):
    page = user()
    give(page, media / "short.mp4")
    page.locator("#audio").get_by_label("Record audio").click()
    page.locator("#audio").get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1500)
    page.locator("#audio").get_by_role("button", name="Stop", exact=True).click()
    page.locator("#audio .waveform-container").first.wait_for()
    page.locator("#start").click()
    assert " frames redrawn" in said(page, "done")


def test_nothing_outside_the_folder_is_read(server, media):
    def status(path):
        return requests.get(f"{server.url}gradio_api/file={path}").status_code

    client = Client(server.url, verbose=False)
    files = {"video": handle_file(media / "short.mp4"), "audio": handle_file(media / "short.flac")}
    job = client.predict(**files, steps=1, consent=True, api_name="/start")
    *_, last = client.submit(job, api_name="/watch")
    assert last["state"] == "done" and last["job"] == job, last
    own = server.folder / job
    assert status(own / "short-lipsync.mp4") == 200
    for path in (
        "/etc/passwd",
        server.folder / ".." / "log.txt",
        f"{server.folder}/%2e%2e/log.txt",
        server.folder / ".latentsync-page",
        server.folder,
        own,
        media / "short.mp4",
        server.folder.parent / "results/small/train_vae/vae.safetensors",
        "https://127.0.0.1/",
    ):
        assert status(path) in (403, 404), path
    parameters = client.view_api(return_format="dict")["named_endpoints"]["/start"]["parameters"]
    defaults = {one["parameter_name"]: one.get("parameter_default") for one in parameters}
    n_jobs = len(server.jobs())
    for path in (
        "/etc/passwd",
        str(media / "short.mp4"),
        str(server.folder / ".latentsync-page"),
        "http://127.0.0.1/a",
    ):
        given = {"path": path, "meta": {"_type": "gradio.FileData"}}
        values = defaults | {"video": given, "audio": given, "consent": True}
        for data, name in (([*values.values()], "start"), ([given, "mediapipe"], "faces")):
            called = f"{server.url}gradio_api/call/{name}"
            event = requests.post(called, json={"data": data}).json()["event_id"]
            answer = requests.get(f"{called}/{event}", timeout=60).text
            assert answer.startswith("event: error") and "root:" not in answer, (path, answer)
    assert len(server.jobs()) == n_jobs
    with pytest.raises(AppError, match="There is no such job"):
        client.predict("0" * 32, api_name="/result")
    with pytest.raises(AppError, match="There is no such job"):
        client.predict("../../etc", api_name="/cancel")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone_and_works_with_the_keyboard(user, media, theme):
    page = user(400, theme)
    for name in ("Which face", "Enhance the face", "More options"):
        page.get_by_role("button", name=name).focus()
        page.keyboard.press("Enter")
    page.get_by_label("Denoising steps").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    give(page, media / "short.mp4", media / "short.flac", steps=None, consent=False)
    page.get_by_label("Denoising steps").focus()
    page.keyboard.type("1")
    page.locator("#consent input").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "start"
    page.keyboard.press("Enter")
    said(page, "done")
    page.locator(".player .play").focus()
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelectorAll('.player video')[1].currentTime > 0.2")
    page.locator(".player [type=range]").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.documentElement.scrollWidth") == 400


def test_programs_do_the_same(server, media, tmp_path):
    """The example of docs/page.md, as it is written there."""
    text = (Path(__file__).parents[2] / "docs/page.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    for name, file in (("in.mp4", "wide.mp4"), ("speech.wav", "short.flac")):
        shutil.copyfile(media / file, tmp_path / name)
    program = example.replace("http://127.0.0.1:7860/", server.url)
    assert program != example
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "25 of 25 frames redrawn" in ran.stdout
    written = probe_media(tmp_path / "out.mp4")
    assert (written.width, written.n_frames) == (240, 25)
    assert json.loads((tmp_path / "out.json").read_text())["n_generated"] == 25


def test_without_weights_it_says_how_to_get_them_and_a_password_keeps_others_out(chromium, tmp_path):
    (tmp_path / "users.txt").write_text("# who may\nann:secret\nbob:other\n")
    server = Server(tmp_path, "--auth=users.txt", weights_folder=tmp_path / "none")
    page = chromium.new_context().new_page()
    try:
        assert "There are no weights on this machine: whoever runs this page gets" in server.log
        page.goto(server.url)
        page.get_by_label("password").fill("secret")
        assert not page.locator("#start").count()
        page.get_by_label("username").fill("ann")
        page.get_by_role("button", name="Login").click()
        page.locator("#head .missing").wait_for()
        page.locator("#start").click()
        assert said(page, "failed").startswith("There are no weights on this machine")
        assert requests.get(f"{server.url}gradio_api/file={server.folder}").status_code in (401, 403)
        with pytest.raises(ValueError, match="Could not login"):
            Client(server.url, auth=("ann", "other"), verbose=False)
        assert Client(server.url, auth=("bob", "other"), verbose=False).predict(api_name="/weights") == []
    finally:
        page.context.close()
        server.close()
    print(f"the page starts in {server.start_s:.1f} s")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--auth=ann"], "--auth is not USER:PASSWORD"),
        (["--share"], "--share makes a link for everybody who learns it; give --auth"),
        (["--weights=nowhere"], "--weights nowhere does not exist"),
        (["--folder=/"], "--folder / holds files that are not of a page"),
    ],
)
def test_a_wrong_start_is_one_sentence(arguments, words):
    command = [sys.executable, "-m", "latentsync", "app", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and words in ran.stderr and "Traceback" not in ran.stderr
