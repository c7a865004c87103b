"""Somebody alters the log, or a certificate, in the database: ``digitalid log verify`` names it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.journeys.product import Product


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Product:
    product = Product(tmp_path_factory.mktemp("home"), keys="file")
    product.cli("init")
    product.issue("alice", "/C=AQ/CN=Alice", "citizen-authentication")
    note = product.cli("log", "checkpoint", "--sign")
    (product.home / "kept.txt").write_text(note)
    bob = product.issue("bob", "/C=AQ/CN=Bob", "citizen-authentication")
    product.cli("cert", "revoke", bob, "--reason", "keyCompromise")
    note = product.cli("log", "checkpoint", "--sign")
    (product.home / "later.txt").write_text(note)
    assert product.json("log", "verify")["ok"] is True
    return product


def alter_leaf(database: sqlite3.Connection) -> int | None:
    (body,) = database.execute("SELECT body FROM c_log_leaves WHERE id LIKE '%3'").fetchone()
    altered = body.replace(b'"who":"system"', b'"who":"sysadm"')
    assert altered != body
    database.execute("UPDATE c_log_leaves SET body = ? WHERE id LIKE '%3'", (altered,))
    return 3


def remove_leaf(database: sqlite3.Connection) -> int | None:
    database.execute("DELETE FROM c_log_leaves WHERE id LIKE '%5'")
    return 5


def swap_leaves(database: sqlite3.Connection) -> int | None:
    rows = database.execute("SELECT position, body FROM c_log_leaves WHERE id LIKE '%4'").fetchall()
    others = database.execute(
        "SELECT position, body FROM c_log_leaves WHERE id LIKE '%6'"
    ).fetchall()
    for (position, _), (_, body) in ((rows[0], others[0]), (others[0], rows[0])):
        database.execute("UPDATE c_log_leaves SET body = ? WHERE position = ?", (body, position))
    return 4


def cut_off_the_end(database: sqlite3.Connection) -> int | None:
    database.execute("DELETE FROM c_log_leaves WHERE position > 4")
    database.execute("DELETE FROM c_log_checkpoints")
    return None


@pytest.mark.parametrize("alter", [alter_leaf, remove_leaf, swap_leaves, cut_off_the_end])
def test_an_altered_log_is_found_out(
    kept: Product, tmp_path: Path, alter: Callable[[sqlite3.Connection], int | None]
) -> None:
    home = tmp_path / "home"
    shutil.copytree(kept.home, home, ignore=shutil.ignore_patterns("*.sock"))
    product = Product(home, keys="file")
    with sqlite3.connect(home / "ledger.sqlite") as database:
        first = alter(database)
    database.close()
    report = product.json("log", "verify", "--checkpoint", home / "kept.txt", code=1)
    assert report["ok"] is False
    assert report["findings"]
    if first is not None:
        assert report["first_altered"] == first


def take_out_the_revocation(database: sqlite3.Connection) -> str:
    """As the product would have written it, had it never been revoked."""
    rows = database.execute("SELECT position, id, body FROM c_certificates").fetchall()
    ((position, id, body),) = [row for row in rows if b"revocation" in row[2]]
    kept = {
        name: value
        for name, value in msgspec.msgpack.decode(body).items()
        if name not in ("revocation", "compromised_key") and not name.startswith("crl")
    }
    database.execute(
        "UPDATE c_certificates SET body = ?, f_compromised_key = NULL, f_crl_part = NULL, "
        "f_crl_serial = NULL, f_crl_until = NULL, f_crl_entry = NULL WHERE position = ?",
        (msgspec.msgpack.encode(kept), position),
    )
    return str(id)


@pytest.mark.parametrize("serving", [False, True])
def test_a_revocation_that_was_taken_out_is_found_out(
    kept: Product, tmp_path: Path, serving: bool
) -> None:
    home = tmp_path / "home"
    shutil.copytree(kept.home, home, ignore=shutil.ignore_patterns("*.sock"))
    product = Product(home, keys="file")
    with sqlite3.connect(home / "ledger.sqlite") as database:
        certificate = take_out_the_revocation(database)
    database.close()
    if serving:
        product.start()
    try:
        report = product.json("log", "verify", "--checkpoint", home / "later.txt", code=1)
        [found] = report["findings"]
        assert (found["code"], found["certificate"]) == ("status-altered", certificate)
        assert report["certificates"] > 2
        assert report["first_altered"] is None
        said = product.cli("log", "verify", code=1)
        assert "The ledger was ALTERED" in said
        assert f"status-altered: certificate {certificate} is good; leaf" in said
    finally:
        if serving:
            assert product.stop() == 0
