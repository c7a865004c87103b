"""Whatever comes in as a leaf, a note, a vkey or a proof is taken or refused, nothing else."""

from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from time import monotonic
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import Rejected
from pki.log.act import Act, encode, parse
from pki.log.checkpoint import (
    Checkpoint,
    assemble,
    open_checkpoint,
    parse_checkpoint,
    parse_note,
    parse_vkey,
    verifier_key,
)
from pki.log.merkle import leaf_hash
from pki.log.verifier import NotProvenError, verify

SECONDS = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))
EXAMPLES = 1_500

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
VKEY = verifier_key("example.org/log", SPKI)
CERTIFICATE = b"any octets do"
LEAF = encode(
    Act(
        "issue/issuing/7",
        "certificate.issue",
        "system",
        datetime(2026, 1, 1, tzinfo=UTC),
        sha256(CERTIFICATE).digest(),
        {"serial": "7", "sequence": 3},
    )
)
TEXT = Checkpoint("example.org/log", 1, leaf_hash(LEAF)).encode()
NOTE = assemble(TEXT, VKEY, KEY.sign(TEXT))
PROOF: dict[str, Any] = {
    "format": "digitalid-log-proof/1",
    "origin": "example.org/log",
    "certificate": base64.b64encode(CERTIFICATE).decode(),
    "leaf": LEAF.decode(),
    "index": 0,
    "size": 1,
    "path": [],
    "checkpoint": NOTE.decode(),
}


def prove(data: bytes) -> None:
    try:
        found = verify(data, PEM)
    except NotProvenError:
        return
    # What is proven is this, however the JSON around it was written.
    assert (found["index"], found["size"], found["log"]) == (0, 1, "example.org/log")
    assert found["sha256"] == sha256(CERTIFICATE).hexdigest()


def leaf(data: bytes) -> None:
    with suppress(Rejected):
        assert encode(parse(data)) == data


def note(data: bytes) -> None:
    with suppress(Rejected):
        parse_checkpoint(parse_note(data).text)
    with suppress(Rejected):
        assert open_checkpoint(data, [VKEY]) == Checkpoint("example.org/log", 1, leaf_hash(LEAF))


def vkey(data: bytes) -> None:
    with suppress(Rejected):
        key = parse_vkey(data.decode(errors="replace"))
        assert parse_vkey(str(key)) == key


TARGETS: list[tuple[Callable[[bytes], None], bytes]] = [
    (leaf, LEAF),
    (note, NOTE),
    (vkey, str(VKEY).encode()),
    (prove, json.dumps(PROOF).encode()),
]


def mutated(seed: bytes, chance: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0 if data:
                data[at % len(data)] = chance.randrange(256)
            case 1:
                data[at:at] = chance.choice(
                    [b"\n", b"\n\n", b"+", b'"', b"{", b"9" * 40, b"\\ud800"]
                )
            case 2:
                del data[at : at + chance.randint(1, 8)]
            case 3:
                data[at:at] = data[at : at + chance.randint(1, 40)]
            case _:
                del data[at:]
    return bytes(data)


@pytest.mark.parametrize("target,seed", TARGETS)
def test_altered_input(target: Callable[[bytes], None], seed: bytes) -> None:
    target(seed)
    chance = random.Random(6962)
    until = monotonic() + SECONDS / len(TARGETS)
    done = 0
    while done < EXAMPLES or monotonic() < until:
        target(mutated(seed, chance))
        done += 1


@pytest.mark.parametrize("target", [target for target, _ in TARGETS])
def test_random_input(target: Callable[[bytes], None]) -> None:
    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=300))
    def run(data: bytes) -> None:
        target(data)

    run()


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(PROOF)), ANY_JSON, max_size=3))
def test_a_proof_with_members_of_any_kind(members: dict[str, Any]) -> None:
    prove(json.dumps(PROOF | members).encode())


@settings(max_examples=200, deadline=None)
@given(ANY_JSON)
def test_any_json_as_a_leaf_and_as_a_proof(value: Any) -> None:
    leaf(json.dumps(value).encode())
    prove(json.dumps(value).encode())


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b"x" * 2_000_000])
def test_deep_and_long_input(data: bytes) -> None:
    for target, _ in TARGETS:
        target(data)
