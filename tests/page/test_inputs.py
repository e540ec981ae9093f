"""What users give: videos, audio and options, right and wrong."""

import numpy as np
import pytest

from latentsync.config import Enhance, Generate, Mark
from latentsync.generation.arguments import marked_as, sections
from latentsync.generation.audio import driving_audio
from latentsync.ledger.rows import Rejection
from latentsync.media.write import write_flac
from latentsync.page import inputs, options, weights_on_disk
from latentsync.page.words import in_words_of_the_page
from latentsync.weights import registry
from tests.page.server import tone
from tests.videos import write_video


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_video(folder / "silent.mp4", 10)
    write_video(folder / "both.mp4", 10, audio=tone(17_640))
    write_video(folder / "sound.mp4", 0, video_track=False, audio=tone(17_640))
    write_flac(folder / "speech.flac", tone(32_000))
    (folder / "letter.mp4").write_text("dear reader, " * 400)
    (folder / "empty.wav").touch()
    return folder


def test_good_files_are_taken(media, tmp_path):
    assert inputs.require_video(str(media / "both.mp4"), 60) == media / "both.mp4"
    for name in ("both.mp4", "sound.mp4", "speech.flac"):
        assert inputs.require_speech(str(media / name), 60) == media / name
    to = inputs.placed(media / "speech.flac", tmp_path / "audio")
    assert to == tmp_path / "audio/speech.flac" and to.samefile(media / "speech.flac")


def test_a_header_that_claims_another_length_is_not_believed(media, tmp_path):
    data = bytearray((media / "speech.flac").read_bytes())
    data[21] &= 0xF0  # of STREAMINFO: the number of samples, 36 bits
    data[22:26] = (1600).to_bytes(4, "big")
    (tmp_path / "long.flac").write_bytes(data)
    with pytest.raises(ValueError, match=r"long.flac is 2\.0 s long, and this page takes 1 s at most"):
        inputs.require_speech(str(tmp_path / "long.flac"), 1)
    assert inputs.require_speech(str(tmp_path / "long.flac"), 3)


@pytest.mark.parametrize("name", ["both.mp4", "speech.flac"])
def test_a_playlist_is_neither_video_nor_audio(media, tmp_path, name):
    """It would make the page read a file that the user could not have uploaded."""
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:0.4,\n{media / name}\n#EXT-X-ENDLIST\n"
    )
    (tmp_path / "list.flac").write_text(f"ffconcat version 1.0\nfile '{media / name}'\n")
    for file in ("list.m3u8", "list.flac"):
        with pytest.raises(ValueError, match=f"{file} is no audio that can be read"):
            inputs.require_speech(str(tmp_path / file), 60)
        with pytest.raises(Rejection, match="unreadable"):
            driving_audio(tmp_path / file)


@pytest.mark.parametrize(
    ("check", "name", "words"),
    [
        ("video", "sound.mp4", "sound.mp4 is audio without a picture; it belongs under Speech, and the video under"),
        ("video", "speech.flac", "speech.flac is audio without a picture"),
        ("speech", "silent.mp4", "silent.mp4 is a video without audio; it belongs under Video, and the speech under"),
        ("video", "letter.mp4", "letter.mp4 is no video that can be read: "),
        ("speech", "letter.mp4", "letter.mp4 is no audio that can be read"),
        ("speech", "empty.wav", "empty.wav is no audio that can be read"),
        ("video", "gone.mp4", "gone.mp4 is no longer on the server"),
        ("video", "", "There is no video yet"),
        ("speech", "", "There is no speech yet"),
        ("video", "both.mp4", "The video both.mp4 is 0.4 s long, and this page takes 0.3 s at most"),
        ("speech", "speech.flac", "The audio speech.flac is 2.0 s long, and this page takes 0.3 s at most"),
    ],
)
def test_wrong_files_are_one_sentence_without_paths(media, check, name, words):
    with pytest.raises(ValueError, match=words) as caught:
        getattr(inputs, f"require_{check}")(str(media / name) if name else None, 0.3)
    assert str(media) not in str(caught.value) and str(caught.value).endswith(".")


def test_every_option_is_a_key_with_its_limits():
    names = [option.name for option in options.ALL]
    assert len(set(names)) == len(names)
    for option in options.ALL:
        assert option.key in option.section.model_fields and option.meaning, option
    steps = next(option for option in options.ALL if option.key == "steps")
    assert steps.default is None and steps.limits == (1, 999) and steps.whole
    strength = next(option for option in options.ALL if option.key == "strength")
    assert strength.limits == (0, 1) and strength.name == "enhance_strength"
    silence = next(option for option in options.ALL if option.key == "silence")
    label = next(option for option in options.ALL if option.key == "label")
    assert label.meaning == 'Text in a corner of every frame, e.g. "AI-generated"; empty: none'
    assert silence.choices == ("close", "keep") and "null" not in silence.meaning


def test_untouched_options_are_the_defaults_of_the_command_line():
    shown = {option.name: option.default if option.default is not None else option.off for option in options.ALL}
    for preset in ("exact", "fast"):
        generate, enhance, mark = options.settings(shown)
        found = sections(preset, generate, enhance, "mediapipe", None)
        assert marked_as(mark) == Mark()
        assert found == sections(preset, {}, {}, "mediapipe", None)
    found = options.settings(shown | {"steps": "7", "high_quality": True, "audio_offset_ms": "-40", "seed": 3.0})
    assert found[0] | {"steps": 7, "crf": 8, "audio_offset_ms": -40, "seed": 3} == found[0]


@pytest.mark.parametrize("value", ["many", "nan", "1e999", [], True and "½"])
def test_what_is_no_number_is_said(value):
    with pytest.raises(ValueError, match="Denoising steps is .* no number"):
        options.settings({"steps": value})


def test_messages_of_the_command_line_become_those_of_the_page(tmp_path):
    video = tmp_path / "abc/video/me.mp4"
    said = f"--video {video} cannot be used: no_face: nobody is seen."
    assert in_words_of_the_page(said, {video: "me.mp4"}) == "The video cannot be used: no_face: nobody is seen."
    said = f"--start 9 is after the end of the result ({tmp_path}/x.bin); give --length video."
    words = "From second 9 is after the end of the result (x.bin); give the length of the video."
    assert in_words_of_the_page(said, {}) == words
    with pytest.raises(ValueError) as caught:
        sections("exact", {"steps": 0}, {}, "mediapipe", None)
    assert in_words_of_the_page(str(caught.value), {}).startswith("Denoising steps is 0: ")


def test_weights_are_those_that_are_complete(tmp_path, weights_folder):
    results = tmp_path / "results"
    assert weights_on_disk.on_disk(results=results) == []
    for run in ("demo", "half"):
        (results / run / "train_unet_stage2").mkdir(parents=True)
        (results / run / "make_talkers").mkdir()
    (results / "demo/train_unet_stage2/unet.safetensors").write_bytes(bytes(2_000_000))
    (results / "demo/config.json").write_text('{"align_faces": {"resolution": 64}}')
    (found,) = weights_on_disk.on_disk(results=results)
    assert found.title == "demo" and found.name == str(results / "demo")
    assert found.sentence.startswith("A demonstration: 64 px of synthetic faces.") and "2.0 MB" in found.sentence
    for name in ("latentsync-1.6", "vae", "whisper"):
        for file in registry.entry(name).files:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            file.path.write_bytes(b"x")
    release, _ = weights_on_disk.on_disk(results=results)
    assert release.name == "latentsync-1.6" and "512 px" in release.purpose and release.licence == "OpenRAIL++"
    (release_only,) = weights_on_disk.on_disk(["latentsync-1.6"], results)
    assert release_only == release
    registry.entry("vae").files[0].path.unlink()
    assert [one.title for one in weights_on_disk.on_disk(results=results)] == ["demo"]
    with pytest.raises(ValueError, match="none does not exist"):
        weights_on_disk.on_disk([str(tmp_path / "none")])


def test_the_default_of_every_option_is_valid():
    assert options.settings({}) == ({}, {}, {})
    assert Generate(**{"crf": options.settings({"high_quality": True})[0]["crf"]}) and Enhance()
    assert np.isfinite([options.of_preset(preset, "steps") for preset in ("exact", "balanced", "fast")]).all()
