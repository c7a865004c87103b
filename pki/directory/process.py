"""The directory's connections, each in a process of its own: LDAP must not keep issuance waiting.

What is asked may be asked again, so a process that dies or hangs costs nothing but time.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from typing import Final, TypeAlias, assert_never

import msgspec

from infra.errors import Failure, Rejected, Unavailable
from infra.framing import MAX_MESSAGE
from infra.worker import Worker, work
from pki.directory.entries import Entry, Wanted
from pki.directory.ldap import LdapDirectory, Login, Page
from pki.directory.result import Outcome

_PAGE: Final = 500
_GRACE: Final = 20.0
"""Seconds beyond the directory's own time-outs after which a process is given up."""

Found: TypeAlias = dict[str, tuple[bytes, ...]]


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    dn: str
    attributes: dict[str, tuple[bytes, ...]]
    managed: tuple[str, ...]


class _Apply(msgspec.Struct, frozen=True, array_like=True, tag=True):
    wanted: list[tuple[_Entry | None, tuple[str, ...]]]


class _Ensure(msgspec.Struct, frozen=True, array_like=True, tag=True):
    entries: list[_Entry]


class _Read(msgspec.Struct, frozen=True, array_like=True, tag=True):
    entries: list[tuple[str, tuple[str, ...]]]


class _Search(msgspec.Struct, frozen=True, array_like=True, tag=True):
    base: str
    filter: str
    types: tuple[str, ...]
    cookie: bytes


class _Applied(msgspec.Struct, frozen=True, array_like=True, tag=True):
    outcomes: list[Outcome]


class _Were(msgspec.Struct, frozen=True, array_like=True, tag=True):
    entries: list[Found | None]


class _Page(msgspec.Struct, frozen=True, array_like=True, tag=True):
    page: Page


class _Failed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    code: str
    detail: str
    later: bool


_Question: TypeAlias = _Apply | _Ensure | _Read | _Search
_Answer: TypeAlias = _Applied | _Were | _Page | _Failed

_encode: Final = msgspec.msgpack.Encoder().encode
_question: Final = msgspec.msgpack.Decoder(_Question).decode
_answer: Final = msgspec.msgpack.Decoder(_Answer).decode


class Connections:
    """A directory, reached through ``count`` processes.

    Errors of every method: those of ``pki.directory.ldap``.
    """

    def __init__(self, login: Login, count: int = 1) -> None:
        self._login = login
        self._workers = [self._worker() for _ in range(count)]

    async def ensure(self, entries: Sequence[Entry]) -> None:
        """Make the branches of the tree that are missing, and see that the schema is known."""
        await self._ask(self._workers[0], _Ensure([_plain(entry) for entry in entries]))

    async def apply(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        """Make each what it is to be. An entry is always written by the same connection."""
        shares: list[list[int]] = [[] for _ in self._workers]
        for place, one in enumerate(wanted):
            dn = one.entry.dn if one.entry else "".join(one.elsewhere)
            shares[hash(dn) % len(shares)].append(place)
        answers = await asyncio.gather(
            *(
                self._apply(worker, [wanted[place] for place in share])
                for worker, share in zip(self._workers, shares, strict=True)
            )
        )
        outcomes = dict[int, Outcome]()
        for share, found in zip(shares, answers, strict=True):
            outcomes.update(zip(share, found, strict=True))
        return [outcomes[place] for place in range(len(wanted))]

    async def read(self, entries: Sequence[tuple[str, tuple[str, ...]]]) -> list[Found | None]:
        """The attributes of each entry, by its name and the types that are wanted; None for one
        that is not there."""
        answer = await self._ask(self._workers[0], _Read(list(entries)))
        assert isinstance(answer, _Were)  # noqa: S101 - what is asked is answered
        return answer.entries

    async def search(
        self, base: str, filter: str, types: Sequence[str]
    ) -> AsyncGenerator[list[tuple[str, Found]], None]:
        """All entries below ``base`` that match, a page at a time, on a connection of its own."""
        worker, cookie = self._worker(), b""
        try:
            while True:
                answer = await self._ask(worker, _Search(base, filter, tuple(types), cookie))
                assert isinstance(answer, _Page)  # noqa: S101 - what is asked is answered
                yield answer.page.entries
                cookie = answer.page.cookie
                if not cookie:
                    return
        finally:
            await worker.close()

    async def close(self) -> None:
        """End the processes."""
        await asyncio.gather(*(worker.close() for worker in self._workers))

    def _worker(self) -> Worker:
        login = msgspec.json.encode(self._login).decode()
        return Worker(__name__, login, patience=2 * self._login.timeout + _GRACE)

    async def _apply(self, worker: Worker, wanted: list[Wanted]) -> list[Outcome]:
        if not wanted:
            return []
        asked = [
            (None if one.entry is None else _plain(one.entry), one.elsewhere) for one in wanted
        ]
        answer = await self._ask(worker, _Apply(asked))
        assert isinstance(answer, _Applied)  # noqa: S101 - what is asked is answered
        return answer.outcomes

    async def _ask(self, worker: Worker, question: _Question) -> _Applied | _Were | _Page:
        encoded = _encode(question)
        if len(encoded) > MAX_MESSAGE:
            raise Rejected("directory-too-large", "more is to be written at one time than fits")
        answer: _Answer = _answer(await worker.ask(encoded))
        if isinstance(answer, _Failed):
            kind = Unavailable if answer.later else Rejected
            raise kind(answer.code, answer.detail)
        return answer


def _plain(entry: Entry) -> _Entry:
    return _Entry(entry.dn, dict(entry.attributes), entry.managed)


class _Desk:
    """In the process: one connection, and what is asked of it."""

    def __init__(self, login: Login) -> None:
        self._directory = LdapDirectory(login)

    def answer(self, data: bytes) -> bytes:
        try:
            return _encode(self._done(_question(data)))
        except Failure as failure:
            later = isinstance(failure, Unavailable)
            return _encode(_Failed(failure.code, failure.detail, later))
        except Exception as error:
            # Whatever a directory does to us, the next question is answered.
            self._directory.close()
            why = f"the directory was not understood ({type(error).__name__})"
            return _encode(_Failed("directory-unavailable", why, True))

    def _done(self, question: _Question) -> _Answer:
        directory = self._directory
        match question:
            case _Apply(wanted=wanted):
                return _Applied(
                    directory.apply(
                        [
                            Wanted(None if entry is None else _entry(entry), gone)
                            for entry, gone in wanted
                        ]
                    )
                )
            case _Ensure(entries=entries):
                directory.ensure([_entry(entry) for entry in entries])
                return _Applied([])
            case _Read(entries=asked):
                return _Were(directory.read(asked))
            case _Search(base=base, filter=filter, types=types, cookie=cookie):
                return _Page(directory.page(base, filter, types, size=_PAGE, cookie=cookie))
            case _ as never:
                assert_never(never)


def _entry(plain: _Entry) -> Entry:
    return Entry(plain.dn, plain.attributes, plain.managed)


if __name__ == "__main__":
    work(_Desk(msgspec.json.decode(sys.argv[2], type=Login)).answer)
