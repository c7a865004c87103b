"""Any octets as a CRL that was signed elsewhere, and as an issuing distribution point: taken over
or refused, by everything that reads them before a CRL is published."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from crl.encode import (
    assemble,
    authority_key_identifier,
    build_tbs,
    crl_number,
    encode_entry,
    extension,
)
from crl.imported import reach
from crl.making import Maker
from crl.scope import (
    OID_ISSUING_DISTRIBUTION_POINT,
    Contents,
    Scope,
    parse_issuing_distribution_point,
    point_value,
)
from crl.source import Part
from infra.errors import Rejected
from pki.algorithms import KeyType
from pki.crl_entry import Entry
from pki.status import RevocationReason
from tests.contract.crl_fixtures import DAY, NOW, authority
from tests.contract.crl_series_fixtures import Ledger
from tests.fuzz.octets import SECONDS, for_as_long_as_asked, mutated

URL = "http://crl.test/root.ca.crl"
CA = authority(ThreadPoolExecutor(1), KeyType.ED25519)
SCOPE = Scope("root", (Part("root", CA.issuer.subject),), url=URL, contents=Contents.authorities)
MAKER = Maker(SCOPE, CA.issuer, None)
POINT = point_value(SCOPE) or b""
SEED = build_tbs(
    issuer=CA.issuer.subject,
    algorithm=CA.signer.algorithm.identifier,
    this_update=NOW,
    next_update=NOW + DAY,
    entries=[
        encode_entry(Entry(2**150 + 1, NOW, RevocationReason.keyCompromise, NOW)),
        encode_entry(Entry(7, NOW)),
    ],
    extensions=(
        authority_key_identifier(CA.issuer.key_identifier),
        crl_number(9),
        extension(OID_ISSUING_DISTRIBUTION_POINT, POINT, critical=True),
    ),
)


def taken_over(tbs: bytes) -> bool:
    """Whether it is, when the CA's key has signed just these octets."""
    octets = assemble(tbs, CA.signer.algorithm.identifier, CA.key.sign(tbs))
    ledger = Ledger()
    ledger.revoke(7, NOW)
    try:
        read = MAKER.read(octets)
        found = asyncio.run(reach(ledger, SCOPE.parts, read.tbs))
    except Rejected:
        return False
    assert (read.tbs.der, read.tbs.issuer) == (tbs, CA.issuer.subject)
    assert found.sequence in (0, 1)
    assert 0 <= found.elsewhere <= read.count
    return True


@settings(deadline=None, max_examples=200, derandomize=not SECONDS)
@given(mutated(SEED) | st.binary(max_size=300))
def fuzz_crl(tbs: bytes) -> None:
    taken_over(tbs)


@settings(deadline=None, max_examples=300, derandomize=not SECONDS)
@given(mutated(POINT) | st.binary(max_size=100))
def fuzz_point(octets: bytes) -> None:
    try:
        read = parse_issuing_distribution_point(octets)
    except Rejected:
        return
    if len(read.urls) == 1:
        again = Scope("x", SCOPE.parts, read.urls[0], read.contents, read.indirect)
        assert len(point_value(again) or b"") <= len(octets)
        assert parse_issuing_distribution_point(point_value(again) or b"") == read


def test_any_octets_are_taken_over_or_refused() -> None:
    assert taken_over(SEED)
    for_as_long_as_asked(fuzz_crl)


def test_any_octets_are_an_issuing_distribution_point_or_refused() -> None:
    for_as_long_as_asked(fuzz_point)
