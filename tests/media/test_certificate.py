"""The test certificate of first use, certificates of one's own, and what is wrong with those that cannot sign."""

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from latentsync.config import Mark, validate
from latentsync.media import certificate, manifest
from tests.certificates import write_pair

ROOT = Path(__file__).resolve().parents[2]


def test_the_test_certificate_is_made_once_for_the_user_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_DATA", str(tmp_path / "new/data"))
    first = certificate.identity(Mark())
    again = certificate.identity(Mark())
    assert (first.name, first.chain) == (again.name, again.chain)
    assert first.name == certificate.TEST_NAME and first.sign(b"m") == again.sign(b"m")
    [file] = (tmp_path / "new/data").glob("*.pem")
    assert file.stat().st_mode & 0o777 == 0o600
    manifest.require_usable(first)


def test_processes_that_come_first_together_get_one_certificate(tmp_path, monkeypatch):
    code = "from latentsync.config import Mark; from latentsync.media.certificate import identity; "
    code += "print(identity(Mark()).chain)"
    monkeypatch.setenv("LATENTSYNC_DATA", str(tmp_path / "data"))
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    chains = {process.communicate()[0] for process in running}
    assert len(chains) == 1 and chains.pop().count("BEGIN CERTIFICATE") == 2
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LATENTSYNC_DATA", str(tmp_path / "file/data"))
    with pytest.raises(ValueError, match=r"^The test certificate .* cannot be made .*LATENTSYNC_DATA.*--no-mark\.$"):
        certificate.identity(Mark())


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [("ed25519", "Ed25519"), ("p256", "ES256"), ("p384", "ES384"), ("p521", "ES512"), ("rsa", "PS256")],
)
def test_keys_of_every_kind_that_c2pa_knows_sign(tmp_path, kind, algorithm):
    found = certificate.identity(Mark(**write_pair(tmp_path, kind)))
    assert (found.name, found.algorithm) == ("Example Studio", algorithm)
    manifest.require_usable(found)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"days": (-3, -1)}, "valid"),
        ({"days": (1, 3)}, "valid"),
        ({"purpose": ExtendedKeyUsageOID.SERVER_AUTH}, "certificate"),
        ({"password": b"secret"}, r"--private-key .*key.pem is encrypted"),
        ({"kind": "secp256k1"}, r"key.pem is of a kind that C2PA does not know; use Ed25519"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_certificate_that_cannot_sign_is_one_sentence(tmp_path, wrong, words):
    with pytest.raises(ValueError, match=words) as error:
        manifest.require_usable(certificate.identity(Mark(**write_pair(tmp_path, **wrong))))
    print(error.value)
    assert str(error.value).count("\n") == 0 and str(tmp_path) in str(error.value)


def test_files_that_are_no_pair_are_one_sentence(tmp_path):
    pair, other = write_pair(tmp_path / "a"), write_pair(tmp_path / "b")
    with pytest.raises(ValueError, match=r"b/key.pem is not the key of the first certificate in .*a/chain.pem"):
        certificate.identity(Mark(**pair | {"private_key": other["private_key"]}))
    with pytest.raises(ValueError, match=r"^--certificate .*none.pem is not a file\.$"):
        certificate.identity(Mark(**pair | {"certificate": str(tmp_path / "none.pem")}))
    with pytest.raises(ValueError, match=r"^--certificate .*key.pem holds no certificate in PEM"):
        certificate.identity(Mark(**pair | {"certificate": pair["private_key"]}))
    with pytest.raises(ValueError, match=r"^--private-key .*chain.pem holds no private key in PEM"):
        certificate.identity(Mark(**pair | {"private_key": pair["certificate"]}))


def test_half_a_pair_or_a_pair_without_use_is_refused():
    with pytest.raises(ValueError, match=r"^--private-key is missing: .*give both or none\.$"):
        validate({"mark": {"certificate": "c.pem"}})
    with pytest.raises(ValueError, match=r"^--certificate is missing"):
        validate({"mark": {"private_key": "k.pem"}})
    with pytest.raises(ValueError, match=r"^--certificate has no effect with --no-mark"):
        validate({"mark": {"certificate": "c.pem", "private_key": "k.pem", "manifest": False}})
