"""The parts of an instance, for the applications that show them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from importlib.metadata import version

from cli.backup.ledger import LedgerCopies
from cli.service.crls import FOLDER, Crls
from cli.service.directories import Directories
from cli.service.ending import Certified
from cli.service.metrics import Metrics
from cli.service.private_slapd import NOT_STARTED, NotRunning, Running
from cli.service.validation import Answering
from conf.schema import Settings
from crl.head import CRL_HEADS
from crl.kept import newest_kept
from infra.clock import Clock
from infra.errors import Broken
from infra.store.sqlite import SqliteStore
from ocsp.delegate import Delegate
from ocsp.feed_http import StatusFeed
from ocsp.from_ledger import FromLedger
from pki.directory.publisher import Publisher
from pki.hierarchy import CRL_ISSUERS, FEED_KEY, LOG_KEY, Hierarchy
from pki.issuer import Issuer
from pki.ledger import Ledger
from pki.lint import Linter
from pki.log.log import Log
from pki.mass_revocation import MassRevocation
from pki.partition import CA_CERTIFICATES, USER_CERTIFICATES
from pki.profile import Profile
from pki.revoked_authorities import RevokedAuthorities
from pki.signer.port import Signer
from pki.signer.watch import KeyWatch

_log = logging.getLogger(__name__)


@dataclass
class Instance:
    """Everything that is running, for the applications that show it."""

    settings: Settings
    clock: Clock
    store: SqliteStore
    log: Log
    ledger: Ledger
    linter: Linter
    profiles: Mapping[str, Profile]
    hierarchy: Hierarchy
    keys_note: str
    token: str
    crls: Crls
    since: datetime
    log_signer: Signer | None = None
    issuers: dict[str, Issuer] = field(default_factory=dict)
    crl_issuers: dict[str, Issuer] = field(default_factory=dict)
    crl_signers: dict[str, Signer] = field(default_factory=dict)
    """The keys of CRL issuers, by their names."""
    delegates: list[Delegate] = field(default_factory=list)
    statuses: FromLedger | None = None
    feed: StatusFeed | None = None
    feed_signer: Signer | None = None
    ocsp: Answering | None = None
    slapd: Running | NotRunning = NOT_STARTED
    tls: list[Certified] = field(default_factory=list)
    metrics: Metrics = field(init=False)
    version: str = version("digitalid")

    @cached_property
    def key_watch(self) -> KeyWatch:
        """Which keys could sign now; it looks once it was started."""
        return KeyWatch(self.signers, self.settings.keys.check_interval)

    def signers(self) -> dict[str, Signer]:
        """Every key that signs here, by its label."""
        found = {name: one.signer for name, one in self.hierarchy.authorities.items()}
        found |= {f"{name}-crl": signer for name, signer in self.crl_signers.items()}
        found |= {f"{one.issuer.name}-ocsp": one.signer for one in self.delegates}
        for name, signer in ((LOG_KEY, self.log_signer), (FEED_KEY, self.feed_signer)):
            if signer is not None:
                found[name] = signer
        return found

    @cached_property
    def revoked_authorities(self) -> RevokedAuthorities:
        """Which CAs issue nothing more."""
        return RevokedAuthorities(self.hierarchy.authorities)

    async def hear_kept_crls(self) -> None:
        """Take in what CRLs say of CAs here that are kept here and were signed elsewhere, whoever
        publishes them now."""
        ours = {stored.id async for stored in self.store.scan(CRL_ISSUERS)}
        async for stored in self.store.scan(CRL_HEADS):
            scope = stored.id
            if scope in ours or not self._is_signed_elsewhere(scope):
                continue
            try:
                crl = await newest_kept(self.store, self.settings.home / FOLDER, scope)
                if crl is not None:
                    self.revoked_authorities.read(scope, crl.read())
            except Broken as broken:
                why = f"a CRL of {scope}, signed elsewhere, may revoke this CA and cannot be read "
                why += f"({broken.code}: {broken.detail}); put its file back, and start again"
                _log.error("%s", why)
                self.revoked_authorities.miss(scope, why)

    def hear_crl(self, scope: str) -> None:
        """Take in what a CRL says of CAs here that was imported just now."""
        if self._is_signed_elsewhere(scope):
            crl = self.crls.of(scope).series.current().read()
            self.revoked_authorities.read(scope, crl)

    def _is_signed_elsewhere(self, scope: str) -> bool:
        ca, _, partition = scope.rpartition(".")
        if not partition.isdecimal() and partition not in (CA_CERTIFICATES, USER_CERTIFICATES):
            ca = scope
        return ca not in self.hierarchy.authorities or ca in self.settings.crl.offline

    @cached_property
    def directories(self) -> Directories:
        """The LDAP directories."""
        return Directories(self)

    @cached_property
    def ledger_copies(self) -> LedgerCopies:
        """Copies of the ledger, for backups."""
        settings = self.settings
        return LedgerCopies(self.store, settings.store.path, settings.home, self.log.origin)

    async def publishers(self) -> Mapping[str, Publisher]:
        """What publishes into each of them. Errors: ``no-directory``."""
        return await self.directories.publishers()

    @property
    def mass_revocation(self) -> MassRevocation:
        """Many certificates revoked at once."""
        return MassRevocation(self.store, self.ledger, self.profiles)
