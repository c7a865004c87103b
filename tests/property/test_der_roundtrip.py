"""Whatever the DER encoders write, the reader and other parsers read back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from asn1crypto import core
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import Rejected
from pki import der
from pki.der import Reader

OIDS = st.one_of(
    st.tuples(st.sampled_from([0, 1]), st.integers(0, 39)),
    st.tuples(st.just(2), st.integers(0, 2**70)),
).flatmap(
    lambda first: st.lists(st.integers(0, 2**70), min_size=0, max_size=5).map(
        lambda rest: ".".join(map(str, (*first, *rest)))
    )
)
TEXT = st.text(st.characters(blacklist_categories=("Cs",)))
TAGS = st.integers(0, 0xFF).filter(lambda tag: tag & 0x1F != 0x1F)
CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.sampled_from([0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x10000]).map(bytes),
)


def reads(encoded: bytes) -> Reader:
    """A reader that is given other octets around the value, and must not touch them."""
    return Reader(b"\xff" + encoded + b"\xff", 1, 1 + len(encoded))


@given(TAGS, CONTENTS)
def test_any_value(tag: int, content: bytes) -> None:
    encoded = der.tlv(tag, content)
    assert reads(encoded).content(tag) == content
    assert reads(encoded).raw() == encoded
    assert reads(encoded).raw(tag) == encoded
    assert reads(encoded).enter(tag).rest() == content
    assert reads(encoded).peek() == tag
    inside = reads(encoded)
    _, start, stop = inside.header()
    assert inside.data[start:stop] == content
    inside.done()
    assert not inside
    with pytest.raises(Rejected):
        reads(encoded).content(tag ^ 0x20)


@given(TAGS, CONTENTS, st.data())
def test_nothing_cut_short_is_accepted(tag: int, content: bytes, data: st.DataObject) -> None:
    encoded = der.tlv(tag, content)
    kept = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(Rejected) as caught:
        Reader(encoded[:kept]).header()
    assert caught.value.code == "bad-der"


@given(st.one_of(st.integers(), st.integers(-(2**4096), 2**4096)))
def test_integers(value: int) -> None:
    encoded = der.integer(value)
    assert reads(encoded).integer() == value
    assert encoded == core.Integer(value).dump()


@given(st.integers(0, 127))
def test_enumerated(value: int) -> None:
    assert reads(der.enumerated(value)).integer(der.ENUMERATED) == value


@given(st.booleans())
def test_booleans(value: bool) -> None:
    assert reads(der.boolean(value)).boolean() is value


@given(OIDS)
def test_object_identifiers(dotted: str) -> None:
    encoded = der.object_identifier(dotted)
    if len(encoded) <= 66:  # the reader takes 64 octets
        assert reads(encoded).object_identifier() == dotted
    assert core.ObjectIdentifier.load(encoded, strict=True).dotted == dotted


@given(st.binary(), st.integers(0, 7))
def test_bit_strings(octets: bytes, unused: int) -> None:
    if octets:
        octets = octets[:-1] + bytes((octets[-1] >> unused << unused,))
    else:
        unused = 0
    assert reads(der.bit_string(octets, unused)).bit_string() == (octets, unused)


@given(st.frozensets(st.integers(0, 40)))
def test_named_bits(positions: frozenset[int]) -> None:
    encoded = der.named_bits(positions)
    assert reads(encoded).named_bits() == positions
    octets, unused = reads(encoded).bit_string()
    if positions:
        assert octets[-1] >> unused & 1  # X.690 §11.2.2: the last bit kept is a one
    else:
        assert (octets, unused) == (b"", 0)


@given(st.binary())
def test_octet_strings(octets: bytes) -> None:
    assert reads(der.octet_string(octets)).content(der.OCTET_STRING) == octets


@given(TEXT)
def test_utf8_strings(text: str) -> None:
    assert reads(der.utf8_string(text)).content(der.UTF8_STRING).decode() == text
    assert core.UTF8String.load(der.utf8_string(text)).native == text


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_strings(text: str) -> None:
    assert reads(der.ia5_string(text)).content(der.IA5_STRING).decode() == text
    assert reads(der.printable_string(text)).content(der.PRINTABLE_STRING).decode() == text


@given(st.datetimes(datetime(1950, 1, 1), datetime(9999, 12, 31)))
def test_times(naive: datetime) -> None:
    at = naive.replace(tzinfo=UTC, microsecond=0)
    encoded = der.time(at)
    assert reads(encoded).time() == at
    assert encoded[0] == (der.UTC_TIME if at.year < 2050 else der.GENERALIZED_TIME)
    assert reads(der.generalized_time(at)).time() == at


@given(st.datetimes(datetime(1, 1, 1), datetime(1949, 12, 31)))
def test_times_of_long_ago_have_four_digits_of_year(naive: datetime) -> None:
    at = naive.replace(tzinfo=UTC, microsecond=0)
    assert core.GeneralizedTime.load(der.generalized_time(at)).native == at


@given(st.datetimes(datetime(1950, 1, 2), datetime(2049, 12, 30), timezones=st.timezones()))
def test_times_of_other_zones(at: datetime) -> None:
    for encoded in (der.time(at), der.generalized_time(at)):
        assert reads(encoded).time() == at.astimezone(UTC).replace(microsecond=0)


@given(st.lists(st.binary(max_size=20).map(der.octet_string)))
def test_sets_are_sorted(parts: list[bytes]) -> None:
    inside = der.one(der.set_of(*parts), der.SET)
    found = []
    while inside:
        found.append(inside.raw())
    assert found == sorted(parts)


@given(st.lists(st.binary(max_size=20).map(der.octet_string)), st.integers(0, 30))
def test_constructed_values(parts: list[bytes], number: int) -> None:
    inside = der.one(der.explicit(number, der.sequence(*parts)), 0xA0 | number)
    sequence = inside.enter(der.SEQUENCE)
    inside.done()
    for part in parts:
        assert sequence.raw() == part
    sequence.done()
    assert der.one(der.implicit(number, b"x"), 0x80 | number).rest() == b"x"
