"""Whatever text or file comes in, the key parsers say ``Rejected`` or take it whole."""

from __future__ import annotations

import base64
import os
import random
from contextlib import suppress
from time import monotonic

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import Rejected
from pki import algorithms
from pki.signer import pkcs8
from pki.signer.uri import FileUri, Pkcs11Uri, parse

SECONDS = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))
FUZZ = settings(max_examples=500, deadline=None, derandomize=True)


PIECES = st.sampled_from(
    ["pkcs11:", "file:", "object", "token", "id", "slot-id", "type", "private", "module-path",
     "pin-source", "pin-value", "=", ";", "?", "&", "%41", "%", "%FF", "/", "..", "a", "é", "\0",
     "library-version", "1.2", " ", "#", "-", "_"]
)  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(PIECES, max_size=20).map("".join),
    st.lists(PIECES, max_size=20).map(lambda pieces: "pkcs11:" + "".join(pieces)),
)


@FUZZ
@given(TEXTS)
def test_key_uri(text: str) -> None:
    takes_uri(text)


def takes_uri(text: str) -> None:
    with suppress(Rejected):
        name = parse(text)
        assert parse(str(name)) == name


VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SOMETIMES = st.none() | VALUES


@FUZZ
@given(
    st.builds(
        Pkcs11Uri,
        token=SOMETIMES,
        serial=SOMETIMES,
        object=SOMETIMES,
        type=st.none() | st.just("private"),
        id=st.none() | st.binary(min_size=1, max_size=20),
        slot_id=st.none() | st.integers(0, 2**64 - 1),
        module_path=st.none() | VALUES.filter(bool),
    )
)
def test_key_uri_round_trip(name: Pkcs11Uri) -> None:
    assert len(str(name)) > 2048 or parse(str(name)) == name


@FUZZ
@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True))
def test_file_uri_round_trip(label: str) -> None:
    assert parse(str(FileUri(label))) == FileUri(label)


SEED = pkcs8.encrypt(b"\x30\x00", pkcs8.Derivation(bytes(16)), bytes(32), bytes(16))
SEED_DER = base64.b64decode(b"".join(SEED.splitlines()[1:-1]))


def pem(content: bytes) -> bytes:
    lines = SEED.splitlines()
    return b"\n".join((lines[0], base64.b64encode(content), lines[-1]))


def damage(content: bytes) -> st.SearchStrategy[bytes]:
    """``content`` with a few octets changed, cut out or put in."""

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        out = bytearray(content)
        for place, cut, put in changes:
            out[place : place + cut] = put
        return bytes(out)

    change = st.tuples(st.integers(0, len(content)), st.integers(0, 3), st.binary(max_size=3))
    return st.lists(change, min_size=1, max_size=4).map(apply)


@FUZZ
@given(st.one_of(st.binary(max_size=300), damage(SEED), damage(SEED_DER).map(pem)))
def test_key_file(content: bytes) -> None:
    takes_key_file(content)


def takes_key_file(content: bytes) -> None:
    with suppress(Rejected):
        read = pkcs8.parse(content)
        assert 128 * read.derivation.cost * read.derivation.block_size <= 512 << 20
        with suppress(Rejected):
            read.decrypt(bytes(32))


PUBLIC_KEYS = [
    algorithms.public_key_info_of(algorithms.KeyType.ED25519, bytes(32)),
    algorithms.public_key_info_of(algorithms.KeyType.P_256, b"\x04" + bytes(64)),
    algorithms.public_key_info_of(algorithms.KeyType.ML_DSA_44, bytes(1312)),
    algorithms.public_key_info_of(
        algorithms.KeyType.RSA_2048, bytes.fromhex("3082010a02820101") + b"\0" + b"\xff" * 256
        + bytes.fromhex("0203010001")
    ),
]  # fmt: skip


@FUZZ
@given(st.one_of(st.binary(max_size=300), *map(damage, PUBLIC_KEYS)), st.binary(max_size=100))
def test_public_key(content: bytes, signature: bytes) -> None:
    takes_public_key(content, signature)


def takes_public_key(content: bytes, signature: bytes) -> None:
    with suppress(Rejected):
        key_type = algorithms.key_type_of(content)
        algorithms.verify(algorithms.usual_algorithm(key_type), content, signature, b"message")


def mutated(content: bytes, source: random.Random) -> bytes:
    out = bytearray(content)
    for _ in range(source.randint(1, 4)):
        place = source.randint(0, len(out))
        out[place : place + source.randint(0, 3)] = source.randbytes(source.randint(0, 3))
    return bytes(out)


def test_for_as_long_as_asked() -> None:
    """``DIGITALID_FUZZ_SECONDS``: mutations of URIs and keys, from a fresh seed."""
    seed = random.randrange(1 << 32)
    source = random.Random(seed)
    uri = b"pkcs11:token=a%20b;slot-id=3;id=%01%02;type=private?module-path=/a/b.so&pin-source=x"
    end = monotonic() + (SECONDS or 0.2)
    rounds = 0
    while monotonic() < end:
        rounds += 1
        try:
            takes_uri(mutated(uri, source).decode("utf-8", "replace"))
            takes_uri(mutated(b"file:/var/keys/a%20b.pem", source).decode("utf-8", "replace"))
            takes_key_file(mutated(SEED, source))
            takes_key_file(pem(mutated(SEED_DER, source)))
            takes_public_key(mutated(source.choice(PUBLIC_KEYS), source), source.randbytes(70))
        except Exception as error:
            error.add_note(f"seed {seed}, round {rounds}")
            raise
    assert rounds > 0
