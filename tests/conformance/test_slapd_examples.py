"""The configurations in deploy/slapd, as slapd itself sees them: checked, started, replicating."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cli.service.private_slapd import CLASSES, INDEXES, look_ups
from infra.slapd import Access, configuration, find_slapd
from tests.contract.slapd_fixtures import SCHEMA, Server, ca_certificate, pair
from tests.journeys.product import require, run

DEPLOY = Path(__file__).parents[2] / "deploy" / "slapd"
BASE = "o=DigitalID"
ENTRY = f"""\
dn: uid=a,ou=people,{BASE}
objectClass: account
objectClass: digitalidHolder
uid: a
digitalidSerialNumber: 0a
"""


def example(name: str) -> str:
    """An example with the paths of this test in the place of those of a host."""
    schema = "include: file:///etc/ldap/schema/digitalid.schema.ldif"
    text = (DEPLOY / name).read_text()
    assert schema in text
    return (
        text.replace(schema, SCHEMA.read_text().strip())
        .replace("/etc/ldap/tls/", "")
        .replace("/var/lib/digitalid-ldap", "data")
    )


def server(folder: Path, configuration: str, files: dict[str, bytes]) -> Server:
    if find_slapd() is None:
        require("slapd", "setpriv")
    require("ldapsearch", "ldapadd", "slaptest")
    folder.parent.mkdir()
    return Server(folder, configuration, files)


def as_client(folder: Path, name: str) -> list[str]:
    """What makes ldapadd come with a client certificate of this name."""
    files = {"ca.pem": ca_certificate(), **pair(name)}
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return [
        f"LDAPTLS_{variable}={folder / file}"
        for variable, file in zip(("CACERT", "CERT", "KEY"), files, strict=True)
    ]


@pytest.mark.parametrize("name", ["provider.ldif", "consumer.ldif"])
def test_an_example_has_the_indexes_of_our_own_server(name: str) -> None:
    lines = (DEPLOY / name).read_text().splitlines()
    found = [line.removeprefix("olcDbIndex: ") for line in lines if line.startswith("olcDbIndex")]
    assert found == ["objectClass,entryCSN,entryUUID eq", *INDEXES]


def lines_of(text: str, *settings: str) -> list[str]:
    return [line for line in text.splitlines() if line.partition(":")[0] in settings]


def test_the_replica_tells_others_as_little_as_our_own_server_does() -> None:
    installed = find_slapd()
    if installed is None:
        require("slapd", "setpriv")
        pytest.skip("install with apt-get: slapd util-linux")
    searched = look_ups(BASE, "ou=enterprises", "ou=authorities")
    access = Access("cn=a", 0, look_ups=searched, classes=CLASSES)
    own = configuration(installed, BASE, access, schema="", indexes=INDEXES)
    own = own.replace("size.soft=100 size.hard=100", "size=100")
    example = (DEPLOY / "consumer.ldif").read_text()
    ours, theirs = (
        [line.partition("}")[2] for line in lines_of(text, "olcAccess", "olcLimits")]
        for text in (own[own.index("olcDbDirectory") :], example[example.index("olcDbDirectory") :])
    )
    ours.remove("to attrs=userPassword by anonymous auth by * none")  # there are no passwords
    assert theirs == ours
    bounds = (
        "olcSockbufMaxIncoming", "olcIdleTimeout", "olcWriteTimeout", "olcConnMaxPending",
        "olcConnMaxPendingAuth", "olcMaxFilterDepth",
    )  # fmt: skip
    for name in ("consumer.ldif", "provider.ldif"):
        found = lines_of((DEPLOY / name).read_text(), *bounds)
        assert sorted(found) == sorted(lines_of(own, *bounds)), name


def test_everything_that_anybody_may_search_for_is_indexed() -> None:
    """Each has an index, or else the search is refused as soon as there are many entries."""
    indexed = {attribute for index in INDEXES for attribute in index.split()[0].split(",")}
    for look_up in look_ups(BASE, "ou=enterprises", "ou=authorities"):
        assert set(look_up.attributes) <= indexed


def test_the_provider_takes_the_publisher_alone_and_the_consumer_follows(tmp_path: Path) -> None:
    own = pair("server", host="127.0.0.1")
    certificate = {"certificate.pem": own["server.pem"], "key.pem": own["server.key"]}
    provider = server(
        tmp_path / "provider" / "slapd",
        example("provider.ldif"),
        certificate | {"clients.pem": ca_certificate()},
    )
    replica = pair("digitalid-replica")
    consumer = server(
        tmp_path / "consumer" / "slapd",
        example("consumer.ldif").replace("ldaps://directory.example.org", provider.ldaps),
        {
            **certificate,
            "replica.pem": replica["digitalid-replica.pem"],
            "replica.key": replica["digitalid-replica.key"],
            "servers.pem": ca_certificate(),
        },
    )
    try:
        provider.start()
        provider.stop()
        run("env", "--chdir", provider.folder, "slaptest", "-u", "-F", "slapd.d")
        provider.load((DEPLOY / "base.ldif").read_bytes())
        provider.start()
        add = ("ldapadd", "-Q", "-Y", "EXTERNAL", "-H", provider.ldaps)
        refused = run(
            "env", *as_client(tmp_path, "somebody"), *add, stdin=ENTRY.encode(), ok=False
        ).decode()
        assert "Insufficient access" in refused
        run("env", *as_client(tmp_path, "digitalid-publisher"), *add, stdin=ENTRY.encode())
        consumer.start()
        search = ("ldapsearch", "-x", "-LLL", "-H", consumer.ldap, "-b", BASE)
        everything = ("ldapsearch", "-x", "-LLL", "-H", provider.ldap, "-b", BASE)
        assert b"No such object" in run(*everything, ok=False)
        assert b"No such object" in run(*everything, "-E", "!sync=rp", ok=False), "nor what comes"
        deadline = time.monotonic() + 20
        while b"uid=a" not in run(*search, "(digitalidSerialNumber=0A)", ok=False):
            assert time.monotonic() < deadline, "it did not follow"
            time.sleep(0.05)
        assert b"uid=a" not in run(*search, "(entryCSN>=20000101000000.000000Z#000000#000#000000)")
        run("env", "--chdir", consumer.folder, "slaptest", "-u", "-F", "slapd.d")
        change = f"dn: uid=a,ou=people,{BASE}\nchangetype: delete\n".encode()
        modify = ("ldapmodify", "-Q", "-Y", "EXTERNAL", "-H", consumer.ldapi)
        assert provider.ldaps.encode() in run(*modify, stdin=change, ok=False)
    finally:
        provider.close()
        consumer.close()
