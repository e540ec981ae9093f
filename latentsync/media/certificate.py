"""Who signs a result: a test certificate that is made at first use, or a certificate of one's own.

C2PA asks for X.509 version 3, valid today, with the key usage digitalSignature and the extended usage emailProtection
or documentSigning. Without a timestamp the validity is that of the day of reading, so the test certificate is valid
for a century.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from latentsync.config import Mark
from latentsync.ledger.files import locked

TEST_NAME = "LatentSync Studio test certificate"
TEST_MEANING = "made on the machine that signed; proves nothing about who made the file"
_VALID = datetime(2020, 1, 1, tzinfo=UTC), datetime(2120, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Identity:
    """A certificate and what signs with its key."""

    name: str
    """Common name of the certificate, or its organisation."""
    chain: str
    """The certificate and those above it, PEM, in this order."""
    algorithm: str
    """As C2PA calls it: Ed25519, ES256, ES384, ES512 or PS256."""
    sign: Callable[[bytes], bytes]
    """Signs a message; the same message gives the same signature, except with PS256."""
    source: str
    """Where it comes from, for messages."""


def data_folder() -> Path:
    """The folder of what is made once per user: LATENTSYNC_DATA, or latentsync in the user's data folder."""
    given = os.environ.get("LATENTSYNC_DATA")
    return Path(given or Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share", "latentsync")).expanduser()


def identity(cfg: Mark) -> Identity:
    """The certificate that the section names, or the test certificate, which is made if it is not there yet.

    Raises:
        ValueError: a file is missing, no PEM, encrypted, or the key is not that of the certificate; or the folder of
            the test certificate cannot be written.
    """
    if cfg.certificate is None or cfg.private_key is None:
        return _read(_test_file(), _test_file(), "the test certificate")
    certificate, private_key = Path(cfg.certificate).expanduser(), Path(cfg.private_key).expanduser()
    return _read(certificate, private_key, f"--certificate {certificate}")


def _test_file() -> Path:
    """The PEM file of the test certificate: private key, certificate, and the one that issued it."""
    path = data_folder() / "test-certificate.pem"
    if not path.exists():
        try:
            with locked(path.with_suffix(".lock")):  # of two that come first, one makes it
                if not path.exists():
                    _write_privately(path, _made())
        except OSError as error:
            raise ValueError(
                f"The test certificate {path} cannot be made ({error.strerror}); set LATENTSYNC_DATA to a folder that "
                "can be written, give --certificate and --private-key, or --no-mark."
            ) from None
    return path


def _write_privately(path: Path, content: bytes) -> None:
    """Whole or not at all, readable by the user alone from the first byte on."""
    temporary = path.with_suffix(".part")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    os.replace(temporary, path)


def _made() -> bytes:
    """A key with a certificate, issued by another one whose key is forgotten; all as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(name: str) -> x509.Name:
        organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "LatentSync Studio, for tests only")
        return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, name)])

    root, key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    usage = dict.fromkeys(
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
        "encipher_only decipher_only".split(),
        False,
    )
    issuer = named("LatentSync Studio test issuer")

    def certificate(name: x509.Name, owner: Ed25519PrivateKey) -> x509.CertificateBuilder:
        public, issued_by = owner.public_key(), x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())
        return (
            x509.CertificateBuilder(issuer, name, public, x509.random_serial_number(), *_VALID)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(issued_by, critical=False)
        )

    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
    leaf = (
        certificate(named(TEST_NAME), key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage | {"digital_signature": True}), critical=True)
        .add_extension(purposes, critical=False)
        .sign(root, None)
    )
    above = (
        certificate(issuer, root)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**usage | {"key_cert_sign": True, "crl_sign": True}), critical=True)
        .sign(root, None)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + leaf.public_bytes(Encoding.PEM) + above.public_bytes(Encoding.PEM)


def _read(certificate: Path, private_key: Path, source: str) -> Identity:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
    from cryptography.x509.oid import NameOID

    content = {option: _content(option, path) for option, path in _files(certificate, private_key)}
    try:
        chain = x509.load_pem_x509_certificates(content["--certificate"])
    except ValueError:
        raise ValueError(f"--certificate {certificate} holds no certificate in PEM; convert it with openssl.") from None
    try:
        key: Any = load_pem_private_key(content["--private-key"], None)
    except TypeError:
        raise ValueError(f"--private-key {private_key} is encrypted; decrypt it with `openssl pkey`.") from None
    except Exception:  # of several libraries below
        raise ValueError(f"--private-key {private_key} holds no private key in PEM; convert it with openssl.") from None
    if key.public_key() != chain[0].public_key():
        raise ValueError(
            f"--private-key {private_key} is not the key of the first certificate in {certificate}; give both of one "
            "certificate."
        )
    algorithm, sign = _signing(key, private_key)
    subject = chain[0].subject
    names = [
        str(one.value)
        for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
        for one in subject.get_attributes_for_oid(kind)
    ]
    pem = "".join(one.public_bytes(Encoding.PEM).decode() for one in chain)
    return Identity((names or [subject.rfc4514_string()])[0], pem, algorithm, sign, source)


def _files(certificate: Path, private_key: Path) -> list[tuple[str, Path]]:
    return [("--certificate", certificate), ("--private-key", private_key)]


def _content(option: str, path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{option} {path} is not a file.")
    return path.read_bytes()


def _signing(key: Any, path: Path) -> tuple[str, Callable[[bytes], bytes]]:
    """The algorithm that fits a private key, and the function that signs."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "Ed25519", key.sign
    if isinstance(key, rsa.RSAPrivateKey):
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
        return "PS256", lambda message: key.sign(message, pss, hashes.SHA256())
    of_curve: dict[str, tuple[str, hashes.HashAlgorithm]] = {
        "secp256r1": ("ES256", hashes.SHA256()),
        "secp384r1": ("ES384", hashes.SHA384()),
        "secp521r1": ("ES512", hashes.SHA512()),
    }
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in of_curve:
        raise ValueError(
            f"--private-key {path} is of a kind that C2PA does not know; use Ed25519, P-256, P-384, P-521 or RSA."
        )
    name, digest = of_curve[key.curve.name]
    length = -(-key.curve.key_size // 8)

    def sign(message: bytes) -> bytes:
        r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(digest, deterministic_signing=True)))
        return r.to_bytes(length, "big") + s.to_bytes(length, "big")

    return name, sign
