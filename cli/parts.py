"""The parts of an instance, for the applications that show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version

from cli.crls import Crls
from cli.directories import Directories
from cli.metrics import Metrics
from cli.private_slapd import NOT_STARTED, NotRunning, Running
from cli.validation import Answering
from conf.schema import Settings
from infra.clock import Clock
from infra.store.sqlite import SqliteStore
from ocsp.delegate import Delegate
from ocsp.feed_http import StatusFeed
from ocsp.from_ledger import FromLedger
from pki.directory.publisher import Publisher
from pki.hierarchy import Hierarchy
from pki.issuer import Issuer
from pki.ledger import Ledger
from pki.lint import Linter
from pki.log.log import Log
from pki.mass_revocation import MassRevocation
from pki.profile import Profile
from pki.signer.port import Signer


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
    log_signer: Signer | None = None
    issuers: dict[str, Issuer] = field(default_factory=dict)
    crl_issuers: dict[str, Issuer] = field(default_factory=dict)
    delegates: list[Delegate] = field(default_factory=list)
    statuses: FromLedger | None = None
    feed: StatusFeed | None = None
    feed_signer: Signer | None = None
    ocsp: Answering | None = None
    slapd: Running | NotRunning = NOT_STARTED
    metrics: Metrics = field(init=False)
    version: str = version("digitalid")

    @cached_property
    def directories(self) -> Directories:
        """The LDAP directories."""
        return Directories(self)

    async def publishers(self) -> Mapping[str, Publisher]:
        """What publishes into each of them. Errors: ``no-directory``."""
        return await self.directories.publishers()

    @property
    def mass_revocation(self) -> MassRevocation:
        """Many certificates revoked at once."""
        return MassRevocation(self.store, self.ledger, self.profiles)
