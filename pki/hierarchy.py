"""The CAs of one installation: made once, each step of it safe to repeat.

Nothing here asks whether it was interrupted: a key that is there is opened, a certificate that was
issued under the same request id comes back as it is, so a second run completes what a first began.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, cast

from infra.errors import Broken, Rejected
from infra.store.port import Collection, Document, Duplicate, Store, Stored
from pki.algorithms import SIGNATURE_ALGORITHMS, KeyType, SignatureAlgorithm
from pki.authority import Application, Authority, Checks
from pki.certificate import Order, parse_certificate
from pki.issuer import Issuer, Urls
from pki.ledger import Ledger
from pki.lint import Linter
from pki.log.act import Act
from pki.log.log import Log
from pki.names import parse_name
from pki.own_certificate import (
    crl_issuer_subject,
    current_certificate,
    lasting,
    own_request,
    responder_subject,
)
from pki.partition import CA_CERTIFICATES, ONE_CRL, USER_CERTIFICATES, Partitioning
from pki.preparation import Prepare
from pki.profile import Profile
from pki.record import Record
from pki.request import parse_request
from pki.signer.port import KeyStore, Signer
from pki.status import Revoked

AUTHORITIES: Final = Collection("authorities")
SERVICE_KEYS: Final = Collection("service_keys")
CRL_ISSUERS: Final = Collection("crl_issuers")
COLLECTIONS: Final = (AUTHORITIES, SERVICE_KEYS, CRL_ISSUERS)

LOG_KEY: Final = "log"
FEED_KEY: Final = "status-feed"

RESPONDER_PROFILE: Final = "ocsp-responder"
CRL_ISSUER_PROFILE: Final = "crl-issuer"
CRL_ISSUER_RENEWAL: Final = timedelta(days=90)
"""How long before its end a CRL issuer's certificate is followed by the next."""

SYSTEM: Final = "system"
"""Who asks, where the program itself does."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A CA that is to be. ``subject``: RFC 4514; ``parent`` None makes it a root; ``algorithm``
    None: it signs as is usual for its type of key."""

    name: str
    subject: str
    key_type: KeyType
    profile: str
    parent: str | None
    algorithm: str | None = None


DEVELOPMENT: Final = (
    Plan("root", "CN=DigitalID Development Root CA,O=DigitalID,C=AQ", KeyType.P_384, "root", None),
    Plan(
        "issuing",
        "CN=DigitalID Development Issuing CA,O=DigitalID,C=AQ",
        KeyType.P_256,
        "subordinate-ca",
        "root",
    ),
)
"""The hierarchy that a first run makes for itself."""


@dataclass(frozen=True, slots=True)
class ResponderKey:
    """An OCSP responder's key with the certificate (DER) that a CA gave it (RFC 6960 §4.2.2.2)."""

    issuer: Issuer
    signer: Signer
    certificate: bytes
    not_after: datetime


@dataclass(frozen=True, slots=True)
class CrlIssuer:
    """Who signs an indirect CRL (RFC 5280 §5); ``covers``: the CAs whose certificates it may list,
    each in its place for ever."""

    issuer: Issuer
    signer: Signer
    covers: tuple[Issuer, ...]


USUAL: Final = "issuing"


class Hierarchy:
    """Opens and makes CAs, their OCSP responders and the log's key."""

    def __init__(
        self,
        store: Store,
        keys: KeyStore,
        ledger: Ledger,
        log: Log,
        linter: Linter,
        profiles: Mapping[str, Profile],
        *,
        urls: Callable[[str], Urls],
        prepare: Prepare,
        checks: Checks,
        partitioning: Partitioning = ONE_CRL,
        step: Callable[[str], None] = lambda step: None,
    ) -> None:
        """``partitioning``: how each CA spreads what it issues over CRLs; a root has no shards."""
        self._store = store
        self._keys = keys
        self._ledger = ledger
        self._log = log
        self._linter = linter
        self._profiles = profiles
        self._urls = urls
        self._prepare = prepare
        self._checks = checks
        self._partitioning = partitioning
        self._step = step
        self.authorities: dict[str, Authority] = {}
        self.awaited: list[str] = []
        """CAs whose certificates were asked of a ceremony, and are not here (``pki.offline``)."""

    async def open(self) -> None:
        """Open every CA that was made, with its key."""
        known = [stored async for stored in self._store.scan(AUTHORITIES)]
        # Each after the CA that issued it.
        for stored in sorted(
            known, key=lambda stored: len(cast(list[bytes], stored.body["chain"]))
        ):
            algorithm = SIGNATURE_ALGORITHMS[str(stored.body["algorithm"])]
            signer = await self._keys.open(str(stored.body["key"]), algorithm)
            self.authorities[stored.id] = self._authority(
                stored.id, self.issuer(stored.id, stored.body), signer
            )

    async def create(self, plan: Plan) -> Authority:
        """The CA of this plan, made now unless it is there.

        Errors: ``no-such-authority`` for its parent; what keys and issuance refuse.
        """
        known = self.authorities.get(plan.name)
        if known is not None:
            return known
        parent = None if plan.parent is None else self.authority(plan.parent)
        algorithm = None if plan.algorithm is None else SIGNATURE_ALGORITHMS[plan.algorithm]
        signer = await self._key(plan.name, plan.key_type, algorithm)
        request = await own_request(signer, plan.subject)
        authority = self._authority(plan.name, None, signer)
        record = await (parent or authority).issue(
            Application(
                profile=plan.profile, request=request, by=SYSTEM, request_id=f".ca/{plan.name}"
            )
        )
        chain: list[bytes] = []
        if parent is not None and parent.issuer is not None:
            chain = [parent.issuer.certificate, *parent.issuer.chain]
        body: Document = {
            "key": signer.uri,
            "algorithm": signer.algorithm.name,
            "certificate": record.certificate,
            "chain": list(chain),
            "profile": plan.profile,
        }
        await self._log.append(
            Act(
                id=f"ca/{plan.name}",
                what="ca.create",
                who=SYSTEM,
                when=record.issued_at,
                object_hash=parse_certificate(record.certificate).sha256,
                detail={"issuer": record.ca, "name": plan.name},
            )
        )
        await self._store.insert(AUTHORITIES, plan.name, body)
        authority = self._authority(plan.name, self.issuer(plan.name, body), signer)
        self.authorities[plan.name] = authority
        return authority

    @property
    def first_step(self) -> str:
        """What makes a first CA of an installation that has none."""
        if not self.awaited:
            return "run `digitalid init`"
        steps = ", ".join(f"`digitalid ceremony import {name}`" for name in self.awaited)
        return f"certificates of ceremonies are awaited ({steps})"

    def authority(self, name: str) -> Authority:
        """A CA by its name. Errors: ``no-such-authority``."""
        authority = self.authorities.get(name)
        if authority is None:
            known = ", ".join(self.authorities) or f"none yet: {self.first_step}"
            raise Rejected("no-such-authority", f"there is no CA {name!r}; there are: {known}")
        return authority

    def usual(self) -> Authority:
        """The CA that issues when none is named: ``issuing``, else the only one that is no root.
        Errors: ``no-such-authority``."""
        if USUAL not in self.authorities:
            below = [one for one in self.authorities.values() if _chain_of(one)]
            if len(below) == 1:
                return below[0]
        return self.authority(USUAL)

    def issuers_of(self, profile: Profile) -> list[str]:
        """The names of the CAs here that issue under a profile."""
        known = self.authorities.values()
        return [] if profile.self_signed else [a.name for a in known if a.not_for(profile) is None]

    def subject(self, name: str) -> str:
        """The name in a CA's certificate (RFC 4514). Errors: ``no-such-authority``."""
        issuer = self.authority(name).issuer
        return "" if issuer is None else parse_name(issuer.subject).rfc4514()

    async def responder_key(self, name: str, *, lifetime: timedelta) -> ResponderKey:
        """The OCSP responder of a CA, with a certificate of this ``lifetime``, or of the profile's
        if that is shorter; a new one in its last third."""
        authority = self.authority(name)
        if authority.issuer is None:
            raise Broken("authority-unfinished", f"CA {name} has no certificate")
        signer = await self._key(f"{name}-ocsp", KeyType.P_256)
        request = await own_request(signer, responder_subject(authority.issuer).rfc4514())
        asked = Application(RESPONDER_PROFILE, request, SYSTEM, ".ocsp")
        record = await self._responder_certificate(authority, asked, lifetime)
        return ResponderKey(authority.issuer, signer, record.certificate, record.not_after)

    async def certify_responder(
        self, name: str, request: bytes, *, by: str, lifetime: timedelta
    ) -> Record:
        """A certificate for the key of a responder elsewhere, in the name of the CA's own; the
        same one until its last third, then a new one. ``lifetime``: as for ``responder_key``.

        ``request``: PKCS#10 in PEM or DER, its subject unused but the same each time. Errors:
        ``no-such-authority``, ``responder-revoked``, those of ``Authority.issue``.
        """
        authority = self.authority(name)
        if authority.issuer is None:
            raise Broken("authority-unfinished", f"CA {name} has no certificate")
        key = hashlib.sha256(parse_request(request).public_key_info).hexdigest()
        order = Order(subject=responder_subject(authority.issuer).der)
        asked = Application(RESPONDER_PROFILE, request, by, f".ocsp/{key}", order)
        record = await self._responder_certificate(authority, asked, lifetime)
        if isinstance(record.status, Revoked):
            raise Rejected(
                "responder-revoked", "the certificate of this key was revoked; make a new key"
            )
        return record

    async def _responder_certificate(
        self, authority: Authority, asked: Application, lifetime: timedelta
    ) -> Record:
        now = self._ledger.now()
        profile = self._profiles[asked.profile]
        return await current_certificate(authority, *lasting(asked, profile, lifetime, now), now)

    async def crl_issuers(self, current: str) -> list[CrlIssuer]:
        """All that have ever signed indirect CRLs, since certificates name them.

        ``current``: the one that CAs below the first root name from now on, made unless it is
        there; empty for none. Errors: ``crl-issuer-name``, ``no-such-authority`` without a root.
        """
        known = {stored.id: stored async for stored in self._store.scan(CRL_ISSUERS)}
        if current and current not in known:
            taken = {*self.authorities, CA_CERTIFICATES, USER_CERTIFICATES}
            if current in taken:
                raise Rejected(
                    "crl-issuer-name", f"{current} has a meaning already: name crl.indirect anew"
                )
            roots = [name for name, one in self.authorities.items() if _chain_of(one) == ()]
            body: Document = {"parent": self.authority(roots[0] if roots else "").name}
            known[current] = await self._store.insert(CRL_ISSUERS, current, body | {"covers": []})
        return [await self._crl_issuer(stored, stored.id == current) for stored in known.values()]

    async def _crl_issuer(self, stored: Stored, current: bool) -> CrlIssuer:
        name, parent = stored.id, self.authority(str(stored.body["parent"]))
        if parent.issuer is None:
            raise Broken("authority-unfinished", f"CA {parent.name} has no certificate")
        covers = cast("list[str]", stored.body["covers"])
        root = parent.issuer.certificate
        if current:
            # Whoever validates a CRL of another issuer needs one anchor for both (§6.3.3 (f)).
            below = [name for name, one in self.authorities.items() if root in _chain_of(one)]
            if new := [name for name in below if name not in covers]:
                covers = [*covers, *new]
                await self._store.replace(CRL_ISSUERS, stored, stored.body | {"covers": [*covers]})
        signer = await self._key(f"{name}-crl", KeyType.P_256)
        request = await own_request(signer, crl_issuer_subject(parent.issuer, name).rfc4514())
        asked = Application(CRL_ISSUER_PROFILE, request, SYSTEM, f".crl-issuer/{name}")
        record = await current_certificate(parent, asked, CRL_ISSUER_RENEWAL, self._ledger.now())
        chain: Document = {"certificate": record.certificate, "chain": [root]}
        issuer = self.issuer(name, chain)
        covered = [self.authority(name) for name in covers]
        for authority in covered if current else ():
            authority.crl_issuer = issuer
        issuers = [authority.issuer for authority in covered if authority.issuer is not None]
        return CrlIssuer(issuer, signer, tuple(issuers))

    async def own_key(self, name: str, key_type: KeyType) -> Signer:
        """The key of a CA that is to be, made unless it is there."""
        return await self._key(name, key_type)

    async def feed_key(self) -> Signer:
        """The key that signs the status feed."""
        return await self._key(FEED_KEY, KeyType.P_256)

    async def log_key(self) -> Signer:
        """The key that signs the log's checkpoints."""
        return await self._key(LOG_KEY, KeyType.P_256)

    async def _key(
        self, label: str, key_type: KeyType, algorithm: SignatureAlgorithm | None = None
    ) -> Signer:
        stored = await self._store.get(SERVICE_KEYS, label)
        if stored is not None:
            return await self._keys.open(cast(str, stored.body["uri"]), algorithm)
        try:
            uri = await self._keys.generate(label, key_type)
        except Rejected as rejected:
            if rejected.code != "key-exists":
                raise
            # Made by a run that was stopped before it could write it down.
            uri = self._keys.named(label)
        signer = await self._keys.open(uri, algorithm)
        with suppress(Duplicate):
            body: Document = {"uri": uri, "public_key_info": signer.public_key_info}
            await self._store.insert(SERVICE_KEYS, label, body)
        self._step("key")
        return signer

    def _authority(self, name: str, issuer: Issuer | None, signer: Signer) -> Authority:
        return Authority(
            name,
            issuer,
            signer,
            self._profiles,
            self._ledger,
            self._linter,
            prepare=self._prepare,
            checks=self._checks,
            partitioning=self._partitioning
            if issuer is not None and issuer.chain
            else replace(self._partitioning, shards=0),
            step=self._step,
        )

    def issuer(self, name: str, body: Document) -> Issuer:
        """A CA with the URLs that it has here. ``body``: its certificate and those above it."""
        certificate = parse_certificate(cast(bytes, body["certificate"]))
        chain = tuple(cast("list[bytes]", body["chain"]))
        return certificate.as_issuer(name, self._urls(name), chain)


def _chain_of(authority: Authority) -> tuple[bytes, ...]:
    return () if authority.issuer is None else authority.issuer.chain


async def public_log_key(store: Store) -> bytes:
    """The SubjectPublicKeyInfo of the key that signs the log. Errors: ``no-such-authority``."""
    stored = await store.get(SERVICE_KEYS, LOG_KEY)
    if stored is None:
        raise Rejected("no-such-authority", "there is no CA yet; run `digitalid init`")
    return cast(bytes, stored.body["public_key_info"])
