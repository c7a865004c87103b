"""The directories of an instance: joined to its ledger, its CAs and its CRLs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cli.service.private_slapd import Running, private_slapd
from conf.directories import MAIN, directories
from conf.load import BadSetting
from conf.schema import Directory, Settings
from crl.history import Kind
from crl.scope import Contents
from infra.errors import Rejected, Unavailable
from infra.state import kept_secret
from pki.directory.compare import REPAIRS
from pki.directory.entries import Retention, Rules, Tree
from pki.directory.ldap import Login
from pki.directory.places import CrlFile, CrlSeries
from pki.directory.process import Connections
from pki.directory.publisher import PLACED, Publisher, Standing
from pki.directory.source import DUE, ERASURES, Source
from pki.issuer import Issuer

if TYPE_CHECKING:
    from cli.service.crls import Kept
    from cli.service.parts import Instance

COLLECTIONS: Final = (ERASURES, DUE, PLACED, REPAIRS)

KEY: Final = Path("secrets", "directory.key")
"""Where, in the state folder, the key of the HMACs is. Without it no entry is found again."""


class Directories:
    """The publishers, by the names of their directories; made when they are needed first."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._found: dict[str, Publisher] | None = None
        self._held = AsyncExitStack()
        self._opening = asyncio.Lock()

    async def start(self) -> None:
        """Publish from now on. Errors: ``bad-setting``."""
        for publisher in (await self._open()).values():
            await publisher.start()

    async def stop(self) -> None:
        """End it."""
        await asyncio.gather(*(one.stop() for one in (self._found or {}).values()))
        await self._held.aclose()

    async def publishers(self) -> Mapping[str, Publisher]:
        """All of them. Errors: ``no-directory``, ``bad-setting``."""
        found = await self._open()
        if not found:
            slapd = self._instance.slapd
            why = "" if isinstance(slapd, Running) else f" ({slapd.why})"
            raise Rejected(
                "no-directory", f"no directory is set: name one in directory.url, or run slapd{why}"
            )
        return found

    @property
    def failing(self) -> dict[str, str]:
        """Those that cannot be written to, with the codes of why."""
        found = self._found or {}
        return {name: one.failing for name, one in found.items() if one.failing}

    async def standings(self) -> dict[str, Standing]:
        """How each stands that is published to."""
        return {name: await one.standing() for name, one in (self._found or {}).items()}

    async def _open(self) -> dict[str, Publisher]:
        async with self._opening:
            if self._found is None:
                self._found = await self._publishers()
            return self._found

    async def _publishers(self) -> dict[str, Publisher]:
        instance = self._instance
        try:
            settings = directories(instance.settings)
        except BadSetting as error:
            raise Rejected("bad-setting", str(error)) from error
        own = await self._own(instance.settings)
        logins = {name: login(directory) for name, directory in settings.items()}
        if own is not None:
            settings = {MAIN: instance.settings.directory, **settings}
            logins[MAIN] = own
        if not settings:
            return {}
        # With another key the erased would not be known, and would be published again.
        used = await instance.store.count(PLACED) or await instance.store.count(ERASURES)
        key = kept_secret(instance.settings.home / KEY, new=not used).encode()
        source = Source(instance.ledger, instance.store, instance.log)
        return {
            name: Publisher(
                name,
                Connections(logins[name], directory.connections),
                rules(instance, directory, key),
                source,
                Repository(instance),
                instance.store,
                max_crl=directory.max_crl,
            )
            for name, directory in settings.items()
        }

    async def _own(self, settings: Settings) -> Login | None:
        """How to reach the directory server that we run ourselves, if one can be had."""
        if settings.directory.url:
            return None
        running = self._instance.slapd
        if not isinstance(running, Running) and self._instance.feed is None:
            running = await self._held.enter_async_context(private_slapd(settings, public=False))
        if not isinstance(running, Running):
            return None
        # It knows us by our user.
        directory = replace(
            settings.directory, bind="external", ca=None, certificate=None, key=None
        )
        return login(replace(directory, url=running.ldapi))


def login(directory: Directory) -> Login:
    """How to reach a directory."""

    def text(path: Path | None) -> str | None:
        return None if path is None else str(path)

    return Login(
        url=directory.url,
        start_tls=directory.start_tls,
        bind_dn=directory.bind_dn if directory.bind == "simple" else "",
        password=str(directory.password),
        ca=text(directory.ca),
        certificate=text(directory.certificate),
        key=text(directory.key),
        timeout=directory.timeout.total_seconds(),
        in_flight=directory.in_flight,
    )


def tree(directory: Directory) -> Tree:
    """Where things are in a directory."""
    return Tree(
        directory.base,
        directory.people,
        directory.enterprises,
        directory.authorities,
        tuple(directory.person_rdn.split("+")),
        tuple(directory.enterprise_rdn.split("+")),
    )


def rules(instance: Instance, directory: Directory, key: bytes) -> Rules:
    """What entries are made by."""
    keep = Retention(
        replaced=directory.replaced == "keep",
        expired=directory.expired == "keep",
        revoked=directory.revoked == "keep",
    )
    return Rules(tree(directory), keep, key, instance.profiles)


@dataclass(frozen=True, slots=True)
class Repository:
    """``pki.directory.places.Repository`` over an instance."""

    instance: Instance

    @property
    def issuers(self) -> Mapping[str, Issuer]:
        return self.instance.issuers

    def crls(self) -> Sequence[CrlSeries]:
        return [self._series(kept) for kept in self.instance.crls]

    def _series(self, kept: Kept) -> CrlSeries:
        contents = kept.series.scope.contents
        issuer = self.instance.issuers.get(kept.ca)
        # What a root issues is CAs' certificates.
        of_a_root = issuer is not None and not issuer.chain and contents is Contents.everybody
        return CrlSeries(
            scope=kept.series.name,
            ca=None if issuer is None else kept.ca,
            whole=issuer is not None and kept.whole,
            of_users=contents is not Contents.authorities,
            of_authorities=contents is Contents.authorities or of_a_root,
            full=_file(kept, Kind.full),
            delta=_file(kept, Kind.delta),
        )


def _file(kept: Kept, kind: Kind) -> CrlFile | None:
    try:
        crl = kept.series.current(kind)
    except (Rejected, Unavailable):
        return None
    return CrlFile(crl.sha256, crl.size, crl.read)
