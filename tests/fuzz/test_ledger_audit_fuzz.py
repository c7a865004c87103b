"""Leaves and documents of somebody with the database file: they are judged, whatever they hold."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.store.sqlite import SqliteStore
from pki.account import Account, Standing, told_by
from pki.hierarchy import COLLECTIONS as HIERARCHY
from pki.ledger_audit import verify_ledger
from pki.log.log import COLLECTIONS as LOG
from pki.record import CERTIFICATES
from tests.faults.test_ledger_altered import ORIGIN, write_ledger

TEXT = st.text(max_size=30) | st.sampled_from(
    ["certificate.revoke", "certificate.issue", "2026-11-22T12:00:00.000000Z", "issuing", "01"]
)
VALUE = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT | st.binary(max_size=40)
DEEP = st.recursive(
    VALUE, lambda one: st.lists(one, max_size=3) | st.dictionaries(TEXT, one, max_size=3)
)
JSON = st.none() | st.booleans() | st.integers() | TEXT
LEAF = st.fixed_dictionaries(
    {
        "what": st.sampled_from(
            ["certificate.revoke", "certificate.hold", "certificate.issue", "certificate.x"]
        )
    },
    optional={
        "when": JSON,
        "id": JSON,
        "detail": JSON | st.dictionaries(st.sampled_from(["issuer", "serial", "reason"]), JSON),
    },
)


def octets_of(leaf: object) -> bytes:
    return json.dumps(leaf, separators=(",", ":")).encode()


@given(st.lists(st.binary(max_size=200) | LEAF.map(octets_of), max_size=20))
def test_any_leaf_is_taken_in_or_left(leaves: list[bytes]) -> None:
    account = Account(len(leaves), b"key")
    known = set()
    for index, leaf in enumerate(leaves):
        account.take(index, leaf)
        told = told_by(leaf)
        if told is not None and told.document is not None:
            known.add(told.document)
            assert account.newest(told.document) == index
    for document in known:
        account.agrees(document, b"a leaf", False, Standing())
        account.see(document)
    assert [leaf for leaf in account.unseen() if leaf is not None] == []


@pytest.fixture(autouse=True)
def _nothing_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """So there is nothing to wait for, a hundred times."""
    monkeypatch.setattr("pki.ledger_audit._PAUSE", 0.0)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ledger(tmp_path_factory.mktemp("ledger"))


FIELDS = [
    "ca", "serial", "state", "profile", "by", "der", "tbs", "revocation", "pending", "sequence",
    "issued_at", "changed_at", "not_after", "consent", "partition", "crl_entry", "crl_until",
    "key_hash", "void",
]  # fmt: skip
INSIDE = st.dictionaries(
    st.sampled_from(["at", "reason", "invalidity_date", "sequence", "act", "revocation"]), DEEP
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(1, 6), st.dictionaries(st.sampled_from(FIELDS), DEEP | INSIDE, min_size=1))
def test_any_document_is_judged(database: Path, serial: int, changes: dict[str, Any]) -> None:
    async def verified() -> set[str | None]:
        store = await SqliteStore.open(database, (CERTIFICATES, *LOG, *HIERARCHY))
        try:
            report = await verify_ledger(store, origin=ORIGIN, keys=[])
        finally:
            await store.close()
        return {one.certificate for one in report.findings}

    id = f"issuing/{serial:02x}"
    with closing(sqlite3.connect(database)) as file, file:
        ((body,),) = file.execute("SELECT body FROM c_certificates WHERE id = ?", (id,))
        altered = msgspec.msgpack.encode(msgspec.msgpack.decode(body) | changes)
        file.execute("UPDATE c_certificates SET body = ? WHERE id = ?", (altered, id))
    try:
        assert asyncio.run(verified()) <= {id}
    finally:
        with closing(sqlite3.connect(database)) as file, file:
            file.execute("UPDATE c_certificates SET body = ? WHERE id = ?", (body, id))
