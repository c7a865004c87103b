"""Compares a directory with the ledger, and mends it: every difference, in memory a page at a time.

First the entries of CAs and CRLs, then the ledger from its beginning (what is missing or differs),
then the directory from its beginning (what is there and should not be). Mending goes on where it
was interrupted: how far the ledger was gone through is kept.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from infra.store.port import Collection, Store
from pki.directory.entries import SERIAL_NUMBER, Entry, Wanted, may_be_shown, subject_of
from pki.directory.naming import same_name
from pki.directory.places import Place
from pki.directory.publisher import BATCH, Publisher
from pki.record import integer_of

REPAIRS: Final = Collection("directory_repairs")
"""By directory, up to which change of the ledger a repair has come that is not over."""

_OBJECT_CLASS: Final = "objectClass"
_HOLDERS: Final = "(objectClass=digitalidHolder)"

Found: TypeAlias = Mapping[str, tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class Difference:
    """An entry that is not as it should be; ``attributes``: which of it are not."""

    kind: Literal["missing", "surplus", "differing"]
    dn: str
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is. ``phase``: ``authorities``, ``ledger`` or ``directory``; ``end``: 0 where
    nobody knows."""

    phase: Literal["authorities", "ledger", "directory"]
    done: int
    end: int


Step: TypeAlias = Difference | Progress


class Comparison:
    """Compares one directory; ``repair``: and mends it."""

    def __init__(self, publisher: Publisher, store: Store, *, repair: bool) -> None:
        self._publisher = publisher
        self._store = store
        self._repair = repair

    async def steps(self) -> AsyncGenerator[Step, None]:
        """Everything that is found, as it is found. Errors: those of ``pki.directory.ldap``."""
        if self._repair:
            await self._publisher.prepare()
        for part in (self._authorities(), self._ledger(), self._directory()):
            async with aclosing(part) as steps:
                async for step in steps:
                    yield step

    async def _authorities(self) -> AsyncGenerator[Step, None]:
        publisher = self._publisher
        places = await publisher.places()
        for done, place in enumerate(places, 1):
            difference = await self._place(place)
            if difference is not None:
                yield difference
            yield Progress("authorities", done, len(places))
        known = {place.name for place in places}
        gone = [
            publisher.rules.tree.authority(name)
            for name in sorted(await publisher.placed() - known)
        ]
        found = await publisher.connections.read([(dn, (_OBJECT_CLASS,)) for dn in gone])
        there = [dn for dn, entry in zip(gone, found, strict=True) if entry is not None]
        for dn in there:
            yield Difference("surplus", dn)
        if self._repair and there:
            await publisher.remove(there)

    async def _place(self, place: Place) -> Difference | None:
        publisher = self._publisher
        entry = place.build()
        [found] = await publisher.connections.read([(entry.dn, entry.managed)])
        difference = _difference(entry, found)
        if difference is not None and self._repair:
            await publisher.place(place)
        return difference

    async def _ledger(self) -> AsyncGenerator[Step, None]:
        publisher = self._publisher
        source, rules = publisher.source, publisher.rules
        end = await source.ledger.sequence()
        after = await self._begun() if self._repair else 0
        while page := await source.ledger.changed(after, limit=BATCH):
            subjects = await source.concerned(rules, page)
            # A subject that comes again later in the ledger is looked at twice: that costs less
            # than to remember everybody.
            differing = []
            wanted = await source.wanted(rules, subjects)
            for subject, differences in zip(subjects, await self._differences(wanted), strict=True):
                if differences:
                    differing.append(subject)
                for difference in differences:
                    yield difference
            if self._repair:
                await publisher.mend(differing)
            after = page[-1].sequence
            if self._repair:
                await self._remember(after)
            yield Progress("ledger", min(after, end), end)
        if self._repair:
            await self._remember(0)

    async def _differences(self, wanted: Sequence[Wanted]) -> list[list[Difference]]:
        asked: list[tuple[str, tuple[str, ...]]] = []
        for one in wanted:
            if one.entry is not None:
                asked.append((one.entry.dn, one.entry.managed))
            asked += [(dn, (_OBJECT_CLASS,)) for dn in one.elsewhere]
        found = iter(await self._publisher.connections.read(asked))
        differences = []
        for one in wanted:
            of_one = []
            if one.entry is not None and (found_one := _difference(one.entry, next(found))):
                of_one.append(found_one)
            of_one += [Difference("surplus", dn) for dn in one.elsewhere if next(found) is not None]
            differences.append(of_one)
        return differences

    async def _directory(self) -> AsyncGenerator[Step, None]:
        publisher = self._publisher
        tree, done = publisher.rules.tree, 0
        search = publisher.connections.search(tree.base, _HOLDERS, ("uid", SERIAL_NUMBER))
        async with aclosing(search) as pages:
            async for page in pages:
                surplus = [dn for dn, found in page if await self._is_surplus(dn, found)]
                for dn in surplus:
                    yield Difference("surplus", dn)
                if self._repair and surplus:
                    await publisher.remove(surplus)
                done += len(page)
                yield Progress("directory", done, 0)

    async def _is_surplus(self, dn: str, found: Found) -> bool:
        source, rules = self._publisher.source, self._publisher.rules
        record = await source.record_of(self._publisher.repository.issuers, dict(found))
        if record is None:
            return True
        subject = subject_of(record)
        id = rules.id(subject)
        if rules.tree.plain and may_be_shown(rules, record):
            branch = rules.tree.branch(rules.profiles[record.profile].directory.branch)
            if dn == f"uid={id},{branch}":
                return False  # seen on the way through the ledger
        [wanted] = await source.wanted(rules, [subject])
        return wanted.entry is None or not same_name(wanted.entry.dn, dn)

    async def _begun(self) -> int:
        stored = await self._store.get(REPAIRS, self._publisher.name)
        return 0 if stored is None else integer_of(stored.body["after"])

    async def _remember(self, after: int) -> None:
        await self._publisher.source.put([(REPAIRS, self._publisher.name, {"after": after})])


def _difference(entry: Entry, found: Found | None) -> Difference | None:
    if found is None:
        return Difference("missing", entry.dn)
    there = {type.lower(): values for type, values in found.items()}
    differing = tuple(
        type
        for type in entry.managed
        if not _same(type, entry.attributes.get(type, ()), there.get(type.lower(), ()))
    )
    return Difference("differing", entry.dn, differing) if differing else None


def _same(type: str, wanted: Sequence[bytes], found: Sequence[bytes]) -> bool:
    if type == _OBJECT_CLASS:  # a server may add those above them
        return {name.lower() for name in wanted} <= {name.lower() for name in found}
    return sorted(wanted) == sorted(found)
