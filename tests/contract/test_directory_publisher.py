"""What publishes, compares and mends, against OpenLDAP's slapd and the ledger itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from infra.errors import Rejected
from pki.directory.authorities import FULL_CRL
from pki.directory.compare import REPAIRS, Comparison, Progress
from pki.directory.entries import CERTIFICATE, SERIAL_NUMBER, Retention, Wanted
from pki.directory.places import CrlFile, CrlSeries
from pki.serial import format_serial
from pki.status import RevocationReason
from tests.contract.directory_fixtures import (
    CLOSED,
    TREE,
    World,
    differences,
    eventually,
    login,
    plain_entry,
    publishing,
    shown,
    world,
)
from tests.contract.slapd_fixtures import Server, running_slapd

ALICE = "CN=Alice Example,C=AQ"
WHY = RevocationReason.superseded


@pytest.fixture(name="server")
def open_server(tmp_path: Path) -> Iterator[Server]:
    with running_slapd(tmp_path / "slapd") as running:
        yield running


@pytest.fixture(name="house")
async def open_world(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path / "ca") as made:
        yield made


def certificates(server: Server, filter: str = "(objectClass=pkiUser)") -> int:
    return server.search(filter, "userCertificate").count("userCertificate;binary::")


async def test_what_is_issued_is_shown_and_what_is_revoked_is_not(
    house: World, server: Server
) -> None:
    publisher = house.publisher(login(server))
    early = await house.issue(ALICE)
    async with publishing(publisher):
        await shown(publisher)
        assert certificates(server, f"({SERIAL_NUMBER}={format_serial(early.serial)})") == 1
        late = await house.issue(ALICE, CLOSED)
        await shown(publisher)
        assert certificates(server) == 2
        await house.ledger.revoke("issuing", early.serial, reason=WHY, by="test")
        await shown(publisher)
        assert certificates(server) == 1
        await house.ledger.hold("issuing", late.serial, by="test")
        await shown(publisher)
        assert "dn:" not in server.search("(objectClass=pkiUser)", "dn")
        await house.ledger.release("issuing", late.serial, by="test")
        await shown(publisher)
        assert certificates(server) == 1
        assert await differences(publisher, house.store) == []


async def test_only_who_agreed_is_shown(house: World, server: Server) -> None:
    publisher = house.publisher(login(server))
    async with publishing(publisher):
        await house.issue("CN=Bob,C=AQ", consent=False)
        await house.issue(ALICE)
        await shown(publisher)
        assert certificates(server) == 1
        assert await differences(publisher, house.store) == []


async def test_the_directory_may_be_down_and_issuance_goes_on(house: World, server: Server) -> None:
    publisher = house.publisher(login(server))
    server.stop()
    async with publishing(publisher):
        await house.people(20)
        await eventually(lambda: publisher.failing == "directory-unavailable")
        standing = await publisher.standing()
        assert standing.behind == 20
        house.clock.at += timedelta(days=3)
        assert (await publisher.standing()).lag >= 0
        server.start()
        await shown(publisher)
        assert certificates(server) == 20
        assert (await publisher.standing()).failing == ""


async def test_slapd_is_killed_in_the_middle_of_a_batch(house: World, server: Server) -> None:
    publisher = house.publisher(login(server))
    await house.people(400)
    async with publishing(publisher):
        for _ in range(3):
            before = (await publisher.standing()).entries
            await eventually(lambda before=before: publisher.written > before)  # type: ignore[misc]
            server.kill()
            await asyncio.sleep(0.05)
            server.start()
        await shown(publisher)
        assert certificates(server) == 400
        assert await differences(publisher, house.store) == []


async def test_a_publisher_goes_on_where_another_ended(
    house: World, server: Server, tmp_path: Path
) -> None:
    async with publishing(house.publisher(login(server))) as first:
        await house.people(5)
        await shown(first)
    await house.people(3)
    async with publishing(house.publisher(login(server))) as second:
        assert (await second.standing()).applied >= 5
        await shown(second)
        assert (await second.standing()).entries == 3
    assert certificates(server) == 8


async def test_several_directories_each_go_at_their_own_pace(house: World, tmp_path: Path) -> None:
    with (
        running_slapd(tmp_path / "one" / "slapd") as one,
        running_slapd(tmp_path / "other" / "slapd") as other,
    ):
        other.stop()
        first = house.publisher(login(one))
        second = house.publisher(login(other), name="second")
        async with publishing(first), publishing(second):
            await house.people(5)
            await shown(first)
            assert certificates(one) == 5
            assert (await second.standing()).behind == 5
            other.start()
            await shown(second)
            assert certificates(other) == 5


async def test_several_connections_share_the_work(house: World, server: Server) -> None:
    publisher = house.publisher(login(server), connections=3)
    await house.people(300)
    async with publishing(publisher):
        await shown(publisher)
    assert certificates(server) == 300


async def test_an_erased_person_disappears_and_no_repair_brings_them_back(
    house: World, server: Server
) -> None:
    publisher = house.publisher(login(server))
    record = await house.issue(ALICE)
    async with publishing(publisher):
        await shown(publisher)
        await publisher.source.erase(
            publisher.rules, record.subject, [publisher.name], by="operator:test"
        )
        publisher.wake()
        await eventually(lambda: certificates(server) == 0)
        assert await differences(publisher, house.store, repair=True) == []
        assert certificates(server) == 0
        leaf = await house.log.find(f"directory-erase/{publisher.rules.id(ALICE)}/{_micros(house)}")
        assert leaf is not None
        house.clock.at += timedelta(minutes=1)
        await house.issue(ALICE)
        await shown(publisher)
        assert certificates(server) == 1


def _micros(house: World) -> int:
    return int(house.clock.at.timestamp()) * 1_000_000 + house.clock.at.microsecond


async def test_an_erasure_waits_for_a_directory_that_is_away(house: World, server: Server) -> None:
    record = await house.issue(ALICE)
    async with publishing(house.publisher(login(server))) as first:
        await shown(first)
    server.stop()
    async with publishing(house.publisher(login(server))) as second:
        await second.source.erase(second.rules, record.subject, [second.name], by="operator:test")
        second.wake()
    server.start()
    async with publishing(house.publisher(login(server))):
        await eventually(lambda: certificates(server) == 0)


async def test_what_expires_goes_by_itself(house: World, server: Server) -> None:
    await house.issue(ALICE, days=1)
    await house.issue("CN=Bob,C=AQ", days=100)
    publisher = house.publisher(login(server))
    async with publishing(publisher):
        await shown(publisher)
        assert certificates(server) == 2
        house.clock.at += timedelta(days=2)
        await eventually(lambda: certificates(server) == 1)
        assert await differences(publisher, house.store) == []


async def test_what_is_to_stay_stays(house: World, server: Server) -> None:
    keep = Retention(replaced=True, expired=True, revoked=True)
    record = await house.issue(ALICE, days=1)
    publisher = house.publisher(login(server), retention=keep)
    await house.ledger.revoke("issuing", record.serial, reason=WHY, by="test")
    house.clock.at += timedelta(days=2)
    async with publishing(publisher):
        await shown(publisher)
        assert certificates(server) == 1
        assert await differences(publisher, house.store) == []


async def test_an_entry_that_is_refused_keeps_no_other_and_is_tried_again(
    house: World, server: Server
) -> None:
    publisher = house.publisher(login(server))
    async with publishing(publisher):
        await shown(publisher)
        blocked = publisher.rules.id(ALICE)
        # Something has taken the place of the entry that is to be, and has entries below it.
        server.add(
            f"dn: uid={blocked},ou=people,{server.suffix}\nobjectClass: organizationalRole\n"
            f"objectClass: uidObject\ncn: x\nuid: {blocked}\n\n"
            f"dn: cn=below,uid={blocked},ou=people,{server.suffix}\n"
            "objectClass: organizationalRole\ncn: below\n"
        )
        await house.issue(ALICE)
        await house.issue("CN=Bob,C=AQ")
        await shown(publisher)
        assert certificates(server) == 1
        assert (await publisher.standing()).refused == 1
        directory = publisher.connections
        below = f"cn=below,uid={blocked},ou=people,{server.suffix}"
        await directory.apply([Wanted(None, (below,))])
        house.clock.at += timedelta(hours=2)
        await eventually(lambda: certificates(server) == 2)
        await eventually(lambda: _refused_none(publisher))


async def _refused_none(publisher: object) -> bool:
    return (await publisher.standing()).refused == 0  # type: ignore[attr-defined,no-any-return]


def crl(octets: bytes, scope: str = "issuing", **more: object) -> CrlSeries:
    import hashlib

    file = CrlFile(hashlib.sha256(octets).digest(), len(octets), lambda: octets)
    one = CrlSeries(scope, "issuing", scope == "issuing", True, False, file, None)
    return replace(one, **more)  # type: ignore[arg-type]


async def test_cas_and_crls_are_shown_and_follow(
    house: World, server: Server, crls: tuple[bytes, bytes]
) -> None:
    first, second = crls
    house.repository.series = [crl(first), crl(first, "issuing.1")]
    publisher = house.publisher(login(server))
    async with publishing(publisher):
        await shown(publisher)
        assert "cn=issuing.1" in server.search("(cn=*)", "dn")
        found = server.search("(objectClass=pkiCA)", "cACertificate", "crossCertificatePair")
        assert found.count("cACertificate;binary::") == 2
        assert found.count("crossCertificatePair;binary::") == 1
        house.repository.series = [crl(second), crl(first, "issuing.1")]
        [dn] = [TREE.authority("issuing")]

        async def newer() -> bool:
            [entry] = await publisher.connections.read([(dn, (FULL_CRL,))])
            return entry == {FULL_CRL: (second,)}

        await eventually(newer)
        assert await differences(publisher, house.store) == []
        house.repository.series = [crl(second)]
        [gone] = await differences(publisher, house.store, repair=True)
        assert (gone.kind, gone.dn) == ("surplus", TREE.authority("issuing.1"))
        assert await differences(publisher, house.store) == []


@pytest.fixture(name="crls")
def made_crls() -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    from tests.unit.certificate_fixtures import NOW

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Issuing")])
    made = [
        x509.CertificateRevocationListBuilder(name, NOW, NOW + timedelta(days=number))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
        for number in (1, 2)
    ]
    return made[0], made[1]


async def test_a_crl_that_is_too_large_is_left_out_and_told(
    house: World, server: Server, crls: tuple[bytes, bytes]
) -> None:
    house.repository.series = [crl(crls[0])]
    publisher = house.publisher(login(server), max_crl=100)
    async with publishing(publisher):
        await shown(publisher)
        assert (await publisher.standing()).left_out == ("issuing",)
        assert FULL_CRL not in server.search("(objectClass=pkiCA)")


# Comparing and mending


async def test_every_difference_is_found_and_mended(house: World, server: Server) -> None:
    records = await house.people(1000)
    publisher = house.publisher(login(server))
    async with publishing(publisher):
        await shown(publisher, within=60)
        assert await differences(publisher, house.store) == []
        ids = [publisher.rules.id(record.subject) for record in records]
        names = [f"uid={id},ou=people,{TREE.base}" for id in ids]
        other = plain_entry(1, **{CERTIFICATE: records[5].certificate})
        [extra] = await publisher.source.wanted(publisher.rules, [records[1].subject])
        assert extra.entry is not None
        elsewhere = replace(extra.entry, dn=names[1].replace("ou=people", "ou=enterprises"))
        await publisher.connections.apply(
            [
                Wanted(None, (names[0],)),
                Wanted(other),
                Wanted(elsewhere),
                Wanted(
                    replace(extra.entry, attributes={**extra.entry.attributes, "mail": (b"x@y",)})
                ),
            ]
        )
        expected = {
            ("missing", names[0], ()),
            ("differing", names[1], ("mail",)),
            ("surplus", other.dn, ()),
            ("surplus", elsewhere.dn, ()),
        }
        for repair in (False, True):
            found = await differences(publisher, house.store, repair=repair)
            assert {(one.kind, one.dn, one.attributes) for one in found} == expected
        assert await differences(publisher, house.store) == []
        assert certificates(server) == 1000


async def test_an_empty_directory_is_filled(house: World, tmp_path: Path) -> None:
    await house.people(1000)
    with running_slapd(tmp_path / "old" / "slapd") as old:
        async with publishing(house.publisher(login(old))) as publisher:
            await shown(publisher, within=60)
    with running_slapd(tmp_path / "new" / "slapd") as new:
        publisher = house.publisher(login(new))
        found = await differences(publisher, house.store, repair=True)
        assert len([one for one in found if one.kind == "missing"]) == 1002
        assert certificates(new) == 1000
        assert await differences(publisher, house.store) == []
        await publisher.stop()


async def test_a_repair_goes_on_where_it_was_interrupted(house: World, server: Server) -> None:
    await house.people(600)
    publisher = house.publisher(login(server))
    steps = Comparison(publisher, house.store, repair=True).steps()
    async for step in steps:
        if isinstance(step, Progress) and step.phase == "ledger" and step.done >= 256:
            break
    await steps.aclose()
    assert (await house.store.get(REPAIRS, "main")) is not None
    begun = certificates(server)
    assert 256 <= begun < 600
    found = await differences(publisher, house.store, repair=True)
    assert len([one for one in found if one.kind == "missing"]) == 600 - begun
    assert certificates(server) == 600
    assert await differences(publisher, house.store) == []
    await publisher.stop()


async def test_a_new_rule_for_names_is_mended(house: World, server: Server) -> None:
    await house.issue(ALICE)
    async with publishing(house.publisher(login(server))) as publisher:
        await shown(publisher)
    named = house.publisher(login(server), tree=replace(TREE, person_rdn=("cn", "uid")))
    found = await differences(named, house.store, repair=True)
    assert sorted(one.kind for one in found) == ["missing", "surplus"]
    assert "dn: cn=Alice Example+uid=" in server.search("(cn=Alice Example)", "dn")
    assert certificates(server) == 1
    assert await differences(named, house.store) == []
    await named.stop()


async def test_a_check_changes_nothing(house: World, server: Server) -> None:
    server.add_root()
    await house.people(3)
    publisher = house.publisher(login(server))
    assert len(await differences(publisher, house.store)) == 5
    assert server.search("(objectClass=*)", "dn").count("dn:") == 1
    await publisher.stop()


async def test_comparing_a_directory_that_cannot_be_read_is_told(
    house: World, tmp_path: Path
) -> None:
    with running_slapd(tmp_path / "slapd", schema="", indexes=()) as server:
        publisher = house.publisher(login(server))
        with pytest.raises(Rejected) as refused:
            await differences(publisher, house.store, repair=True)
        assert refused.value.code == "directory-schema"
        await publisher.stop()
