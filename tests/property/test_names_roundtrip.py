"""Names survive the way to DER and to text and back; cryptography reads the same in them."""

from __future__ import annotations

from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from pki import der, oids
from pki.general_name import (
    GeneralNameKind,
    encode_general_names,
    general_name,
    parse_general_name,
    parse_general_names,
)
from pki.names import (
    _BAD_CHARACTERS,
    ATTRIBUTE_TYPES,
    Attribute,
    encode_name,
    encode_rdns,
    parse_name,
    parse_rfc4514,
)
from pki.serial import LIMIT, format_serial, parse_serial

PRINTABLE = "ABCXYZabcxyz0189 '()+,-./:=?"


@st.composite
def attributes(draw: st.DrawFn) -> Attribute:
    kind = draw(st.sampled_from(sorted(ATTRIBUTE_TYPES.values(), key=lambda kind: kind.oid)))
    longest = min(kind.maximum, 24)
    if kind.oid == oids.COUNTRY_NAME:
        return Attribute(kind.oid, draw(st.sampled_from(["AQ", "FR", "UT"])), kind.tag)
    alphabet: st.SearchStrategy[str] = {
        der.PRINTABLE_STRING: st.sampled_from(PRINTABLE),
        der.IA5_STRING: st.characters(min_codepoint=32, max_codepoint=126),
        der.UTF8_STRING: st.characters(codec="utf-8").filter(
            lambda character: not _BAD_CHARACTERS.search(character)
        ),
    }[kind.tag]
    value = draw(st.text(alphabet, min_size=1, max_size=longest))
    return Attribute(kind.oid, value, kind.tag)


rdns = st.lists(
    st.lists(attributes(), min_size=1, max_size=3, unique_by=lambda attribute: attribute.type),
    max_size=6,
)


@given(rdns)
def test_der_round_trip(given_rdns: list[list[Attribute]]) -> None:
    name = encode_rdns(given_rdns)
    again = parse_name(name.der)
    assert again == name
    assert encode_rdns(again.rdns) == name
    assert [set(rdn) for rdn in name.rdns] == [set(rdn) for rdn in given_rdns]


@given(rdns)
def test_text_round_trip(given_rdns: list[list[Attribute]]) -> None:
    name = encode_rdns(given_rdns)
    texts = [rdn for rdn in name.rdns]
    country_last = bool(texts) and any(a.type == oids.COUNTRY_NAME for a in texts[-1])
    country_first = bool(texts) and any(a.type == oids.COUNTRY_NAME for a in texts[0])
    again = parse_rfc4514(name.rfc4514())
    if country_last and not country_first:  # read as operators write it: from the root down
        assert again == encode_rdns(reversed(name.rdns))
    else:
        assert again == name


@given(st.lists(attributes(), min_size=1, max_size=5))
def test_cryptography_reads_the_same(given_attributes: list[Attribute]) -> None:
    name = encode_name(given_attributes)
    tbs = der.sequence(
        der.explicit(0, der.integer(2)),
        der.integer(1),
        bytes.fromhex("300506032b6570"),
        name.der,
        bytes.fromhex("301e170d3236303130313030303030305a170d3236303130313030303030305a"),
        name.der,
        bytes.fromhex("302a300506032b6570032100") + bytes(32),
    )
    whole = der.sequence(tbs, bytes.fromhex("300506032b6570"), b"\x03\x01\x00")
    read = x509.load_der_x509_certificate(whole).subject
    assert [(a.oid.dotted_string, a.value, a._type.value) for a in read] == [
        (a.type, a.value, a.tag) for a in given_attributes
    ]


labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
hosts = st.lists(labels, min_size=1, max_size=4).map(".".join)
general_names = st.one_of(
    hosts.map(lambda value: general_name(GeneralNameKind.dns, value)),
    hosts.map(lambda value: general_name(GeneralNameKind.email, f"a.b@{value}")),
    hosts.map(lambda value: general_name(GeneralNameKind.uri, f"https://{value}/x")),
    hosts.map(lambda value: general_name(GeneralNameKind.uri, f"did:web:{value}")),
    hosts.map(lambda value: general_name(GeneralNameKind.upn, f"zoë@{value}")),
    st.ip_addresses().map(lambda value: general_name(GeneralNameKind.ip, str(value))),
)


@given(st.lists(general_names, min_size=1, max_size=8))
def test_general_names_round_trip(names: list) -> None:  # type: ignore[type-arg]
    assert parse_general_names(encode_general_names(names)) == tuple(names)
    assert [parse_general_name(str(name)) for name in names] == names


@given(st.integers(1, LIMIT - 1))
def test_serial_numbers_round_trip(serial: int) -> None:
    text = format_serial(serial)
    assert parse_serial(text) == serial
    assert len(text) % 2 == 0
    assert text == text.lower()
