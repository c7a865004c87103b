"""The composition root: settings become a running instance, and nothing else knows all its parts.

Start-up, in this order: the state folder is locked, the store opened, what a crash has interrupted
is finished, the CAs are opened with their keys, and only then does anything listen.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from cli.backup import ledger as backup_ledger
from cli.service.crls import COLLECTIONS as CRL_COLLECTIONS
from cli.service.crls import Crls
from cli.service.directories import COLLECTIONS as DIRECTORY_COLLECTIONS
from cli.service.ending import tls_in_use
from cli.service.from_settings import (
    all_profiles,
    blocked_keys,
    urls,
    waived_findings,
)
from cli.service.keys import open_keys
from cli.service.listening import admin_app
from cli.service.maintenance import Chore, Maintenance
from cli.service.metrics import Metrics
from cli.service.parts import Instance
from cli.service.private_slapd import private_slapd
from cli.service.validation import TABLE, responder_id
from conf.schema import Settings
from infra.clock import SystemClock
from infra.errors import Rejected
from infra.http.app import serve_unix
from infra.state import ADMIN_SOCKET, check_folder, kept_secret, node_name, owned
from infra.store.sqlite import SqliteStore
from ocsp.feed_http import StatusFeed
from ocsp.from_ledger import FromLedger
from ocsp.responder import Delegate
from ocsp.table import TableWriter
from pki.authority import ALTERED, Checks
from pki.hierarchy import COLLECTIONS as HIERARCHY_COLLECTIONS
from pki.hierarchy import DEVELOPMENT, LOG_KEY, SERVICE_KEYS, SYSTEM, Hierarchy, public_log_key
from pki.ledger import Ledger
from pki.ledger_audit import verify_ledger
from pki.lint import Linter
from pki.log.act import Act
from pki.log.audit import Progress, Report
from pki.log.checkpoint import verifier_key
from pki.log.log import COLLECTIONS as LOG_COLLECTIONS
from pki.log.log import Log
from pki.mass_revocation import COLLECTIONS as REVOCATION_JOBS
from pki.offline import REQUESTED, issuer_above
from pki.partition import Partitioning
from pki.preparation import Preparation, PrepareHere
from pki.profile_check import COLLECTION as PROFILE_CHECKS
from pki.profile_check import check_all
from pki.record import CERTIFICATES

COLLECTIONS: Final = (
    CERTIFICATES,
    *HIERARCHY_COLLECTIONS,
    *LOG_COLLECTIONS,
    *CRL_COLLECTIONS,
    *DIRECTORY_COLLECTIONS,
    PROFILE_CHECKS,
    *REVOCATION_JOBS,
    REQUESTED,
)

_log = logging.getLogger(__name__)


@asynccontextmanager
async def running(
    settings: Settings,
    *,
    create: bool,
    serving: bool,
    socket: Path = ADMIN_SOCKET,
    step: Callable[[str], None] = lambda step: None,
) -> AsyncIterator[Instance]:
    """An instance of the product on its state folder, with its administration socket open.

    ``create``: make the development hierarchy if there is no CA yet; ``serving``: the instance
    stays, so it does its chores and gathers revocations before a CRL is made; ``socket``: where
    that is in the home folder; ``step``: called with the name of each step of issuance, for crash
    tests. Errors: ``state-locked`` and everything that opening the store, the keys and the
    profiles can refuse.
    """
    clock = SystemClock()
    home = settings.home
    async with AsyncExitStack() as stack:
        stack.enter_context(owned(home))
        backup_ledger.sweep(home)
        token = kept_secret(home / "secrets" / "operator.token")
        profiles = all_profiles(settings)
        store = await SqliteStore.open(settings.store.path, COLLECTIONS)
        stack.push_async_callback(store.close)
        log = await Log.open(store, origin=settings.log.origin, clock=clock)
        intent_key = hashlib.sha256(kept_secret(home / "secrets" / "ledger.key").encode()).digest()
        ledger = await Ledger.open(store, log, clock, intent_key=intent_key, step=step)
        keys, keys_note = await open_keys(settings, new=not await store.count(SERVICE_KEYS))
        stack.push_async_callback(keys.close)
        linter = Linter()
        stack.push_async_callback(linter.close)
        # A command that issues one certificate would only wait for another process to start; and
        # one processor is for this process, whose loop must not wait for its turn.
        blocked = blocked_keys(settings.issuance.blocked_keys)
        processes = (
            Preparation(max(1, (os.cpu_count() or 1) - 1), settings.issuance.blocked_keys)
            if serving
            else None
        )
        if processes is not None:
            stack.push_async_callback(processes.close)
        hierarchy = Hierarchy(
            store,
            keys,
            ledger,
            log,
            linter,
            profiles,
            urls=partial(urls, settings.http, settings.directory),
            prepare=processes or PrepareHere(blocked),
            checks=Checks(
                lint_share=settings.issuance.lint_share,
                waived_findings=waived_findings(settings.http),
                verify_signatures=settings.issuance.verify_signature,
            ),
            partitioning=Partitioning(settings.crl.partitions, settings.crl.by_kind),
            step=step,
        )
        instance = Instance(
            settings,
            clock,
            store,
            log,
            ledger,
            linter,
            profiles,
            hierarchy,
            keys_note,
            token,
            Crls(
                settings.crl,
                home,
                ledger,
                store,
                clock,
                _Recorder(log, ledger),
                holder=node_name(home),
                # A command would only wait for another process to start.
                linter=linter if serving else None,
                gather=serving,
                step=step,
            ),
            clock.now(),
        )
        await _open(instance, create=create, stack=stack, serving=serving)
        if serving:
            instance.tls = tls_in_use(settings)
            instance.slapd = await stack.enter_async_context(private_slapd(settings))
            await _follow(instance, stack)
        stack.push_async_callback(instance.directories.stop)
        if serving:
            await instance.directories.start()
            maintenance = Maintenance(_chores(instance))
            maintenance.start()
            stack.push_async_callback(maintenance.stop)
            keys.when_lost(instance.key_watch.soon)
            await instance.key_watch.start()
            stack.push_async_callback(instance.key_watch.stop)
        instance.metrics = Metrics(instance.log, instance.crls, instance.key_watch)
        (home / socket).parent.mkdir(mode=0o700, exist_ok=True)
        check_folder((home / socket).parent)
        admin = await serve_unix(admin_app(instance), home / socket)
        stack.push_async_callback(admin.stop)
        yield instance


@asynccontextmanager
async def embedded(settings: Settings) -> AsyncIterator[Path]:
    """An instance for one command, when none runs; yields its administration socket.

    The socket has a name of its own, so that no other command takes it for one that stays.
    """
    socket = ADMIN_SOCKET.with_name(f"{os.getpid()}.sock")
    async with running(settings, create=False, serving=False, socket=socket):
        yield settings.home / socket


async def audit(
    settings: Settings, *, key: bytes | None, trusted: Sequence[bytes], progress: Progress
) -> Report:
    """Replay the log of a home folder in which no instance runs, whatever state it is in.

    ``key``: the log's SubjectPublicKeyInfo as kept elsewhere, else the one in the folder;
    ``trusted``: checkpoints kept elsewhere. Errors: ``no-such-state``, ``state-locked``,
    ``no-such-authority``, those of the store and of ``verify_ledger``.
    """
    if not settings.store.path.is_file():
        raise Rejected("no-such-state", f"there is no ledger at {settings.store.path}")
    with owned(settings.home):
        store = await SqliteStore.open(settings.store.path, COLLECTIONS)
        try:
            key_info = key or await public_log_key(store)
            verifier = verifier_key(settings.log.origin, key_info)
            return await verify_ledger(
                store,
                origin=settings.log.origin,
                keys=[verifier],
                trusted=trusted,
                progress=progress,
            )
        finally:
            await store.close()


async def _open(
    instance: Instance,
    *,
    create: bool,
    stack: AsyncExitStack,
    serving: bool,
) -> None:
    """Finish what was interrupted, open the CAs, and keep their CRLs current."""
    ledger, hierarchy = instance.ledger, instance.hierarchy
    await hierarchy.open()
    asked = [stored.id async for stored in instance.store.scan(REQUESTED)]
    hierarchy.awaited = [n for n in asked if n not in hierarchy.authorities and n != LOG_KEY]
    # Before they sign what was interrupted.
    await instance.revoked_authorities.learn(ledger)
    await instance.hear_kept_crls()
    for authority in hierarchy.authorities.values():
        for record in await authority.recover():
            if record.stored.body.get("void") == ALTERED:
                _log.error(
                    "%s is void: no CA here wrote this intent, so somebody else writes to the "
                    "store; run `digitalid log verify`",
                    record.act_id,
                )
                continue
            _log.warning("%s was interrupted and is now %s", record.act_id, record.state)
    if create:
        await check_all(instance.profiles, instance.store, instance.linter, ledger.now())
        # Where a certificate was asked of an offline CA, that is the hierarchy.
        for plan in () if await instance.store.count(REQUESTED) else DEVELOPMENT:
            await hierarchy.create(plan)
    if not hierarchy.authorities:
        return
    instance.log_signer = await hierarchy.log_key()
    await _record_configuration(instance)
    instance.delegates = [await _delegate(instance, name) for name in hierarchy.authorities]
    for name, authority in hierarchy.authorities.items():
        assert authority.issuer is not None  # noqa: S101 - an opened CA has its certificate
        instance.issuers[name] = authority.issuer
        await stack.enter_async_context(
            instance.crls.of_authority(authority.issuer, authority.signer)
        )
    for one in await hierarchy.crl_issuers(instance.settings.crl.indirect):
        instance.crl_issuers[one.issuer.name] = one.issuer
        instance.crl_signers[one.issuer.name] = one.signer
        await stack.enter_async_context(instance.crls.of_crl_issuer(one))
    for name in instance.settings.crl.offline:
        above = None if name in hierarchy.authorities else issuer_above(hierarchy, name)
        if above is not None:
            instance.crl_issuers[name] = above
            await stack.enter_async_context(instance.crls.of_offline(above))
    ledger.subscribe(instance.revoked_authorities.changed)
    ledger.subscribe(instance.crls.changed)
    if serving or create:
        await instance.log.checkpoint(instance.log_signer)


async def _follow(instance: Instance, stack: AsyncExitStack) -> None:
    """Keep the status table and the status feed equal to the ledger."""
    ledger, hierarchy = instance.ledger, instance.hierarchy
    path = instance.settings.home / TABLE
    path.parent.mkdir(mode=0o700, exist_ok=True)
    table = TableWriter.open(path)
    if await FromLedger(ledger, instance.log, table).is_other():
        _log.warning("the status table is begun anew: this ledger is another copy, or from before")
        table.close()
        table = TableWriter.open(path, anew=True)
    stack.callback(table.close)
    for name in hierarchy.authorities:
        table.issuer(name, complete=True, live=True)
    instance.statuses = FromLedger(ledger, instance.log, table)
    await instance.statuses.start()
    instance.feed_signer = await hierarchy.feed_key()
    instance.feed = StatusFeed(ledger, instance.log, instance.issuers, instance.feed_signer)
    feed = instance.feed
    # What is issued is found within a tenth of a second; a change of status goes out at once.
    ledger.subscribe(lambda record: feed.wake())


async def _delegate(instance: Instance, name: str) -> Delegate:
    lifetime = instance.settings.ocsp.responder_lifetime
    key = await instance.hierarchy.responder_key(name, lifetime=lifetime)
    return Delegate(key.issuer, key.signer, key.certificate, responder_id(instance.settings))


async def _record_configuration(instance: Instance) -> None:
    """Log which settings and profiles are in force, once for each change of them."""
    digest = hashlib.sha256(repr(instance.settings).encode())
    for name, profile in sorted(instance.profiles.items()):
        digest.update(f"{name} {profile.fingerprint}\n".encode())
    await _Recorder(instance.log, instance.ledger).record(
        "configuration.change", digest.digest(), {}, f"configuration/{digest.hexdigest()}"
    )


def _chores(instance: Instance) -> list[Chore]:
    settings = instance.settings

    async def sign_checkpoint() -> None:
        if instance.log_signer is not None:
            await instance.log.checkpoint(instance.log_signer)

    async def renew_responders() -> None:
        names = instance.hierarchy.authorities
        instance.delegates = [await _delegate(instance, name) for name in names]
        if instance.ocsp is not None:
            await instance.ocsp.install(instance.delegates)

    async def remember_statuses() -> None:
        if instance.statuses is not None:
            await instance.statuses.remember()

    return [
        Chore("the checkpoint", settings.log.checkpoint_interval, sign_checkpoint),
        Chore(
            "renewing OCSP certificates",
            min(timedelta(hours=1), settings.ocsp.responder_lifetime / 6),
            renew_responders,
        ),
        Chore("remembering what is logged", timedelta(seconds=10), instance.ledger.remember),
        Chore("remembering what is in the table", timedelta(seconds=10), remember_statuses),
    ]


class _Recorder:
    """Joins what makes CRLs to the log."""

    def __init__(self, log: Log, ledger: Ledger) -> None:
        self._log = log
        self._ledger = ledger

    async def record(
        self, what: str, object_hash: bytes, detail: Mapping[str, str | int], id: str
    ) -> None:
        if await self._log.find(id) is None:
            now = self._ledger.now()
            await self._log.append(Act(id, what, SYSTEM, now, object_hash, detail))
