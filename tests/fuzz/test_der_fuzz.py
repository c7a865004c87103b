"""Any octets through the DER reader: every method reads or rejects, and reading loses nothing."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import Rejected
from pki import der
from pki.der import Reader

SECONDS = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))
CONSTRUCTED = 0x20
DEPTH = 32

# Method → encoder: what a method accepts, its encoder writes again.
METHODS: tuple[tuple[Callable[[Reader], object], Callable[..., bytes] | None], ...] = (
    (lambda reader: reader.integer(), der.integer),
    (lambda reader: reader.boolean(), der.boolean),
    (lambda reader: reader.object_identifier(), der.object_identifier),
    (lambda reader: reader.bit_string(), lambda pair: der.bit_string(*pair)),
    (lambda reader: reader.named_bits(), der.named_bits),
    (lambda reader: reader.content(der.OCTET_STRING), der.octet_string),
    (lambda reader: reader.raw(), lambda raw: raw),
    (lambda reader: reader.time(), None),
)

SEED = der.sequence(
    der.integer(-(2**70)), der.boolean(True), der.object_identifier("2.999.1.16384"),
    der.bit_string(b"\xf0", 4), der.named_bits({0, 9}), der.octet_string(bytes(200)),
    der.time(datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)),
    der.time(datetime(2051, 2, 28, 23, 59, 59, tzinfo=UTC)),
    der.explicit(3, der.set_of(der.utf8_string("ü"), der.NULL_VALUE)), der.implicit(30, b"x"),
)  # fmt: skip


def methods(data: bytes) -> int:
    """Try every method at the start of ``data``; how many accepted it."""
    accepted = 0
    for read, encode in METHODS:
        reader = Reader(data)
        try:
            value = read(reader)
        except Rejected as rejected:
            if rejected.code != "bad-der":
                raise
            continue
        accepted += 1
        consumed = data[: reader.position]
        if encode is not None:
            assert encode(value) == consumed
        else:
            assert isinstance(value, datetime)
            assert consumed in (der.time(value), der.generalized_time(value))
    return accepted


def rewrite(reader: Reader, depth: int = 0) -> bytes:
    """Everything that a reader holds, taken apart and written again."""
    out = b""
    while reader:
        tag = reader.peek()
        if tag & CONSTRUCTED and depth < DEPTH:
            out += der.tlv(tag, rewrite(reader.enter(tag), depth + 1))
        else:
            out += der.tlv(tag, reader.content(tag))
    reader.done()
    return out


def feed(data: bytes) -> None:
    methods(data)
    try:
        rewritten = rewrite(Reader(data))
    except Rejected as rejected:
        if rejected.code != "bad-der":
            raise
    else:
        assert rewritten == data
    try:
        assert der.tlv(der.SEQUENCE, der.one(data, der.SEQUENCE).rest()) == data
    except Rejected as rejected:
        if rejected.code != "bad-der":
            raise


def test_the_seed_is_taken_apart() -> None:
    assert rewrite(Reader(SEED)) == SEED
    parts = der.one(SEED, der.SEQUENCE)
    accepted = 0
    while parts:
        accepted += methods(parts.raw()) - 1  # raw() takes anything
    assert accepted == 10  # one each, and the bit strings in two ways


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_octets(data: bytes) -> None:
    feed(data)


@settings(deadline=None)
@given(
    st.sampled_from([1, 2, 3, 4, 5, 6, 0x17, 0x18, 0x30, 0x31, 0xA0, 0x1F]),
    st.one_of(st.binary(max_size=70), st.from_regex(rb"[0-9]{12,14}Z", fullmatch=True)),
)
def test_any_content_under_a_tag(tag: int, content: bytes) -> None:
    feed(der.tlv(tag, content))


def test_mutations() -> None:
    chance = random.Random(690)
    end = monotonic() + SECONDS
    count = 0
    while count < 5000 or monotonic() < end:
        count += 1
        data = bytearray(SEED)
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(data))
            if chance.random() < 0.5:
                data[place] = chance.choice((0, 0x7F, 0x80, 0x81, 0xFF, chance.randrange(256)))
            else:
                del data[place]
        feed(bytes(data))


def test_lengths_that_lie() -> None:
    for length in (
        b"\x80", b"\x81\x7f", b"\x81\x00", b"\x82\x00\xff", b"\x83\x00\xff\xff", b"\xff",
        b"\x84\xff\xff\xff\xff", b"\x85\x00\x00\x00\x00\x01", b"\x84",
    ):  # fmt: skip
        for read, _ in METHODS:
            for tag in (1, 2, 3, 4, 6, 0x17, 0x30):
                try:
                    read(Reader(bytes((tag,)) + length + bytes(300)))
                except Rejected as rejected:
                    if rejected.code != "bad-der":
                        raise
                else:
                    raise AssertionError(f"{length.hex()} was taken for a length")
