"""Certificates that tests sign with, as users would have them made."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KEYS = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
}


def write_pair(
    folder: Path,
    kind: str = "p256",
    *,
    days: tuple[float, float] = (-1, 1),
    purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.EMAIL_PROTECTION,
    password: bytes | None = None,
) -> dict[str, str]:
    """Write a certificate of Example Studio with its chain, and its key; valid from and until days[0] and days[1]."""
    now = datetime.now(UTC)
    key, issuer_key = KEYS[kind](), ec.generate_private_key(ec.SECP256R1())
    name, above = _name("Example Studio"), _name("Example Authority")

    def built(subject: x509.Name, owner: Any, from_day: float, to_day: float, ca: bool) -> x509.CertificateBuilder:
        usage = (not ca, False, False, False, False, ca, ca, False, False)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(above)
            .public_key(owner.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=from_day))
            .not_valid_after(now + timedelta(days=to_day))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.KeyUsage(*usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(owner.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        )

    leaf = built(name, key, *days, ca=False).add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    chain = leaf.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)
    chain += built(above, issuer_key, -9, 9, ca=True).sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)
    folder.mkdir(parents=True, exist_ok=True)
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    (folder / "chain.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return {"certificate": str(folder / "chain.pem"), "private_key": str(folder / "key.pem")}


def _name(common: str) -> x509.Name:
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example")
    return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, common)])
