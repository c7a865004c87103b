"""Names: DER both ways, RFC 4514 both ways, general names, serial numbers; what is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509

from infra.errors import Broken, Rejected
from pki import der, oids
from pki.general_name import (
    GeneralNameKind,
    encode_general_names,
    general_name,
    parse_general_name,
    parse_general_names,
)
from pki.names import (
    MAXIMUM_SIZE,
    Attribute,
    attribute,
    encode_name,
    encode_rdns,
    parse_name,
    parse_rfc4514,
)
from pki.serial import LIMIT, format_serial, new_serial, parse_serial


def test_a_name_is_read_as_cryptography_writes_it() -> None:
    theirs = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "AQ"),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Régistre, le"),
            x509.NameAttribute(x509.NameOID.SERIAL_NUMBER, "PNOAQ-12"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, "Alice Example"),
        ]
    )
    name = parse_name(theirs.public_bytes())
    assert [(a.short, a.value) for a in name.attributes] == [
        ("C", "AQ"),
        ("O", "Régistre, le"),
        ("serialNumber", "PNOAQ-12"),
        ("CN", "Alice Example"),
    ]
    assert [a.tag for a in name.attributes] == [0x13, 0x0C, 0x13, 0x0C]
    assert encode_name(name.attributes).der == theirs.public_bytes()
    assert name.first(oids.COMMON_NAME) == "Alice Example"
    assert name.first(oids.TITLE) is None
    assert name.rfc4514() == "CN=Alice Example,serialNumber=PNOAQ-12,O=Régistre\\, le,C=AQ"


def test_text_is_read_from_the_root_down_when_the_country_comes_first() -> None:
    down = parse_rfc4514("C=AQ, O=Registry, CN=Alice Example")
    assert down == parse_rfc4514("CN=Alice Example,O=Registry,C=AQ")
    assert [a.short for a in down.attributes] == ["C", "O", "CN"]
    assert [a.short for a in parse_rfc4514("O=Registry,CN=Alice").attributes] == ["CN", "O"]
    assert parse_rfc4514("C=AQ").der == parse_rfc4514("  C = AQ ").der
    assert parse_rfc4514("").rdns == ()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"CN=a\,b", "a,b"),
        (r"CN=a\2Cb", "a,b"),
        (r"CN=\ a\ ", " a "),
        (r"CN=\#1", "#1"),
        (r"CN=Lu\C4\8Di\C4\87", "Lučić"),  # RFC 4514 §4
        ("CN=a b  ", "a b"),
        ("CN=#0c0141", "A"),
        ("CN=a=b", "a=b"),
        ("2.5.4.3=x", "x"),
    ],
)
def test_values_lose_their_escapes_and_get_them_back(text: str, value: str) -> None:
    name = parse_rfc4514(text)
    assert name.first(oids.COMMON_NAME) == value
    assert parse_rfc4514(name.rfc4514()) == name


def test_an_rdn_of_several_attributes_is_sorted_and_must_be() -> None:
    name = parse_rfc4514("serialNumber=1+CN=A,C=AQ")
    assert parse_name(name.der) == name == parse_rfc4514(name.rfc4514())
    first, second = (
        der.sequence(der.object_identifier(a.type), der.tlv(a.tag, a.value.encode()))
        for a in name.rdns[1]
    )
    for wrong in (second + first, first + first):
        with pytest.raises(Rejected) as refused:
            parse_name(der.sequence(der.tlv(der.SET, wrong)))
        assert refused.value.code == "bad-der"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "bad-der"),
        (b"\x31\x00", "bad-der"),
        (b"\x30\x00\x00", "bad-der"),
        (der.sequence(der.tlv(der.SET, b"")), "bad-der"),
        (encode_name([Attribute(oids.COMMON_NAME, "a\x00b")]).der, "bad-character"),
        (encode_name([Attribute(oids.COMMON_NAME, "a\u202eb")]).der, "bad-character"),
        (encode_name([Attribute(oids.COMMON_NAME, "a*b", 0x13)]).der, "bad-character"),
        (encode_name([Attribute(oids.COMMON_NAME, "")]).der, "bad-name"),
        (encode_name([Attribute(oids.COMMON_NAME, "a")] * 65).der, "name-too-long"),
        (encode_name([Attribute(oids.COMMON_NAME, "a" * MAXIMUM_SIZE)]).der, "name-too-long"),
        (bytes.fromhex("300c310a3008060355040302 0101".replace(" ", "")), "bad-name"),
        (bytes.fromhex("300c310a300806035504030c01ff"), "bad-character"),
    ],
)
def test_bad_names_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(Rejected) as refused:
        parse_name(data)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Alice", "bad-name"),
        ("CN=", "bad-name"),
        ("CN=Alice,", "bad-name"),
        ("CN=a\\", "bad-name"),
        ("CN=a;b", "bad-name"),
        ("CN=#zz", "bad-name"),
        ("CN=#02", "bad-der"),
        ("0.99=#0c0141", "bad-name"),
        ("1.2.3=x", "bad-name"),
        ("favouriteColour=red", "bad-name"),
        ("C=AQX", "name-too-long"),
        ("CN=" + "a" * 65, "name-too-long"),
        ("CN=" + "a" * 9000, "name-too-long"),
        ("serialNumber=a_b", "bad-character"),
        ("CN=\\FF", "bad-character"),
        ("CN=\ud800", "bad-character"),
        ("DC=é", "bad-character"),
    ],
)
def test_bad_text_is_refused(text: str, code: str) -> None:
    with pytest.raises(Rejected) as refused:
        parse_rfc4514(text)
    assert refused.value.code == code


def test_old_string_types_are_read() -> None:
    for tag, encoding in ((0x1E, "utf-16-be"), (0x1C, "utf-32-be"), (0x14, "latin-1")):
        pair = der.sequence(
            der.object_identifier(oids.COMMON_NAME), der.tlv(tag, "Zoë".encode(encoding))
        )
        name = parse_name(der.sequence(der.tlv(der.SET, pair)))
        assert name.attributes == (Attribute(oids.COMMON_NAME, "Zoë", tag),)
        assert encode_rdns(name.rdns) == name


def test_an_attribute_gets_the_string_type_of_its_kind() -> None:
    assert attribute("C", "AQ").tag == der.PRINTABLE_STRING
    assert attribute("emailAddress", "a@example.org").tag == der.IA5_STRING
    assert attribute("CN", "AQ").tag == der.UTF8_STRING


NAMES = [
    "dns:www.example.org",
    "dns:*.example.org",
    "email:alice+tag@example.org",
    "uri:did:web:example.org:alice",
    "uri:https://example.org:8443/a?b#c",
    "uri:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
    "ip:192.0.2.1",
    "ip:2001:db8::1",
    "directoryName:CN=Alice,C=AQ",
    "upn:zoë@example.org",
    "smtpUTF8Mailbox:zoë@example.org",
    "xmppAddr:alice@example.org",
    "srvName:_xmpp.example.org",
]


def test_general_names_go_to_der_and_back() -> None:
    names = tuple(map(parse_general_name, NAMES))
    assert [str(name) for name in names] == NAMES
    encoded = encode_general_names(names)
    assert parse_general_names(encoded) == names
    extension = x509.SubjectAlternativeName(
        [
            x509.DNSName("www.example.org"),
            x509.RFC822Name("alice@example.org"),
            x509.OtherName(x509.ObjectIdentifier(oids.USER_PRINCIPAL_NAME), b"\x0c\x01a"),
        ]
    )
    with pytest.raises(Rejected):  # the UPN is no mailbox
        parse_general_names(extension.public_bytes())


@pytest.mark.parametrize(
    "text",
    [
        "www.example.org",
        "fax:123",
        "dns:",
        "dns:a..b",
        "dns:-a.example",
        "dns:a_b.example",
        "dns:*",
        "dns:www.*.example",
        "dns:" + "a" * 64 + ".example",
        "dns:" + "a." * 127 + "a",
        "email:alice",
        "email:@example.org",
        "email:a@b@c",
        "email:" + "a" * 65 + "@example.org",
        "email:zoë@example.org",
        "uri:/relative",
        "uri:did:",
        "uri:did:Key:x",
        "uri:did:key:",
        "uri:https://exa mple.org",
        "uri:https:///path",
        "uri:https://exa_mple",
        "ip:300.1.1.1",
        "ip:192.0.2.0/24",
        "upn:alice",
        "directoryName:Alice",
    ],
)
def test_bad_general_names_are_refused(text: str) -> None:
    with pytest.raises(Rejected):
        parse_general_name(text)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x30\x00", "bad-general-name"),
        (der.sequence(der.tlv(0x88, b"\x2a")), "san-not-allowed"),  # registeredID
        (der.sequence(der.tlv(0x87, b"\x01")), "bad-general-name"),
        (der.sequence(der.tlv(0x82, b"\xff")), "bad-character"),
        (der.sequence(general_name(GeneralNameKind.dns, "a").der * 257), "name-too-long"),
        (bytes(40000), "name-too-long"),
        (der.sequence(der.tlv(0xA0, der.object_identifier("1.2.3") + b"\xa0\x00")),
         "san-not-allowed"),
    ],
)  # fmt: skip
def test_bad_general_names_in_der_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(Rejected) as refused:
        parse_general_names(data)
    assert refused.value.code == code


def test_a_serial_number_holds_the_time_and_all_its_random_bits() -> None:
    now = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
    low, high = new_serial(now, bytes(10)), new_serial(now, b"\xff" * 10)
    assert high - low == 2**80 - 1
    for serial in (low, high):
        assert serial >> 80 == 1795348800123
        assert len(der.integer(serial)) == 2 + 16
    for octets in (9, 11):
        with pytest.raises(Broken):
            new_serial(now, bytes(octets))


@pytest.mark.parametrize("year", [2004, 2026, 2039, 2100, 9999])
def test_a_serial_number_is_positive_and_fits_in_any_year(year: int) -> None:
    serial = new_serial(datetime(year, 12, 31, tzinfo=UTC), b"\xff" * 10)
    assert 0 < serial < LIMIT


def test_serial_numbers_are_written_and_read() -> None:
    assert format_serial(0xABC) == "0abc"
    for text in ("0abc", "0xABC", "0a:bc", " abc\n"):
        assert parse_serial(text) == 0xABC
    assert parse_serial(format_serial(LIMIT - 1)) == LIMIT - 1
    for text in ("", "0", "xyz", "-1", "8" + "0" * 39, "1" * 41, "0x", "00" * 100, "١"):
        with pytest.raises(Rejected):
            parse_serial(text)
