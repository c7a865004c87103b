"""State folders of version 0.1: what was revoked stays listed, and CRL numbers go on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cli.compose import COLLECTIONS, running
from conf.load import load
from crl.encode import parse_crl
from crl.from_ledger import FromLedger
from crl.history import Kind
from crl.scope import Scope
from crl.series import Series
from crl.source import Part
from crl.surroundings import Surroundings
from crl.terms import Terms
from infra.clock import FixedClock
from infra.errors import Rejected
from infra.store.port import Document
from infra.store.sqlite import SqliteStore
from pki.crl_entry import Entry
from pki.ledger import DOCUMENTS, DOCUMENTS_CURSOR, Ledger
from pki.log.log import Log
from pki.record import CERTIFICATES, document_id, micros, revocation_body
from pki.serial import format_serial
from pki.status import RevocationReason, Revoked
from tests.contract.crl_fixtures import DAY, NOW, Acts, authority, sha256


def as_it_was(serial: int, sequence: int, status: Revoked | None, *, changed: bool) -> Document:
    """A document of version 0.1, which had no fields for CRLs."""
    body: Document = {
        "ca": "issuing", "serial": format_serial(serial), "state": "issued", "der": b"c",
        "subject": f"CN={serial}", "profile": "p", "by": "test", "request_hash": b"",
        "key_hash": bytes([serial]), "key_number": 0, "not_before": micros(NOW - DAY),
        "not_after": micros(NOW + DAY), "issued_at": micros(NOW - DAY),
        "sequence": sequence, "changed_at": micros(NOW),
    }  # fmt: skip
    if changed:
        body["changed_by"] = "issuing"
    if status is not None:
        body["revocation"] = (revocation_body(status) or {}) | {"sequence": sequence}
    return body


async def test_what_was_revoked_before_stays_listed(tmp_path: Path) -> None:
    revoked = Revoked(NOW, RevocationReason.keyCompromise, NOW - DAY, 3)
    store = await SqliteStore.open(tmp_path / "s.sqlite", COLLECTIONS)
    try:
        for serial, sequence, status, changed in (
            (1, 1, None, False),
            (2, 3, revoked, True),
            (3, 4, None, True),  # was on hold, and released
        ):
            body = as_it_was(serial, sequence, status, changed=changed)
            await store.insert(CERTIFICATES, document_id("issuing", serial), body)
        clock = FixedClock(NOW + DAY)
        log = await Log.open(store, origin="test", clock=clock)
        ledger = await Ledger.open(store, log, clock, intent_key=bytes(32))
        source = FromLedger(ledger, store)
        part = Part("issuing", b"")
        rows = [row async for page in source.by_serial(part) for row in page]
        assert [(row[0], row[1]) for row in rows] == [(b"\x02", 3), (b"\x03", 4)]
        assert await ledger.status_sequence("issuing") == 4
        assert await store.cursor(DOCUMENTS_CURSOR) == DOCUMENTS
        with ThreadPoolExecutor(1) as threads:
            ca = authority(threads)
            around = Surroundings(source, store, tmp_path / "crl", FixedClock(NOW), Acts(), "test")
            scope = Scope("issuing", (Part("issuing", ca.issuer.subject),))
            full = await Series(scope, ca.issuer, ca.signer, around, Terms()).issue_full()
        assert list(parse_crl(full.read()).tbs.entries()) == [
            Entry(2, NOW, RevocationReason.keyCompromise, NOW - DAY)
        ]
        # Done once: what is opened again is left alone.
        stored = await store.get(CERTIFICATES, document_id("issuing", 2))
        await Ledger.open(store, log, clock, intent_key=bytes(32))
        assert await store.get(CERTIFICATES, document_id("issuing", 2)) == stored
    finally:
        await store.close()


async def test_a_migration_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "s.sqlite", COLLECTIONS)
    try:
        revoked = Revoked(NOW, RevocationReason.superseded, None, 1)
        for serial in (1, 2):
            body = as_it_was(serial, serial, revoked, changed=True)
            await store.insert(CERTIFICATES, document_id("issuing", serial), body)
        clock = FixedClock(NOW + DAY)
        log = await Log.open(store, origin="test", clock=clock)
        first = await store.get(CERTIFICATES, document_id("issuing", 1))
        await Ledger.open(store, log, clock, intent_key=bytes(32))
        second = await store.get(CERTIFICATES, document_id("issuing", 2))
        assert first is not None
        assert second is not None
        # As if the process had ended between the two, before it noted that it was done.
        await store.replace(CERTIFICATES, second, as_it_was(2, 2, revoked, changed=True))
        cut = await SqliteStore.open(tmp_path / "t.sqlite", COLLECTIONS)
        async for stored in store.scan(CERTIFICATES):
            await cut.insert(CERTIFICATES, stored.id, stored.body)
        try:
            again = await Ledger.open(
                cut, await Log.open(cut, origin="t", clock=clock), clock, intent_key=bytes(32)
            )
            part = Part("issuing", b"")
            found = [row async for page in FromLedger(again, cut).by_serial(part) for row in page]
            assert [row[0] for row in found] == [b"\x01", b"\x02"]
        finally:
            await cut.close()
    finally:
        await store.close()


async def test_numbers_and_times_go_on_behind_those_of_before(tmp_path: Path) -> None:
    settings = load(tmp_path, {}, {"keys.store": "file", "crl.delta": "true"}).settings
    store = await SqliteStore.open(settings.store.path, COLLECTIONS)
    ahead = 9_000_000_000_000  # a number beyond the clock
    from cli.service.crls import COLLECTIONS as CRLS

    [former] = [one for one in CRLS if one.name == "crls"]
    [former_octets] = [one for one in CRLS if one.name == "crl_octets"]
    octets = b"a CRL of version 0.1"
    for number, state in ((ahead - 1, "void"), (ahead, "published")):
        body: Document = {
            "issuer": "issuing", "number": number, "state": state, "sequence": 1, "count": 3,
            "this_update": 1_700_000_000, "next_update": 1_700_600_000,
            "tbs_hash": b"", "sha256": sha256(octets),
        }  # fmt: skip
        await store.insert(former, f"issuing/{number:020}", body)
    await store.insert(former_octets, f"issuing/{ahead:020}", {"der": octets})
    await store.close()
    async with running(settings, create=True, serving=False) as instance:
        series = instance.crls.of("issuing").series
        full, delta = series.current(), series.current(Kind.delta)
        assert (full.number, delta.number, delta.base) == (ahead + 1, ahead + 2, ahead + 1)
        assert instance.crls.of("root").series.current().number < ahead
        # What was published then is found by its number, again after its file is lost.
        for _ in range(2):
            found = await series.by_number(ahead)
            assert (found.read(), found.sha256, found.count) == (octets, sha256(octets), 3)
            found.path.unlink()
        with pytest.raises(Rejected, match="no-such-crl"):
            await series.by_number(ahead - 1)
        with pytest.raises(Rejected, match="no-such-crl"):
            await instance.crls.of("root").series.by_number(ahead)
        listed = [one.body["number"] for one in await series.latest(limit=10)]
        assert listed == [ahead + 2, ahead + 1, ahead, ahead - 1]
        assert [one.body["number"] for one in await series.latest(limit=1, before=ahead)] == [
            ahead - 1
        ]
