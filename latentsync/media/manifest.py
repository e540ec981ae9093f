"""C2PA manifests in mp4 and mov files, by c2pa's own library: write a signed one, read any.

A manifest is a box between ftyp and moov; packets stay as they are. Its hash covers the file except the boxes ftyp,
free, skip, mfra and the manifest itself. c2pa reads in pieces of up to 256 MB, and keeps copies of files above 64 MB in
the folder for temporary files (TMPDIR).

c2pa draws a random salt for each assertion, which would give other bytes each time. `_pinned` replaces the salts by
fixed ones and signs again, so that the same video and manifest give the same file. Salts matter only where an assertion
is redacted later.
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentsync.media.certificate import Identity

MIME = {".mp4": "video/mp4", ".mov": "video/quicktime"}
_QUIET = {
    "builder": {"thumbnail": {"enabled": False}},  # a thumbnail would need a decode
    "verify": {"verify_after_sign": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
    "core": {"backing_store_memory_threshold_in_mb": 64},
}
# What says nothing about changes: no list of trusted signers is given to the library.
_UNTRUSTED = "signingCredential.untrusted"
NEEDED = "C2PA asks for X.509 version 3, valid today, for digitalSignature and for emailProtection or documentSigning"
_MEANING = {
    "assertion.bmffHash.mismatch": "images, audio or tags are not those that were signed",
    "claimSignature.mismatch": "the manifest is not the one that was signed",
}
_SALT_BOX, _SALT_BYTES = b"\0\0\0\x18c2sh", 16
_C2PA_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")  # extended type of the box uuid


@dataclass(frozen=True)
class Found:
    """What a file says about where it comes from."""

    signer: str
    """Common name of the certificate that signed, or its organisation."""
    time: str | None
    """When, by a timestamp service; None: not stated."""
    software: str
    """Name and version."""
    said: list[str]
    """What was done: action, description and kind of source, in order."""
    ingredients: list[str]
    """What it was made from: title, and hash or manifest."""
    faults: list[str]
    """Why it is not what was signed; empty: it is unchanged."""
    details: dict[str, Any] = field(default_factory=dict)
    """The active manifest as c2pa's reader gives it."""


def sign(unsigned: Path, signed: Path, manifest: Mapping[str, Any], identity: Identity, parent: Path | None) -> None:
    """Write `signed`: the packets of `unsigned` and a manifest.

    Args:
        unsigned: an mp4 or mov.
        signed: a file of the same suffix.
        manifest: the definition as c2pa takes it, with a label of its own.
        identity: who signs.
        parent: a file whose own manifest becomes part of this one, under the ingredient that `manifest` calls source;
            None: that is only described.

    Raises:
        ValueError: the certificate is not one that C2PA accepts.
        OSError: a disk is full.
    """
    with open(unsigned, "rb") as source, open(signed, "w+b") as target:
        _sign(source, target, MIME[unsigned.suffix.lower()], manifest, identity, parent)


def _sign(
    source: Any, target: Any, mime: str, manifest: Mapping[str, Any], identity: Identity, parent: Path | None
) -> None:
    import c2pa

    messages = []

    def remembered(message: bytes) -> bytes:
        messages.append((message, identity.sign(message)))
        return messages[-1][1]

    algorithm = c2pa.C2paSigningAlg[identity.algorithm.upper()]
    definition, inherited = dict(manifest), {}
    if parent is not None:
        inherited, *definition["ingredients"] = definition["ingredients"]
    try:
        signer = c2pa.Signer.from_callback(remembered, algorithm, identity.chain)
        with (
            c2pa.Context(c2pa.Settings.from_dict(_QUIET), signer) as context,
            c2pa.Builder(definition, context) as builder,
        ):
            if parent is not None:
                with open(parent, "rb") as stream:
                    builder.add_ingredient(inherited, parent.suffix.lower().removeprefix("."), stream)
            store = builder.sign(mime, source, target)
    except c2pa.C2paError as error:
        if str(error).startswith("Io"):
            raise OSError(
                f"The manifest cannot be written ({error}); the disk, or that of temporary files (TMPDIR), may be full."
            ) from None
        raise ValueError(f"{identity.source} cannot sign: {error}; {NEEDED}.") from None
    [(message, signature)] = messages
    _replace(target, store, _pinned(store, manifest["label"], message, signature, identity))


def _replace(file: Any, old: bytes, new: bytes) -> None:
    """Write `new` over `old`, which a box at the top level of the file holds."""
    at = 0
    while True:
        file.seek(at)
        head = file.read(32)
        size, kind = struct.unpack(">I4s", head[:8])
        assert size >= 8, "the box of the manifest comes before any box of 64-bit size"
        if kind == b"uuid" and head[8:24] == _C2PA_BOX:
            break
        at += size
    file.seek(at)
    box = file.read(size)
    assert box.count(old) == 1 and len(old) == len(new)
    file.seek(at + box.index(old))
    file.write(new)
    file.flush()


def _pinned(store: bytes, label: str, message: bytes, signature: bytes, identity: Identity) -> bytes:
    """The same manifest with fixed salts, signed again.

    Args:
        store: JUMBF of all manifests of a file (C2PA 2.2, 11.1).
        label: of the manifest that was just signed.
        message, signature: what was signed, which includes the claim, and the result.
    """
    found = [
        (name, start, stop, hashlib.sha256(store[start:stop]).digest())
        for name, start, stop in _assertions(store, label)
    ]
    old, new = store, bytearray(store)
    for name, start, stop, before in sorted(found, key=lambda one: "ingredient" not in one[0]):  # actions name those
        salt = new.index(_SALT_BOX, start, stop) + len(_SALT_BOX)
        new[salt : salt + _SALT_BYTES] = hashlib.sha256(name.encode()).digest()[:_SALT_BYTES]
        after = hashlib.sha256(new[start:stop]).digest()
        assert before in message
        new, message = new.replace(before, after), message.replace(before, after)
    assert new.count(signature) == 1
    new = new.replace(signature, identity.sign(message))
    assert len(new) == len(old)
    return bytes(new)


def _assertions(store: bytes, label: str) -> Iterator[tuple[str, int, int]]:
    """Label, start and end of the hashed part of each assertion of one manifest."""
    [(_, start, stop)] = _superboxes(store, 0, len(store))
    [manifest] = [one for one in _superboxes(store, start, stop) if one[0] == label]
    [assertions] = [one for one in _superboxes(store, *manifest[1:]) if one[0] == "c2pa.assertions"]
    yield from _superboxes(store, *assertions[1:])


def _superboxes(store: bytes, start: int, stop: int) -> Iterator[tuple[str, int, int]]:
    """Label, start and end of the content of the JUMBF superboxes in a part of `store`."""
    while start < stop:
        size, kind = struct.unpack_from(">I4s", store, start)
        assert size >= 8
        if kind == b"jumb":
            name = start + 8 + 8 + 16 + 1  # behind the headers of both boxes, the type and the toggles
            yield store[name : store.index(b"\0", name)].decode(), start + 8, start + size
        start += size


def require_usable(identity: Identity) -> None:
    """Refuse a certificate that C2PA does not accept before anything else is done, by signing a file of 16 bytes.

    Raises:
        ValueError: one sentence.
    """
    import io

    empty = io.BytesIO(struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0) + struct.pack(">I4s", 8, b"mdat"))
    action = {"action": "c2pa.created", "digitalSourceType": "http://c2pa.org/digitalsourcetype/empty"}
    assertion = {"label": "c2pa.actions.v2", "data": {"actions": [action]}}
    manifest = {"label": "urn:c2pa:00000000-0000-4000-8000-000000000000", "assertions": [assertion]}
    _sign(empty, io.BytesIO(), "video/mp4", manifest, identity, None)


def has_manifest(path: Path) -> bool:
    """Whether a file holds a manifest that can be read; its hash is not compared."""
    import c2pa

    try:
        with _reader(path, {"verify": {"verify_after_reading": False}}):
            return True
    except c2pa.C2paError:
        return False


def read(path: Path) -> Found | None:
    """What the manifest of a file says; None: it has none, or is of a kind that c2pa does not know.

    Raises:
        ValueError: the manifest cannot be read.
    """
    import c2pa

    try:
        with _reader(path, {}) as reader:
            store = json.loads(reader.json())
    except c2pa.C2paError as error:
        if str(error).startswith(("ManifestNotFound", "NotSupported")):
            return None
        raise ValueError(f"{path} is damaged, or its manifest was changed: it cannot be read ({error}).") from None
    active = store["manifests"][store["active_manifest"]]
    made_from = sorted(active.get("ingredients", []), key=lambda one: one.get("relationship") != "parentOf")
    signed, made_by = active.get("signature_info", {}), (active.get("claim_generator_info") or [{}])[0]
    results = store.get("validation_results", {}).get("activeManifest", {})
    failures = [one for one in results.get("failure", []) if one["code"] != _UNTRUSTED]
    faults = [_MEANING.get(one["code"]) or one.get("explanation") or one["code"] for one in failures]
    if not faults and store.get("validation_state") == "Invalid":
        faults = ["c2pa calls it invalid"]
    return Found(
        signer=signed.get("common_name") or signed.get("issuer") or "nobody that the file names",
        time=signed.get("time"),
        software=" ".join(filter(None, (made_by.get("name"), made_by.get("version"))))
        or "software that it does not name",
        said=[_action(one) for found in _data(active, "c2pa.actions") for one in found.get("actions", [])],
        ingredients=[_ingredient(one) for one in made_from],
        faults=list(dict.fromkeys(faults)),
        details=active,
    )


def _reader(path: Path, settings: dict[str, Any]) -> Any:
    import c2pa

    merged = {name: _QUIET.get(name, {}) | settings.get(name, {}) for name in _QUIET}
    return c2pa.Reader(path, context=c2pa.Context(c2pa.Settings.from_dict(merged)))


def _data(manifest: Mapping[str, Any], label: str) -> Iterator[Any]:
    """The content of the assertions whose label begins so."""
    yield from (one["data"] for one in manifest.get("assertions", []) if one["label"].startswith(label))


def _action(action: Mapping[str, Any]) -> str:
    kind = action.get("digitalSourceType", "").rsplit("/", 1)[-1]
    words = action["action"].removeprefix("c2pa."), action.get("description"), kind and f"({kind})"
    return " ".join(filter(None, words))


def _ingredient(ingredient: Mapping[str, Any]) -> str:
    words = [ingredient.get("title", "a file without a name"), ingredient.get("description")]
    if ingredient.get("active_manifest"):
        words.append("with a manifest of its own")
        failures = ingredient.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
        if any(one["code"] != _UNTRUSTED for one in failures):
            words.append("which did not fit it any more")
    return ", ".join(filter(None, words))
