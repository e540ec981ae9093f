"""Manifests by c2pa's own reader: what was signed, what was changed since, and files of others."""

import c2pa
import numpy as np
import pytest

from latentsync.config import Mark
from latentsync.generation.marking import COMPOSITE, definition
from latentsync.media import certificate, manifest
from tests.certificates import write_pair
from tests.videos import packets, write_video

MADE_WITH = {"weights": {"unet": "0123456789abcdef"}, "settings": {"steps": 20}}


@pytest.fixture(scope="module")
def video(folder):
    tone = (0.3 * np.sin(np.arange(44_100) / 7)).astype(np.float32)
    return write_video(folder / "source \u00e4.mp4", 25, audio=tone)


@pytest.fixture(scope="module")
def signed(folder, video):
    return sign(video, folder / "signed.mp4", video)


def sign(unsigned, out, source, parent=None, **mark):
    manifest.sign(unsigned, out, definition(source, [source], MADE_WITH), certificate.identity(Mark(**mark)), parent)
    return out


def test_what_was_signed_is_read_back_by_the_reader_of_c2pa(signed, video):
    with c2pa.Reader(signed) as reader:
        assert reader.get_validation_state() == "Valid"
        active = reader.get_active_manifest()
    assertions = {one["label"]: one["data"] for one in active["assertions"]}
    edited = assertions["c2pa.actions.v2"]["actions"][-1]
    assert edited["digitalSourceType"] == COMPOSITE and edited["softwareAgent"]["name"] == "LatentSync Studio"
    assert assertions["org.latentsync.studio.generation"] == MADE_WITH
    assert [one["relationship"] for one in active["ingredients"]] == ["parentOf", "componentOf"]
    found = manifest.read(signed)
    assert found.signer == certificate.TEST_NAME and found.faults == [] and found.time is None
    assert found.ingredients[0].startswith("source \u00e4.mp4, sha256 ")
    assert manifest.read(video) is None and not manifest.has_manifest(video)


@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_packets_stay_and_the_same_inputs_give_the_same_bytes(folder, container):
    tone = (0.3 * np.sin(np.arange(44_100) / 7)).astype(np.float32)
    video = write_video(folder / f"v.{container}", 25, audio=tone, options={"movflags": "+faststart"})
    first, again = (sign(video, folder / f"{n}.{container}", video) for n in "ab")
    assert packets(first) == packets(video) and len(packets(first)) > 60
    assert first.read_bytes() == again.read_bytes() != video.read_bytes()


def test_one_changed_byte_is_noticed(signed, tmp_path):
    """Somewhere in every piece of the file, except in boxes of padding, which C2PA leaves out."""
    content, changed = signed.read_bytes(), tmp_path / "changed.mp4"
    after = content.index(b"c2pa.signature")  # behind it, and a kilobyte of certificates and padding, the video follows
    places = [content.index(b"self#jumbf"), content.index(b"0123456789abcdef"), content.index(b"compositeWith")]
    places += np.linspace(content.index(b"moov", after) + 8, len(content) - 1, 40).astype(int).tolist()
    for place in places:
        changed.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            found = manifest.read(changed)
        except ValueError as error:
            assert "damaged" in str(error), place
        else:
            assert found is not None and found.faults, place


def test_a_source_with_a_manifest_becomes_part_of_the_new_one(signed, folder):
    first, again = (sign(signed, folder / f"chained {n}.mp4", signed, parent=signed) for n in "ab")
    assert first.read_bytes() == again.read_bytes() and packets(first) == packets(signed)
    with c2pa.Reader(first) as reader:
        assert reader.get_validation_state() == "Valid"
        parent, _ = sorted(
            reader.get_active_manifest()["ingredients"], key=lambda one: one["relationship"] != "parentOf"
        )
        known = reader.get_manifest(parent["active_manifest"])
    assert known["signature_info"]["common_name"] == certificate.TEST_NAME
    found = manifest.read(first)
    assert not found.faults and found.ingredients[0].endswith("with a manifest of its own")


def test_a_source_that_was_changed_after_signing_does_not_spoil_the_result(signed, tmp_path):
    content = signed.read_bytes()
    changed = tmp_path / "changed.mp4"
    changed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = manifest.read(sign(changed, tmp_path / "out.mp4", changed, parent=changed))
    assert not found.faults and found.ingredients[0].endswith("which did not fit it any more")


@pytest.mark.parametrize("kind", ["p256", "p521", "rsa"])
def test_certificates_of_ones_own_sign_validly(video, tmp_path, kind):
    found = manifest.read(sign(video, tmp_path / "own.mp4", video, **write_pair(tmp_path, kind)))
    assert (found.signer, found.faults) == ("Example Studio", [])


@pytest.mark.parametrize(
    ("name", "content", "readable"),
    [
        ("a.txt", b"text", True),
        ("a.mkv", b"\x1aE\xdf\xa3", True),
        ("a.mp4", b"", False),
        ("a.mp4", b"text " * 9, False),
    ],
)
def test_files_that_are_no_videos(tmp_path, name, content, readable):
    (tmp_path / name).write_bytes(content)
    assert not manifest.has_manifest(tmp_path / name)
    if readable:
        assert manifest.read(tmp_path / name) is None
    else:
        with pytest.raises(ValueError, match=r"a.mp4 is damaged, or its manifest was changed"):
            manifest.read(tmp_path / name)
