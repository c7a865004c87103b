"""Checkpoints of the log as signed notes (C2SP tlog-checkpoint and signed-note).

A note is text, an empty line, and signature lines; its text is a promise of whoever's key
verifies. Keys are Ed25519 (type 0x01) or ECDSA P-256 with SHA-256 (type 0x02).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from infra.errors import Rejected
from pki.log.merkle import HASH_SIZE

NOTE_LIMIT: Final = 262_144  # signed-note: at least 16 signatures, each up to nearly 5 kB
MAX_SIGNATURES: Final = 64
MAX_SIZE: Final = 2**63 - 1

_KEY_NAME = re.compile(r"[^\s+\x00-\x1f]{1,255}")
_SIZE = re.compile(rb"0|[1-9][0-9]{0,18}")
_KEY_ID = re.compile(r"[0-9a-f]{8}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_DASH: Final = "\N{EM DASH} ".encode()


class SignatureType(IntEnum):
    """Signature type identifier of signed-note."""

    ED25519 = 0x01
    ECDSA = 0x02


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A key that notes are verified with; ``str`` gives its text form, the vkey.

    ``name``: the key name; ``key_id``: 4 octets; ``public_key``: 32 octets of RFC 8032, or for
    ECDSA the SubjectPublicKeyInfo in DER.
    """

    name: str
    type: SignatureType
    key_id: bytes
    public_key: bytes

    def __str__(self) -> str:
        material = base64.b64encode(bytes((self.type,)) + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{material}"

    def verifies(self, text: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is one by this key over the note text."""
        try:
            key = _load(self.type, self.public_key)
            if isinstance(key, Ed25519PublicKey):
                key.verify(signature, text)
            else:
                key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """A signature line: who signed, with which key, and the signature itself."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A note that nobody has verified yet; ``text`` ends with a newline."""

    text: bytes
    signatures: tuple[NoteSignature, ...]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log: ``origin`` names the log, ``root`` is MTH of its first ``size`` leaves."""

    origin: str
    size: int
    root: bytes

    def encode(self) -> bytes:
        """The note text (tlog-checkpoint)."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()


def check_origin(origin: str) -> str:
    """The name of a log, which is its key's name too: no spaces, no plus, at most 255 characters.
    Errors: ``Rejected("bad-origin")``."""
    if not _KEY_NAME.fullmatch(origin) or not origin.isprintable():
        raise Rejected("bad-origin", f"{origin!r} cannot name a log; use the form example.org/log")
    return origin


def verifier_key(name: str, public_key_info: bytes) -> VerifierKey:
    """The key with this SubjectPublicKeyInfo in DER, under ``name``.
    Errors: ``Rejected`` with ``bad-origin``, ``bad-log-key``."""
    check_origin(name)
    try:
        key = load_der_public_key(public_key_info)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _bad_key("it is not a SubjectPublicKeyInfo in DER") from error
    if isinstance(key, Ed25519PublicKey):
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        return VerifierKey(
            name, SignatureType.ED25519, _key_id(name, SignatureType.ED25519, raw), raw
        )
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return VerifierKey(
            name, SignatureType.ECDSA, _key_id(name, SignatureType.ECDSA, info), info
        )
    raise _bad_key("the log signs with Ed25519 or P-256")


def parse_vkey(text: str) -> VerifierKey:
    """A key from its text form (signed-note, "Verifier keys"). Errors: ``Rejected`` with
    ``bad-origin``, ``bad-log-key``."""
    name, _, rest = text.partition("+")
    hint, _, encoded = rest.partition("+")
    if len(text) > 1024 or not _KEY_ID.fullmatch(hint):
        raise _bad_key("a vkey is name+key id+key material")
    check_origin(name)
    try:
        material = base64.b64decode(encoded, validate=True)
        kind = SignatureType(material[0])
        public_key = material[1:]
        _load(kind, public_key)
    except (ValueError, IndexError, UnsupportedAlgorithm) as error:
        raise _bad_key("its material is neither an Ed25519 nor a P-256 key") from error
    key_id = _key_id(name, kind, public_key)
    if key_id.hex() != hint:
        raise _bad_key("its key id is not that of its key")
    return VerifierKey(name, kind, key_id, public_key)


def assemble(text: bytes, key: VerifierKey, signature: bytes) -> bytes:
    """The note with one signature line."""
    line = base64.b64encode(key.key_id + signature)
    return text + b"\n" + _DASH + key.name.encode() + b" " + line + b"\n"


def parse_note(data: bytes) -> Note:
    """A note, not verified (signed-note, "Format"). Errors: ``Rejected("bad-note")``."""
    if len(data) > NOTE_LIMIT:
        raise _bad_note(f"it is longer than {NOTE_LIMIT} octets")
    try:
        characters = data.decode()
    except UnicodeDecodeError as error:
        raise _bad_note("it is not UTF-8") from error
    if _CONTROL.search(characters):
        raise _bad_note("it has control characters")
    # The last empty line separates; the text keeps its own final newline.
    text, separator, lines = data.rpartition(b"\n\n")
    if not separator or not text or not lines.endswith(b"\n"):
        raise _bad_note("it has no signature")
    signatures = tuple(_signature(line) for line in lines[:-1].split(b"\n", MAX_SIGNATURES))
    return Note(text + b"\n", signatures)


def open_note(data: bytes, keys: Sequence[VerifierKey]) -> Note:
    """A note that at least one of ``keys`` signed. Errors: ``Rejected`` with ``bad-note`` and,
    when none signed or the signature of a known key is wrong, ``bad-note-signature``."""
    note = parse_note(data)
    known = {(key.name, key.key_id): key for key in keys}
    verified = False
    for line in note.signatures:
        key = known.get((line.name, line.key_id))
        if key is None:
            continue
        if not key.verifies(note.text, line.signature):
            raise Rejected("bad-note-signature", f"the signature by {line.name} is wrong")
        verified = True
    if not verified:
        raise Rejected("bad-note-signature", "none of the known keys has signed it")
    return note


def parse_checkpoint(text: bytes) -> Checkpoint:
    """A checkpoint from its note text; extension lines are left aside (tlog-checkpoint).
    Errors: ``Rejected("bad-checkpoint")``."""
    lines = text.split(b"\n")
    if len(text) > NOTE_LIMIT or len(lines) < 4 or lines.pop() or not all(lines):
        raise _bad_checkpoint("it has not three lines or more")
    size = lines[1]
    if not _SIZE.fullmatch(size) or int(size) > MAX_SIZE:
        raise _bad_checkpoint("its size is not a decimal number")
    try:
        root = base64.b64decode(lines[2], validate=True)
        origin = lines[0].decode()
    except ValueError as error:
        raise _bad_checkpoint("its root is not base64, or its origin not UTF-8") from error
    if len(root) != HASH_SIZE or base64.b64encode(root) != lines[2]:
        raise _bad_checkpoint("its root is not 32 octets")
    return Checkpoint(origin, int(size), root)


def open_checkpoint(data: bytes, keys: Sequence[VerifierKey]) -> Checkpoint:
    """The checkpoint in a note that one of ``keys`` signed. Errors: those of ``open_note`` and
    ``parse_checkpoint``."""
    return parse_checkpoint(open_note(data, keys).text)


def _signature(line: bytes) -> NoteSignature:
    parts = line.removeprefix(_DASH).split(b" ")
    if not line.startswith(_DASH) or len(parts) != 2:
        raise _bad_note("a signature line is not a dash, a name and a signature")
    name = parts[0].decode()
    if not _KEY_NAME.fullmatch(name):
        raise _bad_note("a key name is empty, or has a space or plus")
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except binascii.Error as error:
        raise _bad_note("a signature is not base64") from error
    if len(blob) < 5:
        raise _bad_note("a signature is too short")
    return NoteSignature(name, blob[:4], blob[4:])


def _key_id(name: str, kind: SignatureType, public_key: bytes) -> bytes:
    # signed-note: the id of an ECDSA key is made from the key alone.
    if kind is SignatureType.ECDSA:
        return sha256(public_key).digest()[:4]
    return sha256(name.encode() + b"\n" + bytes((kind,)) + public_key).digest()[:4]


@lru_cache(maxsize=64)
def _load(kind: SignatureType, public_key: bytes) -> Ed25519PublicKey | ec.EllipticCurvePublicKey:
    if kind is SignatureType.ED25519:
        return Ed25519PublicKey.from_public_bytes(public_key)
    key = load_der_public_key(public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _bad_key("its curve is not P-256")
    return key


def _bad_key(why: str) -> Rejected:
    return Rejected("bad-log-key", f"this cannot be the key of a log: {why}")


def _bad_note(why: str) -> Rejected:
    return Rejected("bad-note", f"this is not a signed note: {why}")


def _bad_checkpoint(why: str) -> Rejected:
    return Rejected("bad-checkpoint", f"this is not a checkpoint: {why}")
