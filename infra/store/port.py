"""What a document store promises, whichever back end keeps it.

A change touches one document, atomically, and carries its own outbox entries: nothing above this
port needs a transaction over several documents, so SQLite and MongoDB serve alike.

Invariants that every back end keeps (``tests/contract/test_store.py``):

- when a call that changes something returns, the change survives power loss;
- a document's version starts at 1 and grows by 1 with each change;
- changes are made in the order of their calls, also when many wait at once, and their outbox
  entries have offsets in that order;
- an outbox entry exists if and only if the change that carried it does; offsets are positive, only
  grow, and a reader that has seen offset n never later finds a smaller one that it had not seen;
- a read sees every change whose call has returned.

A caller that is cancelled while it waits does not know whether its change was made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from infra.errors import Rejected

Value: TypeAlias = "bool | int | float | str | bytes | list[Value] | dict[str, Value] | None"
Document: TypeAlias = dict[str, Value]
Key: TypeAlias = "str | int | bytes"


@dataclass(frozen=True, slots=True)
class Index:
    """Top-level ``fields`` to look documents up by; one that lacks a field, or has None there, is
    not in the index.

    Names and fields: a-z, 0-9 and _. What a field holds has to be a ``Key``: text, octets or an
    integer of 64 bits; the order is integers, text by its UTF-8, octets. ``lasting``: once a
    document is there its fields seldom change, which makes no difference but to speed.
    """

    name: str
    fields: tuple[str, ...]
    unique: bool = False
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of documents and the indexes it can be searched by."""

    name: str
    indexes: tuple[Index, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as it stands; ``version`` is what the next ``replace`` must name."""

    id: str
    version: int
    body: Document


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a change announces: delivered at least once, in order of its offset."""

    topic: str
    key: str
    body: Document


@dataclass(frozen=True, slots=True)
class Announced:
    """An event with its place in the outbox."""

    offset: int
    event: Event


@dataclass(frozen=True, slots=True)
class New:
    """A document that is to be inserted."""

    id: str
    body: Document
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Replacement:
    """A body that is to take the place of ``before``, if nobody changed that since."""

    before: Stored
    body: Document
    events: tuple[Event, ...] = ()


class Duplicate(Rejected):
    """The id or a unique index already holds this value; ``index`` is its name, or ``id``.

    ``collection`` and ``id``: the document that was refused.
    """

    def __init__(self, collection: str, id: str, index: str) -> None:
        super().__init__(
            "duplicate", f"{collection}: a document with this {index} is there already"
        )
        self.collection = collection
        self.id = id
        self.index = index


class Conflict(Rejected):
    """Somebody else changed the document since it was read: read it again and decide again."""

    def __init__(self, collection: str, id: str) -> None:
        super().__init__("conflict", f"{collection}: {id} was changed meanwhile; read it again")
        self.collection = collection
        self.id = id


class Store(Protocol):
    """A document store.

    A document has at most 16 MiB encoded, a change at most 256 events. The body that is passed in
    is the one that the returned ``Stored`` holds: leave it alone afterwards.

    Errors: ``Duplicate``, ``Conflict``; ``Rejected`` with ``bad-key``, ``bad-document``,
    ``document-too-large`` and ``too-many-events``; ``Unavailable`` with ``storage-full``,
    ``storage-read-only`` and ``storage-unavailable``; ``Broken`` with ``storage-corrupt``,
    ``storage-broken``, ``bad-collection`` and ``bad-query``. A change that failed has left nothing
    behind.
    """

    async def insert(
        self, collection: Collection, id: str, body: Document, events: Sequence[Event] = ()
    ) -> Stored:
        """Add a document, durably. Errors: ``Duplicate``."""

    async def insert_many(self, collection: Collection, documents: Sequence[New]) -> None:
        """Add documents in this order, durably; a crash leaves a prefix of them, a refusal
        (``Duplicate``) may leave the documents before the refused one."""

    async def replace(
        self, collection: Collection, before: Stored, body: Document, events: Sequence[Event] = ()
    ) -> Stored:
        """Put ``body`` in the place of ``before``, durably, if nobody changed it since.
        Errors: ``Conflict``, ``Duplicate``."""

    async def write(self, changes: Sequence[tuple[Collection, New | Replacement]]) -> None:
        """Make these changes in this order, durably, each of them whole; a crash leaves those up
        to some point, a refusal (``Duplicate``, ``Conflict``) may leave those before the refused
        one. It costs one wait for the disk where one call each would cost several."""

    async def get(self, collection: Collection, id: str) -> Stored | None:
        """The document with this id."""

    async def find(
        self,
        collection: Collection,
        index: str,
        equal: Sequence[Key] = (),
        *,
        low: Key | None = None,
        high: Key | None = None,
        reverse: bool = False,
        limit: int = 1000,
    ) -> list[Stored]:
        """Documents whose first index fields equal ``equal`` and whose next index field is at
        least ``low`` and less than ``high``, in index order; at most ``limit`` of them. Those that
        share all values come in any order, and a large answer is read in pages, between which
        others may change what is still to come."""

    def keys(
        self,
        collection: Collection,
        index: str,
        fields: Sequence[str],
        equal: Sequence[Key] = (),
        *,
        low: Key | None = None,
        high: Key | None = None,
        page: int = 1000,
    ) -> AsyncIterator[list[tuple[Key, ...]]]:
        """What the index itself holds of the documents that ``find`` would give, in index order
        and in memory a page at a time; no document is read, which is several times as fast.

        ``fields``: those of the index after ``equal``, in the order in which a row is to have
        them. Documents that share all of them may come once."""

    def scan(self, collection: Collection, *, page: int = 1000) -> AsyncIterator[Stored]:
        """Every document in order of id, in memory a page at a time."""

    async def count(self, collection: Collection) -> int:
        """How many documents there are."""

    async def events(self, after: int, *, limit: int = 1000) -> list[Announced]:
        """Outbox entries with an offset greater than ``after``, in order."""

    async def cursor(self, consumer: str) -> int:
        """The offset that this consumer has acknowledged, 0 at first."""

    async def acknowledge(self, consumer: str, offset: int) -> None:
        """Record that ``consumer`` has handled everything up to ``offset``; never moves back."""

    async def forget_events(self, up_to: int) -> None:
        """Drop outbox entries up to this offset; offsets are not used again."""

    async def close(self) -> None:
        """Finish what is under way and let go of the files or connections."""
