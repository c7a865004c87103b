"""C2SP signed-note and tlog-checkpoint: key ids, vkeys, notes, checkpoints."""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from infra.errors import Rejected
from pki.log.checkpoint import (
    Checkpoint,
    SignatureType,
    VerifierKey,
    assemble,
    open_checkpoint,
    open_note,
    parse_checkpoint,
    parse_note,
    parse_vkey,
    verifier_key,
)

NAME = "example.org/log"
ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
P256 = ec.derive_private_key(7, ec.SECP256R1())
ROOT = sha256(b"root").digest()
HEAD = Checkpoint(NAME, 42, ROOT)


def info(key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def note_by_ed25519(text: bytes, name: str = NAME) -> bytes:
    return assemble(text, verifier_key(name, info(ED25519.public_key())), ED25519.sign(text))


def note_by_p256(text: bytes) -> bytes:
    signature = P256.sign(text, ec.ECDSA(hashes.SHA256()))
    return assemble(text, verifier_key(NAME, info(P256.public_key())), signature)


ED25519_KEY = verifier_key(NAME, info(ED25519.public_key()))
P256_KEY = verifier_key(NAME, info(P256.public_key()))


def test_the_key_of_the_go_checksum_database() -> None:
    text = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    key = parse_vkey(text)
    assert (key.name, key.type, key.key_id.hex()) == (
        "sum.golang.org",
        SignatureType.ED25519,
        "033de0ae",
    )
    assert str(key) == text


def test_the_key_of_a_public_ecdsa_log() -> None:
    """Rekor's log id is the SHA-256 of its key; a note carries the first four octets."""
    spki = base64.b64decode(
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwrkBbmLSGtks4L3qX6yYY0zufB"
        "nhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw=="
    )
    key = verifier_key("rekor.sigstore.dev", spki)
    assert (key.type, key.key_id.hex()) == (SignatureType.ECDSA, "c0d23d6a")
    assert parse_vkey(str(key)) == key


def test_key_ids_as_the_standard_forms_them() -> None:
    raw = ED25519.public_key().public_bytes_raw()
    assert ED25519_KEY.key_id == sha256(NAME.encode() + b"\x0a\x01" + raw).digest()[:4]
    assert P256_KEY.key_id == sha256(info(P256.public_key())).digest()[:4]


@pytest.mark.parametrize("key", [ED25519_KEY, P256_KEY])
def test_vkeys_round_trip(key: VerifierKey) -> None:
    assert parse_vkey(str(key)) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+00000000",
        "name+00000000+",
        "name+00000000+AQ==",
        "name+00000000+!!!!",
        str(ED25519_KEY).replace("+" + ED25519_KEY.key_id.hex(), "+00000000"),
        str(ED25519_KEY).replace(ED25519_KEY.key_id.hex(), ED25519_KEY.key_id.hex().upper() + "0"),
        str(P256_KEY)[:-8] + "AAAAAA==",
        "na me+00000000+" + base64.b64encode(b"\x01" + bytes(32)).decode(),
        "name+00000000+" + base64.b64encode(b"\x07" + bytes(32)).decode(),
        "name+00000000+" + "A" * 4096,
    ],
)
def test_what_is_no_vkey(text: str) -> None:
    with pytest.raises(Rejected):
        parse_vkey(text)


def test_keys_that_a_log_cannot_have() -> None:
    for public in (
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        rsa.generate_private_key(65537, 2048).public_key(),
    ):
        with pytest.raises(Rejected, match="bad-log-key"):
            verifier_key(NAME, info(public))
    with pytest.raises(Rejected, match="bad-log-key"):
        verifier_key(NAME, b"no key")


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b", "a\u2028b", "x" * 256])
def test_names_that_a_log_cannot_have(name: str) -> None:
    with pytest.raises(Rejected, match="bad-origin"):
        verifier_key(name, info(P256.public_key()))


def test_a_checkpoint_is_three_lines_and_a_signature() -> None:
    note = note_by_ed25519(HEAD.encode())
    lines = note.decode().split("\n")
    assert lines[:4] == [NAME, "42", base64.b64encode(ROOT).decode(), ""]
    assert lines[4].startswith(f"\N{EM DASH} {NAME} ")
    blob = base64.b64decode(lines[4].split(" ")[2])
    assert blob[:4] == ED25519_KEY.key_id
    ED25519.public_key().verify(blob[4:], f"{NAME}\n42\n{lines[2]}\n".encode())


@pytest.mark.parametrize(
    "note,key",
    [(note_by_ed25519(HEAD.encode()), ED25519_KEY), (note_by_p256(HEAD.encode()), P256_KEY)],
)
def test_a_checkpoint_opens_with_its_key_only(note: bytes, key: VerifierKey) -> None:
    assert open_checkpoint(note, [key]) == HEAD
    other = P256_KEY if key is ED25519_KEY else ED25519_KEY
    assert open_checkpoint(note, [other, key]) == HEAD
    for keys in ([], [other], [VerifierKey("other", key.type, key.key_id, key.public_key)]):
        with pytest.raises(Rejected, match="bad-note-signature"):
            open_checkpoint(note, keys)


def test_signatures_of_unknown_keys_are_ignored_and_wrong_ones_are_not() -> None:
    both = note_by_ed25519(HEAD.encode()) + note_by_p256(HEAD.encode()).split(b"\n\n")[1]
    assert len(parse_note(both).signatures) == 2
    assert open_checkpoint(both, [P256_KEY]) == HEAD
    assert open_checkpoint(both, [ED25519_KEY, P256_KEY]) == HEAD
    wrong = note_by_ed25519(b"x\n").split(b"\n\n")[1]
    mixed = note_by_p256(HEAD.encode()) + wrong
    assert open_checkpoint(mixed, [P256_KEY]) == HEAD
    with pytest.raises(Rejected, match="bad-note-signature"):
        open_checkpoint(mixed, [P256_KEY, ED25519_KEY])


def test_a_note_may_have_empty_lines() -> None:
    text = "Tief im Süden\n\nund im Norden\n".encode()
    assert open_note(note_by_ed25519(text), [ED25519_KEY]).text == text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        b"text\n\n\xe2\x80\x94 name AAAAAAAA",
        b"text\n\n- name AAAAAAAA\n",
        b"text\n\n\xe2\x80\x94 name\n",
        b"text\n\n\xe2\x80\x94 na+me AAAAAAAA\n",
        b"text\n\n\xe2\x80\x94  AAAAAAAA\n",
        b"text\n\n\xe2\x80\x94 name AAAA\n",
        b"text\n\n\xe2\x80\x94 name A!AAAAAA\n",
        b"te\x00xt\n\n\xe2\x80\x94 name AAAAAAAA\n",
        b"te\xffxt\n\n\xe2\x80\x94 name AAAAAAAA\n",
        b"\n\n\xe2\x80\x94 name AAAAAAAA\n",
        b"text\n\n" + b"\xe2\x80\x94 name AAAAAAAA\n" * 100,
        b"t" * 300_000 + b"\n\n\xe2\x80\x94 name AAAAAAAA\n",
    ],
)
def test_what_is_no_note(data: bytes) -> None:
    with pytest.raises(Rejected, match="bad-note"):
        parse_note(data)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n\n",
        b"log\n42\n",
        b"log\n042\n" + base64.b64encode(ROOT) + b"\n",
        b"log\n-1\n" + base64.b64encode(ROOT) + b"\n",
        b"log\n99999999999999999999\n" + base64.b64encode(ROOT) + b"\n",
        b"log\n42\n" + base64.b64encode(ROOT[1:]) + b"\n",
        b"log\n42\n" + base64.b64encode(ROOT),
        b"log\n42\n" + base64.b64encode(ROOT) + b"\n\n",
        b"\n42\n" + base64.b64encode(ROOT) + b"\n",
        b"log\n42\nroot!\n",
        b"\xff\n42\n" + base64.b64encode(ROOT) + b"\n",
    ],
)
def test_what_is_no_checkpoint(text: bytes) -> None:
    with pytest.raises(Rejected, match="bad-checkpoint"):
        parse_checkpoint(text)


def test_extension_lines_are_left_aside() -> None:
    assert parse_checkpoint(HEAD.encode() + b"extension\n") == HEAD
    assert parse_checkpoint(Checkpoint(NAME, 0, ROOT).encode()).size == 0
