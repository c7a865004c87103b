"""CRLs in DER: what is written, and what is refused when read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from crl.encode import (
    OID_CRL_NUMBER,
    OID_REASON_CODE,
    Crl,
    Entry,
    assemble,
    authority_key_identifier,
    build_tbs,
    crl_number,
    encode_entry,
    extension,
    frame,
    parse_crl,
)
from infra.errors import Rejected
from pki import der
from pki.algorithms import SIGNATURE_ALGORITHMS
from pki.status import RevocationReason

ALGORITHM = SIGNATURE_ALGORITHMS["ecdsa-with-sha256"].identifier
NAME = der.sequence(
    der.set_of(der.sequence(der.object_identifier("2.5.4.3"), der.utf8_string("CA")))
)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EXTENSIONS = (authority_key_identifier(b"k" * 20), crl_number(7))


def make(
    *entries: bytes,
    extensions: tuple[bytes, ...] = EXTENSIONS,
    this_update: datetime = NOW,
    next_update: datetime = NOW + timedelta(days=1),
) -> bytes:
    tbs = build_tbs(
        issuer=NAME,
        algorithm=ALGORITHM,
        this_update=this_update,
        next_update=next_update,
        entries=entries,
        extensions=extensions,
    )
    return assemble(tbs, ALGORITHM, b"\x00signature")


def raw_entry(*parts: bytes) -> bytes:
    return der.sequence(*parts)


def refused(data: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        parse_crl(data)
    return caught.value.code


def entries_of(crl: Crl) -> list[Entry]:
    return list(crl.tbs.entries())


def test_every_field_reads_back() -> None:
    entries = [
        Entry(1, NOW),
        Entry(2**158 + 5, NOW, RevocationReason.keyCompromise, NOW - timedelta(days=3)),
        Entry(128, NOW, RevocationReason.certificateHold),
        Entry(255, NOW, RevocationReason.unspecified, datetime(1999, 1, 1, tzinfo=UTC)),
        Entry(9, datetime(2050, 1, 1, tzinfo=UTC), RevocationReason.superseded),
    ]
    data = make(*map(encode_entry, entries))
    crl = parse_crl(data)
    assert entries_of(crl) == entries
    assert crl.count == 5
    assert crl.der == data
    assert crl.algorithm == crl.tbs.algorithm == ALGORITHM
    assert crl.signature == b"\x00signature"
    assert (crl.tbs.issuer, crl.tbs.number, crl.tbs.key_identifier) == (NAME, 7, b"k" * 20)
    assert (crl.tbs.this_update, crl.tbs.next_update) == (NOW, NOW + timedelta(days=1))
    assert crl.tbs.is_delta is False


def test_entries_keep_their_order() -> None:
    data = make(*(encode_entry(Entry(serial, NOW)) for serial in (5, 1, 9, 3)))
    assert [entry.serial for entry in parse_crl(data).tbs.entries()] == [5, 1, 9, 3]


def test_a_frame_is_what_stands_around_the_entries() -> None:
    entries = [encode_entry(Entry(serial, NOW)) for serial in range(1, 200)]
    body = b"".join(entries)
    head, tail = frame(
        issuer=NAME,
        algorithm=ALGORITHM,
        this_update=NOW,
        next_update=NOW + timedelta(days=1),
        entries_size=len(body),
        extensions=EXTENSIONS,
    )
    assert make(*entries) == assemble(head + body + tail, ALGORITHM, b"\x00signature")


def test_an_empty_list_has_no_revoked_certificates() -> None:
    crl = parse_crl(make())
    assert crl.count == 0
    inside = der.one(crl.tbs.der, der.SEQUENCE)
    tags = []
    while inside:
        tags.append(inside.header()[0])
    assert tags == [der.INTEGER, 0x30, 0x30, der.UTC_TIME, der.UTC_TIME, 0xA0]


def test_a_local_time_is_written_in_utc() -> None:
    east = timezone(timedelta(hours=5))
    [entry] = entries_of(parse_crl(make(encode_entry(Entry(1, NOW.astimezone(east))))))
    assert entry.at == NOW


@pytest.mark.parametrize("serial", [0, -1, 2**159, 2**200])
def test_a_serial_that_rfc_5280_forbids_is_not_written(serial: int) -> None:
    with pytest.raises(Rejected, match="bad-serial"):
        encode_entry(Entry(serial, NOW))


@pytest.mark.parametrize("number", [-1, 2**159])
def test_a_number_that_rfc_5280_forbids_is_not_written(number: int) -> None:
    with pytest.raises(Rejected, match="bad-crl-number"):
        crl_number(number)


def test_the_largest_serial_and_number_are_written() -> None:
    largest = 2**159 - 1
    extensions = (authority_key_identifier(b"k"), crl_number(largest))
    crl = parse_crl(make(encode_entry(Entry(largest, NOW)), extensions=extensions))
    assert crl.tbs.number == entries_of(crl)[0].serial == largest


def test_a_long_entry_with_an_unknown_extension_is_read() -> None:
    extra = extension("1.2.3.4", b"x" * 300)
    reason = extension(OID_REASON_CODE, der.enumerated(RevocationReason.superseded))
    entry = raw_entry(der.integer(77), der.time(NOW), der.sequence(extra, reason))
    after = encode_entry(Entry(78, NOW))
    assert entries_of(parse_crl(make(entry, after))) == [
        Entry(77, NOW, RevocationReason.superseded),
        Entry(78, NOW),
    ]


def with_details(*extensions: bytes) -> bytes:
    return make(raw_entry(der.integer(1), der.time(NOW), der.sequence(*extensions)))


REASON = extension(OID_REASON_CODE, der.enumerated(1))

BAD = {
    "serial 0": make(raw_entry(der.integer(0), der.time(NOW))),
    "serial negative": make(raw_entry(der.integer(-5), der.time(NOW))),
    "serial of 21 octets": make(raw_entry(der.integer(2**160), der.time(NOW))),
    "serial padded": make(raw_entry(b"\x02\x02\x00\x01", der.time(NOW))),
    "serial empty": make(raw_entry(b"\x02\x00", der.time(NOW))),
    "serial missing": make(raw_entry(der.time(NOW))),
    "date missing": make(raw_entry(der.integer(1))),
    "date general before 2050": make(raw_entry(der.integer(1), der.generalized_time(NOW))),
    "date impossible": make(raw_entry(der.integer(1), der.tlv(der.UTC_TIME, b"261332000000Z"))),
    "entry too long": make(der.sequence(der.integer(1), der.time(NOW)) + b"\x30\x7f"),
    "entry not a sequence": make(der.tlv(0x31, der.integer(1) + der.time(NOW))),
    "octets after extensions": make(
        raw_entry(der.integer(1), der.time(NOW), der.sequence(REASON), der.NULL_VALUE)
    ),
    "entry extensions empty": with_details(),
    "reason twice": with_details(REASON, REASON),
    "reason 7": with_details(extension(OID_REASON_CODE, der.enumerated(7))),
    "reason critical": with_details(extension(OID_REASON_CODE, der.enumerated(1), critical=True)),
    "reason an integer": with_details(extension(OID_REASON_CODE, der.integer(1))),
    "removeFromCRL outside a delta": with_details(
        extension(OID_REASON_CODE, der.enumerated(RevocationReason.removeFromCRL))
    ),
    "invalidity date in UTCTime": with_details(extension("2.5.29.24", der.time(NOW))),
    "unknown critical entry extension": with_details(extension("1.2.3", b"x", critical=True)),
    "no CRL number": make(extensions=EXTENSIONS[:1]),
    "no key identifier": make(extensions=EXTENSIONS[1:]),
    "number critical": make(
        extensions=(EXTENSIONS[0], extension(OID_CRL_NUMBER, der.integer(1), critical=True))
    ),
    "number negative": make(extensions=(EXTENSIONS[0], extension(OID_CRL_NUMBER, der.integer(-1)))),
    "number too long": make(
        extensions=(EXTENSIONS[0], extension(OID_CRL_NUMBER, der.integer(2**160)))
    ),
    "an extension twice": make(extensions=(*EXTENSIONS, EXTENSIONS[0])),
    "no extensions": make(extensions=()),
    "algorithms differ": assemble(
        parse_crl(make()).tbs.der, SIGNATURE_ALGORITHMS["ecdsa-with-sha384"].identifier, b"s"
    ),
    "something after the end": make() + b"\x00",
    "cut short": make()[:-1],
    "nothing": b"",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_what_rfc_5280_forbids_is_refused(data: bytes) -> None:
    assert refused(data) in ("bad-crl", "bad-der")


def tbs_with(*parts: bytes) -> bytes:
    return assemble(der.sequence(*parts), ALGORITHM, b"\x00")


TIMES = (der.time(NOW), der.time(NOW + timedelta(days=1)))
AFTER = der.explicit(0, der.sequence(*EXTENSIONS))


def test_the_parts_alone_are_read() -> None:
    assert parse_crl(tbs_with(der.integer(1), ALGORITHM, NAME, *TIMES, AFTER)).count == 0


@pytest.mark.parametrize(
    "data",
    [
        tbs_with(ALGORITHM, NAME, *TIMES, AFTER),
        tbs_with(der.integer(0), ALGORITHM, NAME, *TIMES, AFTER),
        tbs_with(der.integer(1), ALGORITHM, der.sequence(), *TIMES, AFTER),
        tbs_with(der.integer(1), ALGORITHM, NAME, TIMES[0], AFTER),
        tbs_with(der.integer(1), ALGORITHM, NAME, *TIMES, der.sequence(), AFTER),
        tbs_with(der.integer(1), ALGORITHM, NAME, der.generalized_time(NOW), TIMES[1], AFTER),
        tbs_with(der.integer(1), ALGORITHM, NAME, *TIMES, AFTER, der.NULL_VALUE),
    ],
    ids=["v1", "version 1", "no issuer", "no nextUpdate", "empty list", "time form", "after"],
)
def test_a_tbs_that_rfc_5280_forbids_is_refused(data: bytes) -> None:
    assert refused(data) in ("bad-crl", "bad-der")


def test_a_crl_beyond_the_limit_is_not_read() -> None:
    data = make()
    with pytest.raises(Rejected, match="crl-too-large"):
        parse_crl(data, limit=len(data) - 1)
    assert parse_crl(data, limit=len(data)).count == 0
