"""A ledger with certificates of citizens, and what publishes it into a slapd of the test's own.

``world(folder)`` opens the ledger; ``World.issue`` puts certificates into it, and ``publisher``
makes what is tested.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cli.service.directories import COLLECTIONS as DIRECTORY_COLLECTIONS
from infra.clock import FixedClock
from infra.store.sqlite import SqliteStore
from pki.directory.compare import Comparison, Difference
from pki.directory.entries import Entry, Retention, Rules, Tree
from pki.directory.ldap import Login
from pki.directory.places import CrlSeries
from pki.directory.process import Connections
from pki.directory.publisher import Publisher
from pki.directory.source import Source
from pki.issuer import Issuer
from pki.ledger import Ledger
from pki.log.log import COLLECTIONS as LOG_COLLECTIONS
from pki.log.log import Log
from pki.names import parse_rfc4514
from pki.profile import load_profiles
from pki.record import CERTIFICATES, Intent, Record
from pki.serial import SerialNumber
from tests.contract.slapd_fixtures import SUFFIX, Server
from tests.unit.certificate_fixtures import ISSUING, NOW, ROOT

TREE = Tree(SUFFIX, "ou=people", "ou=enterprises", "ou=authorities")
REMOVE = Retention(replaced=False, expired=False, revoked=False)
KEY = b"a key for tests only, 32 octets "
PROFILES = load_profiles(Path("conf/profiles"))
OPEN = "citizen-encryption"
CLOSED = "citizen-authentication"


@cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def certificate(
    serial: int,
    subject: str,
    *,
    now: datetime = NOW,
    days: float = 300,
    names: Sequence[x509.GeneralName] = (),
    self_issued: bool = False,
) -> bytes:
    """A certificate in DER; ``subject``: RFC 4514; ``self_issued``: it is the issuer, too."""
    name = x509.Name(
        x509.RelativeDistinguishedName([x509.NameAttribute(x509.ObjectIdentifier(a.type), a.value)])
        for a in parse_rfc4514(subject).attributes
    )
    other = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")])
    issuer = name if self_issued else other
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(_key().public_key())
        .serial_number(serial)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    made = builder.sign(_key(), hashes.SHA256())
    return made.public_bytes(serialization.Encoding.DER)


@dataclass
class Repository:
    """CAs and CRLs that a test sets."""

    issuers: Mapping[str, Issuer] = field(default_factory=dict)
    series: list[CrlSeries] = field(default_factory=list)

    def crls(self) -> Sequence[CrlSeries]:
        return self.series


@dataclass
class World:
    """A ledger, and the time that it lives in."""

    store: SqliteStore
    log: Log
    ledger: Ledger
    clock: FixedClock
    repository: Repository
    issued: int = 0

    async def issue(
        self,
        subject: str,
        profile: str = OPEN,
        *,
        consent: bool = True,
        days: float = 300,
        names: Sequence[x509.GeneralName] = (),
    ) -> Record:
        """One certificate more."""
        self.issued += 1
        serial = SerialNumber(0x1000 + self.issued)
        now = self.clock.now()
        der = certificate(serial, subject, now=now, days=days, names=names)
        record = await self.ledger.intend(
            Intent(
                ca="issuing",
                serial=serial,
                profile=profile,
                tbs_certificate=b"tbs",
                key_hash=hashlib.sha256(str(serial).encode()).digest(),
                key_number=0,
                subject=parse_rfc4514(subject).rfc4514(),
                not_before=now,
                not_after=now + timedelta(days=days),
                by="test",
                request_id=None,
                request_hash=b"",
                consent=consent,
            )
        )
        return await self.ledger.complete(record, der)

    async def people(self, count: int) -> list[Record]:
        """So many citizens more."""
        start = self.issued
        return list(
            await asyncio.gather(
                *(
                    self.issue(
                        f"CN=Citizen {number},C=AQ",
                        names=[x509.RFC822Name(f"c{number}@example.org")],
                    )
                    for number in range(start, start + count)
                )
            )
        )

    def publisher(
        self,
        login: Login,
        *,
        name: str = "main",
        tree: Tree = TREE,
        retention: Retention = REMOVE,
        connections: int = 1,
        max_crl: int = 1 << 20,
    ) -> Publisher:
        """What publishes this ledger."""
        return Publisher(
            name,
            Connections(login, connections),
            Rules(tree, retention, KEY, PROFILES),
            Source(self.ledger, self.store, self.log),
            self.repository,
            self.store,
            max_crl=max_crl,
        )


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """A ledger that is empty, or as it was left in ``folder``."""
    folder.mkdir(exist_ok=True)
    collections = (CERTIFICATES, *LOG_COLLECTIONS, *DIRECTORY_COLLECTIONS)
    clock = FixedClock(NOW)
    store = await SqliteStore.open(folder / "ledger.sqlite", collections)
    try:
        log = await Log.open(store, origin="test.example/log", clock=clock)
        ledger = await Ledger.open(store, log, clock, intent_key=bytes(32))
        repository = Repository({"root": ROOT, "issuing": ISSUING})
        known = World(store, log, ledger, clock, repository)
        known.issued = await store.count(CERTIFICATES)
        yield known
    finally:
        await store.close()


@asynccontextmanager
async def publishing(publisher: Publisher) -> AsyncIterator[Publisher]:
    """The publisher at work."""
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.stop()


async def shown(publisher: Publisher, within: float = 60.0) -> None:
    """Wait until the directory shows all that the ledger has."""

    before = publisher.rounds

    async def done() -> bool:
        standing = await publisher.standing()
        return publisher.rounds > before and not standing.behind and not standing.failing

    await eventually(done, within)


async def eventually(done: Callable[[], object], within: float = 60.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + within
    while True:
        answer = done()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return
        assert time.monotonic() < end, "it never came to be"
        await asyncio.sleep(0.02)


async def differences(
    publisher: Publisher, store: SqliteStore, *, repair: bool = False
) -> list[Difference]:
    """What a comparison finds."""
    comparison = Comparison(publisher, store, repair=repair)
    return [step async for step in comparison.steps() if isinstance(step, Difference)]


def login(server: Server) -> Login:
    """As the one who may write, by the unix socket."""
    return Login(url=server.ldapi, timeout=5.0)


def plain_entry(number: int, **attributes: bytes) -> Entry:
    """An entry that a directory takes."""
    id = f"{number:032x}"
    values = {
        "objectClass": (b"account", b"digitalidHolder", b"pkiUser"),
        "uid": (id.encode(),),
        "digitalidSerialNumber": (f"{number:04x}".encode(),),
        **{type: (value,) for type, value in attributes.items()},
    }
    return Entry(f"uid={id},ou=people,{SUFFIX}", values, tuple(values))
