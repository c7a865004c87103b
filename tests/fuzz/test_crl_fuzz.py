"""Any octets as a CRL: read, or rejected; what is read says the same when written again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

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
from infra.errors import Rejected
from pki import der
from pki.algorithms import SIGNATURE_ALGORITHMS
from pki.status import RevocationReason
from tests.fuzz.octets import SECONDS, for_as_long_as_asked, mutated

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ALGORITHM = SIGNATURE_ALGORITHMS["ed25519"].identifier
SEED = assemble(
    build_tbs(
        issuer=der.sequence(
            der.set_of(der.sequence(der.object_identifier("2.5.4.3"), der.utf8_string("CA")))
        ),
        algorithm=ALGORITHM,
        this_update=NOW,
        next_update=NOW + timedelta(days=1),
        entries=[
            encode_entry(Entry(2**150 + 1, NOW, RevocationReason.keyCompromise, NOW)),
            encode_entry(Entry(7, datetime(2051, 1, 1, tzinfo=UTC))),
            encode_entry(Entry(8, NOW)),
        ],
        extensions=(authority_key_identifier(b"k" * 20), crl_number(9)),
    ),
    ALGORITHM,
    b"s" * 64,
)


def check(data: bytes) -> None:
    try:
        read = parse_crl(data)
    except Rejected:
        return
    assert read.count == len(list(read.tbs.entries()))
    assert assemble(read.tbs.der, read.algorithm, read.signature) == data


@settings(deadline=None, max_examples=300, derandomize=not SECONDS)
@given(mutated(SEED) | st.binary(max_size=300))
def fuzz(data: bytes) -> None:
    check(data)


def test_any_octets_are_read_or_rejected() -> None:
    assert parse_crl(SEED).count == 3
    for_as_long_as_asked(fuzz)
