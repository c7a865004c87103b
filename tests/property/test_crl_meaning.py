"""Whatever entries a CRL is made of, it is read as they were."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeAlias

from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from crl.encode import (
    Entry,
    assemble,
    authority_key_identifier,
    build_tbs,
    crl_number,
    encode_entry,
    parse_crl,
)
from pki.algorithms import SIGNATURE_ALGORITHMS
from pki.status import REVOCATION_REASONS, RevocationReason

Meaning: TypeAlias = dict[int, tuple[datetime, str, datetime | None]]


def meaning(der: bytes) -> Meaning:
    """What cryptography, which knows nothing of our encoder, makes of a CRL."""
    found: Meaning = {}
    for entry in x509.load_der_x509_crl(der):
        reason, since = "unspecified", None
        for extension in entry.extensions:
            if isinstance(extension.value, x509.CRLReason):
                reason = extension.value.reason.value
            elif isinstance(extension.value, x509.InvalidityDate):
                since = extension.value.invalidity_date_utc
        assert entry.serial_number not in found
        found[entry.serial_number] = (entry.revocation_date_utc, reason, since)
    return found


moments = st.datetimes(datetime(1950, 1, 1), datetime(2099, 12, 31)).map(
    lambda at: at.replace(tzinfo=UTC, microsecond=0)
)
entries = st.lists(
    st.builds(
        Entry,
        serial=st.integers(1, 2**159 - 1),
        at=moments,
        reason=st.sampled_from([*REVOCATION_REASONS, RevocationReason.certificateHold]),
        invalidity_date=st.none() | moments,
    ),
    max_size=30,
    unique_by=lambda entry: entry.serial,
)


@settings(deadline=None)
@given(entries, st.integers(0, 2**159 - 1), moments, st.binary(min_size=1, max_size=40))
def test_what_is_written_is_read(
    written: list[Entry], number: int, now: datetime, identifier: bytes
) -> None:
    algorithm = SIGNATURE_ALGORITHMS["ecdsa-with-sha256"].identifier
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA")]).public_bytes()
    tbs = build_tbs(
        issuer=name,
        algorithm=algorithm,
        this_update=now,
        next_update=now,
        entries=map(encode_entry, written),
        extensions=(authority_key_identifier(identifier), crl_number(number)),
    )
    crl = assemble(tbs, algorithm, b"signature")
    read = parse_crl(crl)
    assert list(read.tbs.entries()) == written
    assert (read.tbs.number, read.tbs.key_identifier) == (number, identifier)
    assert (read.tbs.this_update, read.tbs.next_update) == (now, now)
    assert read.tbs.der == tbs
    assert meaning(crl) == {
        entry.serial: (entry.at, entry.reason.name, entry.invalidity_date) for entry in written
    }
