"""CRLs that were signed elsewhere, as in a ceremony: what is taken over, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from crl.awaited import Awaited
from crl.encode import parse_crl
from crl.scope import Contents
from crl.series import Series
from infra.errors import Rejected
from pki.algorithms import KeyType
from pki.status import RevocationReason
from tests.contract.crl_fixtures import DAY, authority
from tests.contract.crl_series_fixtures import House, Ledger, open_house_store


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
async def house(tmp_path: Path, threads: ThreadPoolExecutor) -> AsyncIterator[House]:
    store = await open_house_store(tmp_path)
    yield House(authority(threads), store, tmp_path / "crl")
    await store.close()


def ceremony(house: House, number: int, *, delta: bool = False, serial: int = 7) -> bytes:
    """A CRL that the root signed where its key is kept."""
    now = house.clock.at
    ca = house.authority
    revoked = x509.RevokedCertificateBuilder(serial, now).build()
    builder = (
        x509.CertificateRevocationListBuilder(
            ca.certificate.subject, now, now + 300 * DAY, revoked_certificates=[revoked]
        )
        .add_extension(
            x509.AuthorityKeyIdentifier(ca.issuer.key_identifier, None, None), critical=False
        )
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.IssuingDistributionPoint(None, None, False, True, None, False, False),
            critical=True,
        )
    )
    if delta:
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    return builder.sign(ca.key, hashes.SHA256()).public_bytes(Encoding.DER)


def offline(house: House) -> Series:
    series = house.series(house.scope("root", contents=Contents.authorities))
    series._maker._signer = None
    return series


async def test_an_authority_revocation_list_is_adopted(house: House) -> None:
    series = offline(house)
    made = await series.adopt(ceremony(house, 41))
    assert (made.number, made.count, made.read()) == (41, 1, ceremony_octets(made.path))
    assert series.current() == made
    again = offline(house)
    assert await again.recover() == []
    assert again.current() == made
    with pytest.raises(Rejected, match="no-crl-key"):
        await series.issue_full()


def ceremony_octets(path: Path) -> bytes:
    parse_crl(path.read_bytes())
    return path.read_bytes()


async def test_what_is_not_the_next_one_of_the_series_is_not_adopted(
    house: House, threads: ThreadPoolExecutor
) -> None:
    series = offline(house)
    good = ceremony(house, 41)
    await series.adopt(good)
    other = replace(house, authority=authority(threads, KeyType.P_384))
    for octets, code in (
        (good, "crl-number-used"),
        (ceremony(house, 40), "crl-number-used"),
        (ceremony(house, 50, delta=True), "wrong-crl-scope"),
        (ceremony(other, 50), "wrong-crl-issuer"),
        (good[:-1] + bytes((good[-1] ^ 1,)), "bad-signature"),
        (good[:-1], "bad-der"),
    ):
        with pytest.raises(Rejected, match=code):
            await series.adopt(octets)
    house.clock.at -= DAY
    with pytest.raises(Rejected, match="crl-out-of-date"):
        await series.adopt(ceremony(house, 51))
    house.clock.at += 2 * DAY
    with pytest.raises(Rejected, match="wrong-crl-scope"):
        await house.series(house.scope("other")).adopt(ceremony(house, 52))
    assert series.current().number == 41


async def test_what_is_adopted_agrees_with_the_ledger(house: House) -> None:
    ledger, now = house.ledger, house.clock.at
    scope = house.scope("root", contents=Contents.authorities)
    ledger.issue(7)
    series = house.series(scope)
    with pytest.raises(Rejected, match=r"07: revoke them here first"):
        await series.adopt(ceremony(house, 41))
    ledger.revoke(7, now - DAY, RevocationReason.keyCompromise)
    with pytest.raises(Rejected, match=r"another reason.*07"):
        await series.adopt(ceremony(house, 41))
    house.ledger = ledger = Ledger()
    ledger.revoke(7, now - DAY)
    ledger.revoke(8, now - DAY)
    series = house.series(scope)
    with pytest.raises(Rejected, match=r"not listed, 08"):
        await series.adopt(ceremony(house, 41))
    house.ledger = ledger = Ledger()
    ledger.revoke(7, now - DAY)
    ledger.issue(8, now - DAY)
    ledger.revoke(8, now - 2 * DAY)  # it has expired since
    ledger.revoke(9, now + DAY)  # after the ceremony
    ledger.revoke(10, now + DAY)
    made = await house.series(scope).adopt(ceremony(house, 41))
    assert made.sequence == 2
    # A number is not lost by what was refused.
    assert made.number == 41


async def test_a_hold_that_has_ended_is_not_adopted(house: House) -> None:
    scope = house.scope("root", contents=Contents.authorities)
    house.ledger.hold(7, house.clock.at - DAY)
    house.ledger.release(7, house.clock.at - DAY / 2)
    with pytest.raises(Rejected, match=r"07: revoke them here first"):
        await house.series(scope).adopt(ceremony(house, 41))


async def test_what_is_signed_elsewhere_is_called_for(house: House) -> None:
    series = offline(house)
    awaited = Awaited(series, house.clock, overlap=DAY)
    await awaited.start(0)
    assert awaited.failing == "no-crl-yet"
    await series.adopt(ceremony(house, 41))
    assert awaited.failing is None
    awaited.changed(3)
    assert awaited.failing == "crl-import-due"
    await awaited.start(0)
    assert awaited.failing is None
    house.clock.at += 299.5 * DAY
    assert awaited.failing == "crl-import-due"
    await awaited.caught_up(9)
    await awaited.stop()
    assert awaited.failures == 0
