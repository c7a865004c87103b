"""Scripts, share files and transcripts from anywhere: read, or refused with a code."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import Rejected
from pki.ceremony.script import parse_script
from pki.ceremony.seal import ByCard, ByKey, ByPassphrase
from pki.ceremony.share import Envelope, encode_envelope, parse_envelope
from pki.ceremony.transcript import parse_entry
from pki.ceremony.verify import verify_transcript

SEEDS = [path.read_text() for path in (files("conf") / "ceremonies").iterdir()]
SHARES = [
    encode_envelope(Envelope(b"1" * 16, "root", 3, 5, 1, "Grace", ByKey("age1x", b"zz"))),
    encode_envelope(
        Envelope(b"1" * 16, "root", 3, 5, 1, "C", ByCard("pkcs11:", b"k" * 256, b"n" * 12, b"z"))
    ),
    encode_envelope(
        Envelope(b"1" * 16, "root", 3, 5, 1, "王", ByPassphrase(b"s" * 16, b"n" * 12, b"z" * 48))
    ),
]
ENTRY = (
    b'{"at":"2026-01-01T00:00:00.000Z","body":{"format":"digitalid-ceremony-1","kept":{},'
    b'"language":"en","rehearsal":"no","script":"x","texts":"y"},"kind":"begin","n":0,"prev":"'
    + b"0" * 64
    + b'"}'
)


def refused_or_read(read: Callable[[], object]) -> None:
    code = "bad-script"
    try:
        read()
    except Rejected as rejected:
        code = rejected.code
    assert code in ("bad-script", "bad-quorum", "bad-share", "bad-transcript")


def mutated(seed: bytes, chance: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0 if data:
                data[at % len(data)] = chance.randrange(256)
            case 1:
                data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 5)))
            case 2:
                del data[at : at + chance.randint(1, 9)]
            case _:
                data[at:at] = seed[at : at + chance.randint(1, 40)]
    return bytes(data)


@pytest.mark.parametrize("seed", range(8))
def test_mutations(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(150):
        text = mutated(chance.choice(SEEDS).encode(), chance).decode(errors="replace")
        refused_or_read(lambda text=text: parse_script(text))  # type: ignore[misc]
        share = mutated(chance.choice(SHARES), chance)
        refused_or_read(lambda share=share: parse_envelope(share))  # type: ignore[misc]
        entry = mutated(ENTRY, chance)
        refused_or_read(lambda entry=entry: parse_entry(entry))  # type: ignore[misc]
        assert not verify_transcript(entry + b"\n").good


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_octets(data: bytes) -> None:
    refused_or_read(lambda: parse_envelope(data))
    refused_or_read(lambda: parse_entry(data))
    refused_or_read(lambda: parse_script(data.decode(errors="replace")))
    assert not verify_transcript(data).good


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
kinds = st.sampled_from(
    ["begin", "join", "intend", "confirm", "unlock", "done", "note", "pause", "resume"]
)
known = st.sampled_from(["step", "act", "intent", "person", "result", "set", "shares", "script"])


@given(st.lists(st.tuples(kinds, st.dictionaries(known, values, max_size=6)), max_size=6))
@settings(max_examples=200, deadline=None)
def test_entries_of_any_body(entries: list[tuple[str, dict[str, object]]]) -> None:
    lines = [ENTRY]
    for number, (kind, body) in enumerate(entries, 1):
        entry = {"at": "2026-01-01T00:00:00.000Z", "body": body, "kind": kind, "n": number,
                 "prev": "0" * 64}  # fmt: skip
        line = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        lines.append(line.encode(errors="replace"))
    verdict = verify_transcript(b"\n".join(lines) + b"\n")
    assert not verdict.good
