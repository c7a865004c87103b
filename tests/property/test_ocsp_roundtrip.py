"""What the OCSP codec writes it reads back, and so do others."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from urllib.parse import quote

from asn1crypto import ocsp as asn1_ocsp
from cryptography.x509 import ocsp as x509_ocsp
from hypothesis import given
from hypothesis import strategies as st

from ocsp.request import (
    HASH_OIDS,
    build_cert_id,
    build_request,
    parse_request,
    read_any_request,
    read_plain_request,
    request_in_path,
)
from ocsp.response import (
    assemble_basic,
    build_opening,
    build_response_data,
    build_single,
    build_times,
    build_verdict,
)
from pki import der
from pki.algorithms import SIGNATURE_ALGORITHMS
from pki.status import CertStatus, Good, RevocationReason, Revoked, Unknown

times = st.datetimes(
    datetime(1950, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC), allow_imaginary=False
).map(lambda at: at.replace(microsecond=0))
serials = st.integers(1, (1 << 159) - 1)
sizes = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}


@st.composite
def cert_ids(draw: st.DrawFn) -> bytes:
    name = draw(st.sampled_from(sorted(sizes)))
    digests = st.binary(min_size=sizes[name], max_size=sizes[name])
    return build_cert_id(HASH_OIDS[name], draw(digests), draw(digests), draw(serials))


statuses: st.SearchStrategy[CertStatus] = st.one_of(
    st.just(Good()),
    st.just(Unknown()),
    st.builds(
        Revoked,
        at=times,
        reason=st.sampled_from(RevocationReason),
        invalidity_date=st.none() | times,
        sequence=st.integers(1),
    ),
)
nonces = st.none() | st.binary(min_size=1, max_size=128)


@given(st.lists(cert_ids(), min_size=1, max_size=32), nonces)
def test_a_request_reads_back(asked: list[bytes], nonce: bytes | None) -> None:
    data = build_request(asked, nonce)
    read = parse_request(data)
    assert [one.der for one in read.cert_ids] == asked
    for one in read.cert_ids:
        assert der.sequence(one.issuer, der.integer(one.serial)) == one.der
    assert read.nonce == nonce

    other = asn1_ocsp.OCSPRequest.load(data, strict=True)
    listed = other["tbs_request"]["request_list"]
    assert [one["req_cert"]["serial_number"].native for one in listed] == [
        one.serial for one in read.cert_ids
    ]
    assert (other.nonce_value.native if other.nonce_value else None) == nonce


@given(cert_ids(), nonces)
def test_a_single_request_is_read_as_cryptography_reads_it(
    asked: bytes, nonce: bytes | None
) -> None:
    data = build_request([asked], nonce)
    (ours,) = parse_request(data).cert_ids
    theirs = x509_ocsp.load_der_ocsp_request(data)
    assert ours.serial == theirs.serial_number
    oid = HASH_OIDS[theirs.hash_algorithm.name]
    name, key = theirs.issuer_name_hash, theirs.issuer_key_hash
    assert build_cert_id(oid, name, key, theirs.serial_number) == ours.der
    assert ours.issuer in ours.der


SINGLE_EXTENSION = der.explicit(
    0, der.sequence(der.sequence(der.object_identifier("1.2.3"), der.octet_string(b"")))
)


@given(
    cert_ids(),
    nonces,
    st.integers(0, 1 << 30),
    st.integers(0, 255),
    st.sampled_from(["keep", "set", "insert", "delete", "cut", "single"]),
)
def test_both_readers_say_the_same(
    asked: bytes, nonce: bytes | None, place: int, octet: int, change: str
) -> None:
    data = build_request([asked], nonce)
    at = place % len(data)
    match change:
        case "set":
            data = data[:at] + bytes((octet,)) + data[at + 1 :]
        case "insert":
            data = data[:at] + bytes((octet,)) + data[at:]
        case "delete":
            data = data[:at] + data[at + 1 :]
        case "cut":
            data = data[:at]
        case "single":
            data = der.sequence(der.sequence(der.sequence(der.sequence(asked, SINGLE_EXTENSION))))
    plain = read_plain_request(data)
    if plain is not None:
        assert plain == read_any_request(data)


@given(
    st.builds(
        bytes.__add__,
        st.sampled_from([b"", b"\0", b"\0\x7f", b"\0\x80", b"\x7f", b"\x80", b"\xff"]),
        st.binary(max_size=1) | st.binary(min_size=17, max_size=21),
    ),
    st.just(b"") | st.binary(max_size=4),
    st.sampled_from(["sha1", "sha256"]),
)
def test_both_readers_read_serial_numbers_alike(serial: bytes, rest: bytes, name: str) -> None:
    digest = bytes(sizes[name])
    cert_id = build_cert_id(HASH_OIDS[name], digest, digest, 1)[2:-3] + der.tlv(2, serial) + rest
    data = der.sequence(der.sequence(der.sequence(der.sequence(der.sequence(cert_id)))))
    plain = read_plain_request(data)
    if plain is not None:
        assert plain == read_any_request(data)
        assert not rest
        assert 0 < plain.cert_ids[0].serial < 1 << 160


@given(
    st.lists(st.tuples(cert_ids(), statuses), min_size=1, max_size=4),
    times,
    times,
    nonces,
    st.booleans(),
)
def test_an_answer_is_read_by_others(
    answered: list[tuple[bytes, CertStatus]],
    this_update: datetime,
    next_update: datetime,
    nonce: bytes | None,
    extended_revoke: bool,
) -> None:
    times = build_times(this_update, next_update)
    singles = [build_single(cert_id, build_verdict(status, times)) for cert_id, status in answered]
    responder_id = der.explicit(2, der.octet_string(bytes(20)))
    opening = build_opening(responder_id, this_update)
    data = build_response_data(opening, singles, nonce, extended_revoke=extended_revoke)
    algorithm = SIGNATURE_ALGORITHMS["ecdsa-with-sha256"].identifier
    body = assemble_basic(data, algorithm, b"signature", b"")

    theirs = x509_ocsp.load_der_ocsp_response(body)
    assert theirs.tbs_response_bytes == data
    assert theirs.signature == b"signature"
    other = asn1_ocsp.OCSPResponse.load(body, strict=True)
    assert other.dump(force=True) == body
    assert (other.nonce_value.native if other.nonce_value else None) == nonce
    response_data = other["response_bytes"]["response"].parsed["tbs_response_data"]
    said = [one["extn_id"].native for one in response_data["response_extensions"]]
    assert ("extended_revoke" in said) == extended_revoke
    listed = response_data["responses"]
    for (cert_id, status), single, read in zip(answered, listed, theirs.responses, strict=True):
        assert single["cert_id"].dump() == cert_id
        assert read.this_update_utc == this_update
        assert read.next_update_utc == next_update
        assert read.certificate_status.name == type(status).__name__.upper()
        if isinstance(status, Revoked):
            assert read.revocation_time_utc == status.at
            number = single["cert_status"].chosen["revocation_reason"].native
            assert (number is None) == (status.reason is RevocationReason.unspecified)
            known = single.invalidity_date_value
            assert (known.native if known else None) == status.invalidity_date


@given(st.binary(max_size=200).map(lambda rest: b"\x30" + rest), st.sampled_from(["", "/", "+/"]))
def test_a_path_reads_back(data: bytes, safe: str) -> None:
    text = base64.b64encode(data).decode()
    for path in (text, quote(text, safe=safe), f"{text}/", f"/{quote(text, safe=safe)}/"):
        assert request_in_path(path) == data
