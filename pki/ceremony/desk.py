"""What a step works with, and what every act answers: the ports of a ceremony."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from infra.clock import Clock
from pki.ceremony.place import Place
from pki.ceremony.script import Script, Step
from pki.ceremony.state import Listed, Person, State
from pki.issuer import Issuer
from pki.profile import Profile

Shown: TypeAlias = list[list[str]]
"""What people see: a sentence (one text), or a name and its value (two)."""

Fields: TypeAlias = Mapping[str, Any]
"""Of an entry: texts, whole numbers, lists and objects."""

Wrong: TypeAlias = Iterator[tuple[str, str]]
"""What does not hold: a code, and a sentence."""

AnyStep = TypeVar("AnyStep", bound=Step, contravariant=True)


class Paused(Exception):
    """Somebody asked for a pause, or the terminal went away: what is recorded stays."""


class Room(Protocol):
    """The people, as a step sees them. Each method raises ``Paused``."""

    def show(self, shown: Shown) -> None:
        """Have it read, page by page."""

    def ask(self, question: str, answers: Sequence[str] = ()) -> str:
        """A line typed in; one of ``answers``, if there are any."""

    def secret(self, question: str) -> bytearray:
        """A line typed in without echo."""


class CrlBuilder(Protocol):
    """Builds what a CRL issuer signs (RFC 5280 §5.1.2)."""

    def __call__(
        self,
        issuer: Issuer,
        algorithm: bytes,
        *,
        number: int,
        this_update: datetime,
        next_update: datetime,
        listed: Sequence[Listed],
    ) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What is the same for every step. ``random``: octets from a CSPRNG; ``lint``:
    the errors that pkilint finds on a certificate of a profile; ``facts``: of software and
    machine."""

    clock: Clock
    random: Callable[[int], bytes]
    profiles: Mapping[str, Profile]
    build_crl: CrlBuilder
    lint: Callable[[bytes, Profile], Sequence[str]]
    facts: Callable[[], Mapping[str, str]]


class Desk(Protocol):
    """A ceremony in progress, as one step sees it. ``folder``: of this ceremony; ``language``:
    ``en`` or ``zh``."""

    script: Script
    folder: Path
    language: str
    place: Place
    room: Room
    tools: Tools

    @property
    def state(self) -> State:
        """Where it stands before this step."""

    def say(self, text: str, **values: object) -> str:
        """A text in the ceremony's language."""

    def secret(self, label: str, *, coming: bool = False) -> bytearray:
        """The shared secret of a token, from the custodians unless it is in memory."""

    def remember(self, set_identifier: bytes, secret: bytearray) -> None:
        """Keep a new secret in memory until the process ends."""

    def join(self, person: Person, sign: Callable[[bytes], bytes]) -> None:
        """Record that somebody takes part, signed by their own key."""


class Act(Protocol[AnyStep]):
    """One kind of step. Only ``intend`` and ``perform`` touch the world; the others are pure, and
    what a run uses to go on, ``verify`` uses to check."""

    def intend(self, step: AnyStep, desk: Desk) -> dict[str, Any]:
        """All that is decided before anybody confirms, written down before it is done."""

    def show(self, step: AnyStep, intent: Fields, state: State, language: str) -> Shown:
        """The intent in plain words, decoded."""

    def perform(self, step: AnyStep, intent: Fields, desk: Desk) -> dict[str, Any]:
        """Do it. After a crash it is called again with the same intent."""

    def fold(self, step: AnyStep, intent: Fields, result: Fields, state: State) -> State:
        """The state after it."""

    def check(self, step: AnyStep, intent: Fields, result: Fields, state: State) -> Wrong:
        """What of the result does not follow from the intent, in the state before."""
