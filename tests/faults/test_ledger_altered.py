"""What someone with the database file can do to a certificate's document: the log tells of it."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from infra.clock import SystemClock
from infra.errors import Rejected, Unavailable
from infra.store.port import Collection, Document, Stored
from infra.store.sqlite import SqliteStore
from pki.hierarchy import COLLECTIONS as HIERARCHY
from pki.ledger import Ledger
from pki.ledger_audit import verify_ledger
from pki.log.evidence import Report
from pki.log.log import COLLECTIONS as LOG
from pki.record import CERTIFICATES
from pki.serial import SerialNumber
from pki.status import RevocationReason
from tests.contract.feed_fixtures import CERTIFICATE, World, world
from tests.contract.log_fixtures import Tampering

ORIGIN = "log.example/ca"
BY = "test"
COMPROMISE = RevocationReason.keyCompromise
SUPERSEDED = RevocationReason.superseded
GOOD, REVOKED, HELD, RELEASED, HELD_THEN_REVOKED, VOID = 1, 2, 3, 4, 5, 6


async def verified(path: Path) -> Report:
    store = await SqliteStore.open(path, (CERTIFICATES, *LOG, *HIERARCHY))
    try:
        return await verify_ledger(store, origin=ORIGIN, keys=[])
    finally:
        await store.close()


async def fill(house: World) -> None:
    await house.issue(5)
    assert await house.void() == VOID
    for serial in (REVOKED, HELD_THEN_REVOKED):
        if serial == HELD_THEN_REVOKED:
            await house.ledger.hold("issuing", SerialNumber(serial), by=BY)
        await house.ledger.revoke("issuing", SerialNumber(serial), reason=COMPROMISE, by=BY)
    for serial in (HELD, RELEASED):
        await house.ledger.hold("issuing", SerialNumber(serial), by=BY)
    await house.ledger.release("issuing", SerialNumber(RELEASED), by=BY)
    await house.ledger.remember()


def write_ledger(folder: Path) -> Path:
    """A database with a certificate in each state."""

    async def write() -> None:
        async with world(folder) as house:
            await fill(house)

    asyncio.run(write())
    return folder / "state.sqlite"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ledger(tmp_path_factory.mktemp("written"))


class Ledgerer(Tampering):
    """Someone who alters certificates."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def of(self, serial: int) -> dict[str, Any]:
        return self.body(CERTIFICATES, f"issuing/{serial:02x}")

    def put(self, serial: int, **changes: object) -> None:
        """``None`` removes a field; the indexes follow, as they would in the product."""
        body = self.of(serial) | changes
        body = {name: value for name, value in body.items() if value is not None}
        with closing(sqlite3.connect(self.path)) as file, file:
            columns = [
                name
                for _, name, *_ in file.execute("PRAGMA table_info(c_certificates)")
                if name.startswith("f_")
            ]
            sets = ", ".join(f"{column} = ?" for column in columns)
            values = [body.get(column.removeprefix("f_")) for column in columns]
            file.execute(
                f"UPDATE c_certificates SET body = ?, {sets} WHERE id = ?",  # noqa: S608
                (msgspec.msgpack.encode(body), *values, f"issuing/{serial:02x}"),
            )

    def column(self, serial: int, column: str, value: object) -> None:
        sql = f"UPDATE c_certificates SET {column} = ? WHERE id = ?"  # noqa: S608
        self._run(sql, value, f"issuing/{serial:02x}")


@pytest.fixture
def altering(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Ledgerer, Callable[[], Report]]:
    monkeypatch.setattr("pki.ledger_audit._PAUSE", 0.0)  # nothing is under way
    copy = tmp_path / "state.sqlite"
    shutil.copy(written, copy)

    def verify() -> Report:
        return asyncio.run(verified(copy))

    report = verify()
    assert (report.findings, report.certificates, report.unfinished) == ((), 6, 0)
    return Ledgerer(copy), verify


NOTHING = {
    "revocation": None, "compromised_key": None, "crl_part": None, "crl_serial": None,
    "crl_until": None, "crl_entry": None,
}  # fmt: skip


def revocation(body: dict[str, Any], **changes: object) -> dict[str, object]:
    found: dict[str, object] = body["revocation"]
    return found | changes


def take_the_revocation_out(who: Ledgerer) -> tuple[str, int]:
    who.put(REVOKED, **NOTHING)
    return "status-altered", REVOKED


def take_a_hold_out(who: Ledgerer) -> tuple[str, int]:
    who.put(HELD, **NOTHING)
    return "status-altered", HELD


def put_on_hold_what_was_released(who: Ledgerer) -> tuple[str, int]:
    who.put(RELEASED, revocation=who.of(HELD)["revocation"])
    return "status-altered", RELEASED


def revoke_without_a_leaf(who: Ledgerer) -> tuple[str, int]:
    who.put(GOOD, revocation=who.of(REVOKED)["revocation"])
    return "status-altered", GOOD


def make_it_a_hold_that_can_be_released(who: Ledgerer) -> tuple[str, int]:
    who.put(REVOKED, revocation=revocation(who.of(REVOKED), reason=6))
    return "reason-altered", REVOKED


def soften_the_reason(who: Ledgerer) -> tuple[str, int]:
    who.put(REVOKED, revocation=revocation(who.of(REVOKED), reason=4))
    return "reason-altered", REVOKED


def move_the_time(who: Ledgerer) -> tuple[str, int]:
    at = who.of(REVOKED)["revocation"]["at"]
    who.put(REVOKED, revocation=revocation(who.of(REVOKED), at=at + 3_600_000_000))
    return "revocation-time-altered", REVOKED


def move_the_time_of_what_was_on_hold(who: Ledgerer) -> tuple[str, int]:
    at = who.of(HELD_THEN_REVOKED)["revocation"]["at"]
    changed = revocation(who.of(HELD_THEN_REVOKED), at=at + 1_000_000)
    who.put(HELD_THEN_REVOKED, revocation=changed)
    return "revocation-time-altered", HELD_THEN_REVOKED


def put_another_certificate_there(who: Ledgerer) -> tuple[str, int]:
    who.put(GOOD, der=b"another certificate")
    return "certificate-altered", GOOD


def consent_for_the_holder(who: Ledgerer) -> tuple[str, int]:
    who.put(GOOD, consent=True)
    return "certificate-altered", GOOD


def say_that_it_was_never_issued(who: Ledgerer) -> tuple[str, int]:
    who.put(REVOKED, state="void", void="interrupted", **NOTHING)
    return "certificate-altered", REVOKED


def make_it_an_intent_again(who: Ledgerer) -> tuple[str, int]:
    who.put(REVOKED, state="intended", **NOTHING)
    return "certificate-altered", REVOKED


def issue_what_was_void(who: Ledgerer) -> tuple[str, int]:
    who.put(VOID, state="issued", der=CERTIFICATE, issued_at=1, void=None)
    return "certificate-altered", VOID


def break_it(who: Ledgerer) -> tuple[str, int]:
    who.put(REVOKED, state="fine")
    return "certificate-altered", REVOKED


def break_its_reason(who: Ledgerer) -> tuple[str, int]:
    who.put(REVOKED, revocation={"at": "yesterday"})
    return "certificate-altered", REVOKED


def remove_it(who: Ledgerer) -> tuple[str, int]:
    who.remove(CERTIFICATES, f"issuing/{REVOKED:02x}")
    return "certificate-missing", REVOKED


def move_it_elsewhere(who: Ledgerer) -> tuple[str, int]:
    who.rename(CERTIFICATES, f"issuing/{REVOKED:02x}", "issuing/77")
    return "certificate-missing", REVOKED


def keep_it_off_the_crl(who: Ledgerer) -> tuple[str, int]:
    fields = dict.fromkeys(("crl_part", "crl_serial", "crl_until", "crl_entry"))
    who.put(REVOKED, **fields)
    return "crl-entry-altered", REVOKED


def let_it_end_early_on_the_crl(who: Ledgerer) -> tuple[str, int]:
    who.put(REVOKED, crl_until=1)
    return "crl-entry-altered", REVOKED


def keep_it_out_of_the_index_alone(who: Ledgerer) -> tuple[str, int]:
    who.column(REVOKED, "f_crl_entry", None)
    return "crl-entry-altered", REVOKED


def free_the_compromised_key(who: Ledgerer) -> tuple[str, int]:
    who.put(REVOKED, compromised_key=None)
    return "crl-entry-altered", REVOKED


def hide_the_leaf_from_the_index(who: Ledgerer) -> tuple[str, int]:
    who.put(REVOKED, **NOTHING)
    with closing(sqlite3.connect(who.path)) as file, file:
        file.execute("UPDATE c_log_leaves SET f_act = NULL WHERE f_act LIKE 'revoke/issuing/02/%'")
    return "act-altered", REVOKED


def let_a_release_be_pending(who: Ledgerer) -> tuple[str, int]:
    """Its act is the one that is in the log: the next start would make it good."""
    leaf = next(
        bytes(who.leaf(index)["leaf"])  # type: ignore[call-overload]
        for index in range(20)
        if b"certificate.revoke" in bytes(who.leaf(index)["leaf"])  # type: ignore[call-overload]
    )
    pending = {"revocation": None, "act": leaf}
    who.put(REVOKED, **NOTHING, pending=pending, unfinished_since=1)
    return "status-altered", REVOKED


@pytest.mark.parametrize(
    "alter",
    [
        take_the_revocation_out, take_a_hold_out, put_on_hold_what_was_released,
        revoke_without_a_leaf, make_it_a_hold_that_can_be_released, soften_the_reason,
        move_the_time, move_the_time_of_what_was_on_hold, put_another_certificate_there,
        consent_for_the_holder, say_that_it_was_never_issued, make_it_an_intent_again,
        issue_what_was_void, break_it, break_its_reason, remove_it, move_it_elsewhere,
        keep_it_off_the_crl, let_it_end_early_on_the_crl, keep_it_out_of_the_index_alone,
        free_the_compromised_key, hide_the_leaf_from_the_index, let_a_release_be_pending,
    ],
)  # fmt: skip
def test_an_altered_certificate_is_named(
    altering: tuple[Ledgerer, Callable[[], Report]], alter: Callable[[Ledgerer], tuple[str, int]]
) -> None:
    who, verify = altering
    code, serial = alter(who)
    report = verify()
    assert not report.ok
    found, *more = report.findings
    assert (found.code, found.certificate) == (code, f"issuing/{serial:02x}"), found
    assert {one.certificate for one in more} <= {"issuing/77"}
    assert found.detail
    # The log itself is as it was.
    assert report.first_altered is None


def test_a_certificate_without_a_leaf(altering: tuple[Ledgerer, Callable[[], Report]]) -> None:
    who, verify = altering
    body = who.of(GOOD) | {"serial": "77", "key_hash": b"planted"}
    with closing(sqlite3.connect(who.path)) as file, file:
        file.execute(
            "INSERT INTO c_certificates (id, version, body) VALUES ('issuing/77', 2, ?)",
            (msgspec.msgpack.encode(body),),
        )
    [found] = verify().findings
    assert (found.code, found.certificate) == ("certificate-unlogged", "issuing/77")


def test_what_an_altered_log_says_of_certificates_is_no_evidence(
    altering: tuple[Ledgerer, Callable[[], Report]],
) -> None:
    who, verify = altering
    leaf: Any = who.leaf(3)["leaf"]
    who.alter_leaf(3, leaf=leaf.replace(b'"who":"test"', b'"who":"tess"'))
    report = verify()
    assert [one.code for one in report.findings] == ["leaf-altered"]
    assert report.certificates == 0


def test_no_more_is_looked_at_than_can_be_reported(tmp_path: Path) -> None:
    async def write() -> None:
        async with world(tmp_path) as house:
            await house.issue(300)
            await house.ledger.remember()

    asyncio.run(write())
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as file, file:
        file.execute("DELETE FROM c_certificates")
    report = asyncio.run(verified(tmp_path / "state.sqlite"))
    assert len(report.findings) == 100
    assert {one.code for one in report.findings} == {"certificate-missing"}
    starts = [one.start for one in report.findings]
    assert starts == sorted(starts, key=lambda start: start or 0)


# What is under way, and what was interrupted


@pytest.fixture(name="house")
async def open_world(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        yield made


async def audit(house: World) -> Report:
    return await verify_ledger(house.store, origin=ORIGIN, keys=[])


async def test_intents_and_changes_that_were_interrupted_are_no_finding(
    house: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.issue(4)
    await house._intend("issuing")
    await house.ledger.hold("issuing", SerialNumber(3), by=BY)
    replace, append = house.store.replace, house.log.append

    class Full(Unavailable):
        pass

    async def no_change(collection: Collection, before: Stored, body: Document) -> Stored:
        if "pending" in before.body:
            raise Full("storage-full", "no room")
        return await replace(collection, before, body)

    async def no_leaf(act: object) -> int:
        raise Full("storage-full", "no room")

    monkeypatch.setattr(house.store, "replace", no_change)
    for serial in (1, 3):  # logged, not made
        with suppress(Full):
            await house.ledger.revoke("issuing", SerialNumber(serial), reason=COMPROMISE, by=BY)
    monkeypatch.setattr(house.log, "append", no_leaf)
    with suppress(Full):  # not even logged
        await house.ledger.revoke("issuing", SerialNumber(2), reason=COMPROMISE, by=BY)
    monkeypatch.undo()
    report = await audit(house)
    assert (report.findings, report.unfinished, report.certificates) == ((), 3, 5)
    await Ledger.open(house.store, house.log, SystemClock(), intent_key=bytes(32))
    report = await audit(house)
    assert (report.findings, report.unfinished) == ((), 0)
    assert append is not no_leaf


async def test_a_certificate_whose_leaf_waits_for_the_next_start_is_no_finding(
    house: World,
) -> None:
    """As when two processes write to one log and one is killed between its change and its leaf."""
    await house.issue(3)
    record = await house._intend("issuing")
    body = {k: v for k, v in record.stored.body.items() if k not in ("tbs", "unfinished_since")}
    at = house.ledger.now()
    micros = int(at.timestamp()) * 1_000_000
    body |= {"state": "issued", "der": CERTIFICATE, "sequence": 4}
    await house.store.replace(
        CERTIFICATES, record.stored, body | {"issued_at": micros, "changed_at": micros}
    )
    report = await audit(house)
    assert (report.findings, report.unfinished) == ((), 1)
    ledger = await Ledger.open(house.store, house.log, SystemClock(), intent_key=bytes(32))
    await ledger.remember()
    report = await audit(house)
    assert (report.findings, report.unfinished) == ((), 0)


async def test_a_service_at_work_gives_no_false_alarm(house: World) -> None:
    """Replays one after the other, while certificates are issued, held, released and revoked."""
    await house.issue(300)
    random, stop = Random(4), asyncio.Event()

    async def clerk() -> None:
        while not stop.is_set():
            await house.issue(1)

    async def officer() -> None:
        while not stop.is_set():
            await asyncio.sleep(0)  # to refuse is no wait
            serial = SerialNumber(random.choice(house.serials))
            with suppress(Rejected):
                match random.randrange(8):
                    case 0:
                        await house.ledger.revoke("issuing", serial, reason=SUPERSEDED, by=BY)
                    case 1:
                        await house.ledger.release("issuing", serial, by=BY)
                    case _:
                        await house.ledger.hold("issuing", serial, by=BY)

    async def chores() -> None:
        while not stop.is_set():
            await house.ledger.remember()
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(one()) for one in (clerk, clerk, *[officer] * 8, chores)]
    try:
        for _ in range(12):
            report = await audit(house)
            assert report.findings == ()
            assert report.certificates >= 300
            await asyncio.sleep(0)
    finally:
        stop.set()
        await asyncio.gather(*tasks)
    report = await audit(house)
    assert (report.findings, report.unfinished) == ((), 0)
    assert report.certificates == len(house.serials)


async def test_what_is_altered_while_the_service_works_is_found(house: World) -> None:
    await house.issue(20)
    await house.ledger.revoke("issuing", SerialNumber(7), reason=COMPROMISE, by=BY)
    stop = asyncio.Event()

    async def clerk() -> None:
        while not stop.is_set():
            await house.issue(1)

    task = asyncio.create_task(clerk())
    try:
        stored = await house.store.get(CERTIFICATES, "issuing/07")
        assert stored is not None
        body = {name: value for name, value in stored.body.items() if name not in NOTHING}
        await house.store.replace(CERTIFICATES, stored, body)
        found, *more = (await audit(house)).findings
        assert more == []
        assert (found.code, found.certificate) == ("status-altered", "issuing/07")
    finally:
        stop.set()
        await task
