"""A transcript, entry by entry: where the ceremony stands, and all that does not hold.

A run goes on from where this ends; ``verify`` reads the whole with it. What is found is named with
the number of its entry, and reading goes on, so that one alteration does not hide another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from infra.errors import Failure, Rejected
from pki.algorithms import SIGNATURE_ALGORITHMS, key_type_of
from pki.ceremony.acts import act_of
from pki.ceremony.desk import Shown
from pki.ceremony.script import (
    AnyStep,
    Attend,
    ChangePin,
    Check,
    Close,
    HandOver,
    Inspect,
    Receive,
    Role,
    Script,
    ShareSecret,
    parse_script,
    step_name,
)
from pki.ceremony.state import Person, State, read_kept, read_set
from pki.ceremony.text import EDITION
from pki.ceremony.transcript import FORMAT, NOTHING, Entry, Kind, signed_by

CLOCK_STEP: Final = timedelta(seconds=2)
"""How far a clock may go back between two entries without a word: it is being adjusted."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """What does not hold. ``entry``: its number, -1 for the transcript as a whole."""

    entry: int
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Open:
    """A step that is under way. ``digest``: of its intend entry; ``confirmed``: by whom."""

    digest: str
    intent: Mapping[str, Any]
    confirmed: tuple[str, ...] = ()


class _Join(msgspec.Struct, forbid_unknown_fields=True):
    place: str
    role: Role
    name: str
    how: str
    algorithm: str
    public_key: bytes


@dataclass(slots=True)
class Replay:
    """The entries so far. ``opened``: the identifiers of sharings whose secret is in memory."""

    state: State = field(default_factory=State)
    script: Script | None = None
    language: str = "en"
    rehearsal: bool = False
    begun: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0
    open: Open | None = None
    opened: frozenset[str] = frozenset()
    finished: bool = False
    count: int = 0
    head: str = NOTHING
    at: datetime | None = None
    wrong: list[Wrong] = field(default_factory=list)

    def feed(self, entry: Entry) -> None:
        """The next entry; what does not hold is added to ``wrong``."""
        number = self.count
        found = [*self._chain(entry)]
        try:
            found += self._tell(entry)
        except Failure as failure:
            found.append((failure.code, failure.detail))
        except Exception as error:
            # Whatever stands in a hostile transcript, and whichever library chokes on it.
            found.append(("malformed-entry", f"it is not as such an entry is: {error!r}"[:200]))
        self.wrong += [Wrong(number, code, detail) for code, detail in found]
        self.count, self.head, self.at = number + 1, entry.digest, entry.at

    def _chain(self, entry: Entry) -> Iterator[tuple[str, str]]:
        if entry.number != self.count:
            yield (
                "wrong-number",
                f"it says that it is entry {entry.number}: one is missing or moved",
            )
        if entry.previous != self.head:
            yield "broken-chain", "the line before it is not the one that it was written after"
        if self.at is not None and entry.at < self.at - CLOCK_STEP and entry.kind != Kind.resume:
            yield "time-goes-back", "it is older than the entry before it"
        if self.finished:
            yield "after-the-end", "everybody had signed the whole before it was written"
        if self.count and self.script is None:
            yield "no-script", "the transcript does not begin with a script that can be read"

    def _tell(self, entry: Entry) -> Iterator[tuple[str, str]]:
        match entry.kind:
            case Kind.begin:
                yield from self._begin(entry)
            case Kind.joined:
                yield from self._join(entry)
            case Kind.intend:
                yield from self._intend(entry)
            case Kind.confirm:
                yield from self._confirm(entry)
            case Kind.unlock:
                yield from self._unlock(entry)
            case Kind.done:
                yield from self._done(entry)
            case Kind.note:
                yield from self._note(entry)
            case Kind.resume:
                self.opened = frozenset()
            case Kind.pause:
                pass

    def _begin(self, entry: Entry) -> Iterator[tuple[str, str]]:
        body = entry.body
        if self.count:
            yield "begins-twice", "a ceremony begins once"
            return
        if body["format"] != FORMAT:
            yield "unknown-format", f"this program reads {FORMAT}"
        if body["rehearsal"] not in ("yes", "no") or body["language"] not in ("en", "zh"):
            yield "malformed-entry", "rehearsal is yes or no, language en or zh"
        msgspec.convert(body["facts"], dict[str, str])
        if not isinstance(body["previous"], str) or len(body["previous"]) != len(NOTHING):
            yield "malformed-entry", "the head of the ceremony before is a hash"
        self.script = parse_script(body["script"])
        self.language, self.rehearsal = body["language"], body["rehearsal"] == "yes"
        self.begun = body
        self.state = State(base=self.script.public_url, kept=read_kept(body["kept"]))

    def current(self) -> AnyStep:
        """The step that it stands at. Errors: ``Rejected("no-step")`` at the end."""
        if self.script is None or self.step >= len(self.script.step):
            raise Rejected("no-step", "the script has no step here")
        return self.script.step[self.step]

    def confirmers(self) -> list[str]:
        """Who confirms the step that it stands at, in the order in which they are asked."""
        step = self.current()
        match step:
            case Attend():
                return []
            case Close():
                return list(self.state.people)
            case _:
                return [p.id for p in self.state.people.values() if p.role in step.confirm]

    def missing(self) -> list[str]:
        """Who has not confirmed the open step yet."""
        confirmed = () if self.open is None else self.open.confirmed
        return [person for person in self.confirmers() if person not in confirmed]

    def _join(self, entry: Entry) -> Iterator[tuple[str, str]]:
        told = msgspec.convert(entry.body, _Join)
        if self.open is None or not isinstance(self.current(), Attend) or self.script is None:
            yield "join-out-of-place", "people register in the first step"
            return
        if (told.role, told.place) not in set(self.script.people.each()):
            yield "unknown-place", f"the script has no {told.place}"
        if told.place in self.state.people:
            yield "registered-twice", f"{told.place} is taken already"
        keys = [person.public_key_info for person in self.state.people.values()]
        if told.public_key in keys:
            yield "same-key", "another person has this key"
        algorithm = SIGNATURE_ALGORITHMS.get(told.algorithm)
        if algorithm is None or key_type_of(told.public_key) not in algorithm.key_types:
            yield "unknown-algorithm", f"{told.algorithm} does not go with this key"
        if not signed_by(entry, told.algorithm, told.public_key):
            yield "bad-signature", f"{told.place} has not signed with the key that is registered"
        person = Person(told.place, told.role, told.name, told.how, told.algorithm, told.public_key)
        self.state = replace(self.state, people={**self.state.people, told.place: person})

    def _intend(self, entry: Entry) -> Iterator[tuple[str, str]]:
        body, step = entry.body, self.current()
        if self.open is not None:
            yield "step-out-of-order", "the step before it was not done yet"
        if body["step"] != self.step or body["act"] != step_name(step):
            yield "step-out-of-order", f"the script has {step_name(step)} as step {self.step + 1}"
        self.open = Open(entry.digest, body["intent"])
        msgspec.convert(body["shown"], list[list[str]])
        shown = act_of(step).show(step, body["intent"], self.state, self.language)
        if self.begun["texts"] == EDITION:
            same = shown == body["shown"]
        else:
            # Another version says it in other words: the values that it read back are the same.
            same = _values(shown) == _values(body["shown"])
        if not same:
            yield "shown-differs", "what people were shown is not what was to be done"

    def _confirm(self, entry: Entry) -> Iterator[tuple[str, str]]:
        person = entry.body["person"]
        if self.open is None:
            yield "confirm-out-of-place", "there was nothing to confirm"
            return
        if entry.body["intent"] != self.open.digest or entry.body["step"] != self.step:
            yield "confirms-another-step", f"{person} has confirmed something else"
        if person in self.open.confirmed:
            yield "confirmed-twice", f"{person} had confirmed it before"
        yield from self._signature(entry, person)
        self.open = replace(self.open, confirmed=(*self.open.confirmed, person))
        if isinstance(self.current(), Close) and not self.missing():
            step = self.current()
            found = act_of(step).check(step, self.open.intent, {}, self.state)
            yield from found
            self.finished, self.open = True, None
            self.step += 1

    def _signature(self, entry: Entry, person: str) -> Iterator[tuple[str, str]]:
        known = self.state.people.get(person)
        if known is None:
            yield "unknown-person", f"nobody registered as {person}"
        elif not signed_by(entry, known.algorithm, known.public_key_info):
            yield "bad-signature", f"the signature is not one of {known.name} over these words"

    def _unlock(self, entry: Entry) -> Iterator[tuple[str, str]]:
        body = entry.body
        sharings = [*self.state.kept.sets.values(), *self.state.kept.coming.values()]
        known = [each for each in sharings if each.identifier.hex() == body["set"]]
        if not known:
            yield "unknown-set", "these shares are of a set that no ceremony has made"
            return
        places = [place for place, _ in body["shares"]]
        if len(set(places)) < known[0].threshold or not set(places) <= set(known[0].shares):
            yield "too-few-shares", f"{known[0].threshold} different shares are needed"
        self.opened |= {body["set"]}

    def _done(self, entry: Entry) -> Iterator[tuple[str, str]]:
        body, step = entry.body, self.current()
        if self.open is None or isinstance(step, Close):
            yield "done-out-of-place", "nothing was under way"
            return
        if body["step"] != self.step or body["intent"] != self.open.digest:
            yield "done-out-of-place", "it is the end of another step than the one under way"
        missing = self.missing()
        if missing:
            yield "not-confirmed", f"it was done without {', '.join(missing)}"
        yield from self._locked(step)
        act, intent, result = act_of(step), self.open.intent, body["result"]
        yield from act.check(step, intent, result, self.state)
        self.state = act.fold(step, intent, result, self.state)
        if isinstance(step, ShareSecret):
            self.opened |= {read_set(result["set"]).identifier.hex()}
        self.open = None
        self.step += 1

    def _locked(self, step: AnyStep) -> Iterator[tuple[str, str]]:
        """Whether the custodians had opened what the step used."""
        if not uses_secret(step):
            return
        label = "" if self.script is None else self.script.token.set_label
        kept = self.state.kept
        needed = [kept.sets.get(label)]
        if isinstance(step, ChangePin):
            needed.append(kept.coming.get(label))
        for sharing in needed:
            if sharing is None or sharing.identifier.hex() not in self.opened:
                yield "not-unlocked", "the custodians had not given their shares"

    def _note(self, entry: Entry) -> Iterator[tuple[str, str]]:
        if entry.body["about"] not in ("comment", "deviation", "refusal"):
            yield "malformed-entry", "a note is a comment, a deviation or a refusal"
        yield from self._signature(entry, entry.body["person"])


def uses_secret(step: AnyStep) -> bool:
    """Whether a step needs the token open, and so the custodians' secret."""
    match step:
        case Attend() | Check() | Inspect() | HandOver() | Receive() | Close():
            return False
        case ShareSecret():
            return step.keep
        case _:
            return True


def _values(shown: Shown) -> list[str]:
    return [item[1] for item in shown if len(item) == 2]


def replay(entries: list[Entry]) -> Replay:
    """Where these entries lead, and what of them does not hold."""
    told = Replay()
    for entry in entries:
        told.feed(entry)
    return told


def fingerprint_of(script: str) -> str:
    """SHA-256 of a script's text, in hexadecimal."""
    return hashlib.sha256(script.encode()).hexdigest()
