"""Connections that ask nothing: slapd closes them, and the publisher does not mind."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.slapd.configuration import IDLE
from pki.directory.authorities import container_entries
from pki.directory.entries import Wanted
from pki.directory.ldap import LdapDirectory
from tests.contract.directory_fixtures import (
    TREE,
    differences,
    login,
    plain_entry,
    publishing,
    shown,
    world,
)
from tests.contract.slapd_fixtures import Server, running_slapd

ALICE, BOB = "CN=Alice Example,C=AQ", "CN=Bob Example,C=AQ"


@pytest.fixture(name="server")
def open_server(tmp_path: Path) -> Iterator[Server]:
    with running_slapd(tmp_path / "slapd", idle=1) as running:
        yield running


def wait_until_the_idle_are_closed(server: Server) -> None:
    """Returns when a connection that was made now has been closed, so that those before are."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as silent:
        assert silent.recv(1) == b""


def test_nobody_may_be_silent_for_long() -> None:
    assert 30 <= IDLE <= 60


def test_who_says_nothing_loses_the_connection_however_many_there_are(server: Server) -> None:
    address = ("127.0.0.1", server.port)
    silent = [socket.create_connection(address, timeout=30) for _ in range(50)]
    halfway = socket.create_connection(address, timeout=30)
    halfway.sendall(b"\x30\x0c\x02\x01")  # the beginning of a bind
    for each in (*silent, halfway):
        with each:
            assert each.recv(1) == b""
    assert "dn:" in server.search("(objectClass=*)", base="", scope="base")


def test_an_edge_that_was_cut_off_while_idle_connects_again(server: Server) -> None:
    directory = LdapDirectory(login(server))
    try:
        directory.ensure(container_entries(TREE))
        for number in range(3):
            wait_until_the_idle_are_closed(server)
            [outcome] = directory.apply([Wanted(plain_entry(number))])
            assert outcome.code == ""
        wait_until_the_idle_are_closed(server)
        assert len(directory.page(TREE.base, "(uid=*)", ("uid",), size=9, cookie=b"").entries) == 3
    finally:
        directory.close()


async def test_a_publisher_goes_on_and_reports_no_failure(tmp_path: Path, server: Server) -> None:
    async with world(tmp_path / "ca") as house:
        publisher = house.publisher(login(server))
        async with publishing(publisher):
            await house.issue(ALICE)
            await shown(publisher)
            wait_until_the_idle_are_closed(server)
            await house.issue(BOB)
            await shown(publisher)
            assert (await publisher.standing()).failures == 0
            wait_until_the_idle_are_closed(server)
            assert await differences(publisher, house.store) == []
