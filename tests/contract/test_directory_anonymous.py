"""What anybody gets of the directory: whom they look up, and no list of people by any search.

The server has rules as ours has, and people in it by the publisher; the searches are ldapsearch's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from tests.contract.directory_fixtures import (
    CLOSED,
    differences,
    login,
    publishing,
    shown,
    world,
)
from tests.contract.slapd_fixtures import SUFFIX, Server, running_slapd
from tests.journeys.product import run

PEOPLE = 30
MOST = 8
ALICE = "CN=Alice Example,O=Registry,C=AQ"
CLOSED_PEOPLE = 3
"""Whose entries are of another class, so that few have it."""
NAMES = (
    x509.RFC822Name("alice@example.org"),
    x509.UniformResourceIdentifier("did:web:alice.example.org"),
)


@dataclass(frozen=True)
class Directory:
    """A server that holds Alice and others; ``serial``: of her certificate."""

    server: Server
    serial: int


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directory]:
    folder = tmp_path_factory.mktemp("anonymous")
    with running_slapd(folder / "slapd", most_entries=MOST) as server:
        yield Directory(server, asyncio.run(published(folder / "ca", server)))


async def published(folder: Path, server: Server) -> int:
    async with world(folder) as house:
        publisher = house.publisher(login(server))
        async with publishing(publisher):
            await house.people(PEOPLE)
            alice = await house.issue(ALICE, names=NAMES)
            for number in range(CLOSED_PEOPLE):
                await house.issue(f"CN=Closed {number},C=AQ", CLOSED)
            await shown(publisher)
            assert await differences(publisher, house.store, repair=True) == []
        return alice.serial


def people(directory: Directory, filter: str, *words: str, base: str = SUFFIX) -> set[str]:
    """Whom anybody finds."""
    said = run(
        *("ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", directory.server.ldap),
        *("-b", base),
        *words,
        filter,
        ok=False,
    ).decode()
    return set(re.findall(r"(?m)^dn: (uid=.*)$", said))


def of_writer(directory: Directory, attribute: str) -> list[str]:
    said = directory.server.search("(objectClass=digitalidHolder)", attribute)
    return sorted(re.findall(rf"(?m)^{attribute}: (.*)$", said))


OPERATIONAL = (
    "entryCSN", "entryUUID", "createTimestamp", "modifyTimestamp", "creatorsName",
    "modifiersName", "structuralObjectClass", "entryDN", "hasSubordinates",
)  # fmt: skip


@pytest.mark.parametrize("attribute", [*OPERATIONAL, "digitalidNotAfter", "o", "sn"])
def test_nobody_is_found_by_when_or_how_an_entry_was_made(
    directory: Directory, attribute: str
) -> None:
    values = of_writer(directory, attribute)
    assert values, "the writer sees it"
    for value in values[:: PEOPLE // 4]:
        for how in ("=", ">=", "<=", "~="):
            assert people(directory, f"({attribute}{how}{value})") == set(), how
        # Few enough to be shown, if it might be searched for at all.
        assert people(directory, f"(&({attribute}>={value})({attribute}<={value}))") == set()
    said = run(
        *("ldapsearch", "-x", "-LLL", "-H", directory.server.ldap, "-b", SUFFIX),
        *("(mail=alice@example.org)", "*", "+"),
    ).decode()
    assert "dn: uid=" in said
    if attribute in OPERATIONAL:
        assert attribute not in said, "nor is it shown"


WAYS = (
    (),
    ("-s", "one"),
    ("-s", "children"),
    ("-a", "always"),
    ("-E", "pr=2/noprompt"),
    ("-E", "sync=ro"),
    ("-E", "sss=uid"),
    ("-z", "1"),
)


@pytest.mark.parametrize(
    "filter",
    [
        "(objectClass=*)",
        "(objectClass=digitalidHolder)",
        "(objectClass=account)",
        "(&(objectClass=account)(!(objectClass=inetOrgPerson)))",
        "(uid=*)",
        "(uid=0*)",
        "(uid>=0)",
        "(mail=c*)",
        "(mail=*example.org)",
        "(mail:caseIgnoreOrderingMatch:=zzz)",
        "(mail:octetStringOrderingMatch:=zzz)",
        "(digitalidSerialNumber:caseIgnoreOrderingMatch:=1009)",
        "(digitalidSerialNumber>=1009)",
        "(digitalidNotAfter:generalizedTimeOrderingMatch:=20990101000000Z)",
        "(!(mail=nobody@example.org))",
        "(!(entryCSN=x))",
        "(|(mail=alice@example.org)(cn=*))",
        "(&(objectClass=digitalidHolder)(!(uid=0)))",
        "(name=*)",
        "(:caseIgnoreMatch:=AQ)",
        "(userCertificate=*)",
        "(ou:dn:=people)",
        f"(entryDN:dnSubtreeMatch:=ou=people,{SUFFIX})",
        f"(entryDN:dnOneLevelMatch:=ou=people,{SUFFIX})",
        "(" * 200 + "&(cn=*)" + ")" * 200,
    ],
)
def test_no_search_lists_people(directory: Directory, filter: str) -> None:
    for words in WAYS:
        assert people(directory, filter, *words, base=f"ou=people,{SUFFIX}") == set(), words


def test_whom_one_knows_is_found_by_all_that_the_page_says(directory: Directory) -> None:
    [own] = re.findall(r"(?m)^dn: (uid=.*)$", directory.server.search("(mail=alice@example.org)"))
    exact = f'{{ serialNumber {directory.serial}, issuer rdnSequence:"CN=CA" }}'
    for filter in (
        f"(digitalidSerialNumber={directory.serial:04X})",
        "(mail=Alice@example.org)",
        "(digitalidWeb3Id=did:web:alice.example.org)",
        "(cn=alice example)",
        f"({own.partition(',')[0]})",
        f"(userCertificate={exact})",
        # slapd has no index for an extensible match, so something beside it has to narrow it down.
        f"(&(cn=Alice Example)(userCertificate:certificateExactMatch:={exact}))",
        "(&(objectClass=digitalidHolder)(mail=alice@example.org))",
    ):
        assert people(directory, filter) == {own}, filter
    assert people(directory, "(objectClass=*)", "-s", "base", base=own) == {own}


def test_cas_and_their_crls_are_listed_for_everybody(directory: Directory) -> None:
    search = ("ldapsearch", "-x", "-LLL", "-H", directory.server.ldap, "-b", SUFFIX)
    for filter in (
        "(cACertificate=*)",
        "(&(objectClass=pkiCA)(cn=issuing))",
        "(&(cACertificate=*)(objectClass=pkiCA))",
    ):
        assert b"dn: cn=issuing,ou=authorities" in run(*search, filter), filter
