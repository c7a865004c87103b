"""A private slapd: its identities, its limits, its data across deaths, its copies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.slapd_fixtures import PASSWORD, SUFFIX, WRITER, Server, running_slapd
from tests.journeys.product import run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running_slapd(tmp_path / "slapd") as running:
        yield running


def whoami(url: str, *words: str | Path, under: tuple[str, ...] = (), ok: bool = True) -> str:
    return run(*under, "ldapwhoami", "-H", url, *words, ok=ok).decode()


def with_ca(server: Server, *more: str) -> tuple[str, ...]:
    return ("env", f"LDAPTLS_CACERT={server.ca}", *more)


def test_the_writer_comes_by_socket_password_or_certificate(server: Server) -> None:
    writer = f"dn:{WRITER}".lower()
    simple = ("-x", "-D", WRITER, "-w", PASSWORD)
    client = with_ca(
        server,
        f"LDAPTLS_CERT={server.client_certificate}",
        f"LDAPTLS_KEY={server.client_key}",
    )
    external = ("-Q", "-Y", "EXTERNAL")
    assert writer in whoami(server.ldapi, *external).lower()
    assert writer in whoami(server.ldapi, *simple).lower()
    assert writer in whoami(server.ldaps, *simple, under=with_ca(server)).lower()
    assert writer in whoami(server.ldap, "-ZZ", *simple, under=with_ca(server)).lower()
    assert writer in whoami(server.ldaps, *external, under=client).lower()
    assert writer in whoami(server.ldap, "-ZZ", *external, under=client).lower()


def test_a_password_in_clear_a_wrong_one_and_a_foreign_ca_are_refused(server: Server) -> None:
    assert "onfidentiality required" in whoami(
        server.ldap, "-x", "-D", WRITER, "-w", PASSWORD, ok=False
    )
    assert "nvalid credentials" in whoami(server.ldapi, "-x", "-D", WRITER, "-w", "wrong", ok=False)
    foreign = ("env", f"LDAPTLS_CACERT={server.other_ca}")
    assert "an't contact LDAP server" in whoami(server.ldaps, "-x", under=foreign, ok=False)


def test_anybody_reads_some_entries_and_writes_none(tmp_path: Path) -> None:
    with running_slapd(tmp_path / "slapd", most_entries=3) as server:
        server.add_root()
        for number in range(5):
            server.add(f"dn: cn={number},{SUFFIX}\nobjectClass: organizationalRole\ncn: {number}\n")
        search = ("ldapsearch", "-x", "-LLL", "-H", server.ldap, "-b", SUFFIX)
        found = run(*search, "(|(cn=1)(cn=3))", "cn", ok=False).decode()
        assert found.count("dn:") == 2
        for many in ("(cn=*)", "(|(cn=0)(cn=1)(cn=2)(cn=3))"):
            found = run(*search, many, "cn", ok=False).decode()
            assert found.count("dn:") == 0 and "Administrative limit exceeded" in found
            paged = run(*search, "-E", "pr=2/noprompt", many, "cn", ok=False).decode()
            assert paged.count("dn:") == 0, "pages do not go round the limit"
        everything = server.search("(cn=*)", "cn")
        assert everything.count("dn:") == 5, "the writer reads everything"
        assert (
            "olcRootPW"
            not in run(
                "ldapsearch", "-x", "-LLL", "-H", server.ldap, "-b", "cn=config", ok=False
            ).decode()
        )
        refused = run(
            *("ldapadd", "-x", "-H", server.ldap),
            stdin=f"dn: cn=9,{SUFFIX}\nobjectClass: organizationalRole\ncn: 9\n".encode(),
            ok=False,
        ).decode()
        assert "Strong(er) authentication required" in refused


def test_data_survive_a_stop_and_a_kill(server: Server) -> None:
    server.add_root()
    server.stop()
    server.start()
    assert SUFFIX in server.search("(objectClass=*)")
    server.add(f"dn: cn=a,{SUFFIX}\nobjectClass: organizationalRole\ncn: a\n")
    server.kill()
    server.start()
    assert "cn=a" in server.search("(cn=a)")


def test_a_replica_follows_and_refers_writers(tmp_path: Path) -> None:
    with (
        running_slapd(tmp_path / "one" / "slapd", provider=True) as provider,
        running_slapd(tmp_path / "two" / "slapd", replica_of=provider) as replica,
    ):
        provider.add_root()
        deadline = time.monotonic() + 20
        while (
            "dn:"
            not in run(
                "ldapsearch", "-x", "-LLL", "-H", replica.ldap, "-b", SUFFIX, "-s", "base", ok=False
            ).decode()
        ):
            assert time.monotonic() < deadline, "it did not follow"
            time.sleep(0.05)
        refused = run(
            *("ldapadd", "-Q", "-Y", "EXTERNAL", "-H", replica.ldapi),
            stdin=f"dn: cn=a,{SUFFIX}\nobjectClass: organizationalRole\ncn: a\n".encode(),
            ok=False,
        ).decode()
        assert "Referral" in refused and provider.ldap in refused
