"""Steps of people: who is there, what they see to, what they take away, and the end."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.errors import Rejected
from pki.ceremony.decoded import moment
from pki.ceremony.desk import Desk, Fields, Shown, Wrong
from pki.ceremony.media import write_medium
from pki.ceremony.participant import register
from pki.ceremony.script import Attend, Check, Close, HandOver, Inspect
from pki.ceremony.state import State
from pki.ceremony.text import name_of_fact, say
from pki.ceremony.words import in_groups, in_words


def fingerprint(digest: bytes, language: str) -> Shown:
    """A hash, to be compared aloud."""
    return [
        [say(language, "SHA-256"), in_groups(digest)],
        [say(language, "in words"), " ".join(in_words(digest))],
    ]


class _Nothing:
    """What most of these steps have in common: they change nothing, and have no result."""

    def fold(self, step: Any, intent: Fields, result: Fields, state: State) -> State:
        return state

    def check(self, step: Any, intent: Fields, result: Fields, state: State) -> Wrong:
        if result:
            yield "unexpected-result", "this step has no result"


class AttendAct(_Nothing):
    """Everybody of the script registers."""

    def intend(self, step: Attend, desk: Desk) -> dict[str, Any]:
        return {"places": [place for _, place in desk.script.people.each()]}

    def show(self, step: Attend, intent: Fields, state: State, language: str) -> Shown:
        return [
            [say(language, "Everybody present registers, in this order, by name.")],
            [say(language, "places"), ", ".join(intent["places"])],
            [
                say(
                    language,
                    "Each gets a key that signs what they confirm: a one-time key under a "
                    "passphrase of their own, destroyed at the end, or the key of their card.",
                )
            ],
        ]

    def perform(self, step: Attend, intent: Fields, desk: Desk) -> dict[str, Any]:
        for role, place in desk.script.people.each():
            if place not in desk.state.people:
                register(desk, role, place)
        return {}

    def check(self, step: Attend, intent: Fields, result: Fields, state: State) -> Wrong:
        yield from super().check(step, intent, result, state)
        missing = [place for place in intent["places"] if place not in state.people]
        if missing:
            yield "nobody-registered", f"nobody registered as {', '.join(missing)}"
        names = [person.name.casefold() for person in state.people.values()]
        if len(set(names)) != len(names):
            yield "same-name", "one name stands for two people"


class CheckAct(_Nothing):
    """People see to something, and vouch for it."""

    def intend(self, step: Check, desk: Desk) -> dict[str, Any]:
        return {}

    def show(self, step: Check, intent: Fields, state: State, language: str) -> Shown:
        return [[say(language, "The people named confirm that they have seen to this.")]]

    def perform(self, step: Check, intent: Fields, desk: Desk) -> dict[str, Any]:
        return {}


class InspectAct(_Nothing):
    """The machine describes itself."""

    def intend(self, step: Inspect, desk: Desk) -> dict[str, Any]:
        facts = {**desk.tools.facts()}
        facts.update({f"token {name}": value for name, value in desk.place.facts().items()})
        return {"facts": [[name, value] for name, value in facts.items()]}

    def show(self, step: Inspect, intent: Fields, state: State, language: str) -> Shown:
        shown: Shown = [
            [say(language, "This is what the machine says of itself.")],
            [say(language, "Compare the time with a clock, and the hash with the release notes.")],
        ]
        for name, value in intent["facts"]:
            if name == "package":
                shown += [[say(language, "installed package"), ""], *_package(value, language)]
            else:
                shown.append([name_of_fact(language, name), value])
        late = max((one.this_update for one in state.kept.authorities.values()), default=0)
        known = datetime.fromtimestamp(late, UTC)
        if dict(intent["facts"]).get("time", moment(known)) < moment(known):
            early = (
                "THE CLOCK WAS SET BACK: a revocation list was signed at {at}. If it is wrong now, "
                "stop with pause and set it right. Note a deviation."
            )
            shown.append([say(language, early, at=moment(known))])
        return shown

    def perform(self, step: Inspect, intent: Fields, desk: Desk) -> dict[str, Any]:
        return {}


def _package(value: str, language: str) -> Shown:
    return fingerprint(bytes.fromhex(value), language)


class HandOverAct(_Nothing):
    """Files go out on a medium."""

    def intend(self, step: HandOver, desk: Desk) -> dict[str, Any]:
        made = desk.state.files
        missing = [name for name in step.files if name not in made]
        if missing:
            raise Rejected(
                "unknown-name",
                f"this ceremony has not made {', '.join(missing)}; it has made "
                f"{', '.join(made) or 'nothing'}",
            )
        return {
            "files": [[name, hashlib.sha256(made[name]).hexdigest()] for name in sorted(step.files)]
        }

    def show(self, step: HandOver, intent: Fields, state: State, language: str) -> Shown:
        shown: Shown = [
            [say(language, "These files are copied to a medium that is otherwise empty.")],
            [say(language, "Whoever receives them compares each fingerprint aloud.")],
        ]
        for name, digest in intent["files"]:
            shown += [[say(language, "file"), name]]
            shown += fingerprint(bytes.fromhex(digest), language)
        return shown

    def perform(self, step: HandOver, intent: Fields, desk: Desk) -> dict[str, Any]:
        while True:
            folder = desk.room.ask(desk.say("Folder of the medium that takes the files:"))
            try:
                names = [name for name, _ in intent["files"]]
                write_medium(Path(folder), {name: desk.state.files[name] for name in names})
            except Rejected as rejected:
                desk.room.show([[f"{rejected.code}: {rejected.detail}"]])
            else:
                return {}

    def check(self, step: HandOver, intent: Fields, result: Fields, state: State) -> Wrong:
        yield from super().check(step, intent, result, state)
        for name, digest in intent["files"]:
            content = state.files.get(name)
            if content is None or hashlib.sha256(content).hexdigest() != digest:
                yield "wrong-file", f"file {name} is not what this ceremony made"
        if sorted(step.files) != [name for name, _ in intent["files"]]:
            yield "wrong-file", "other files were handed over than the script says"


class CloseAct(_Nothing):
    """Everybody signs the whole; nothing comes after."""

    def intend(self, step: Close, desk: Desk) -> dict[str, Any]:
        return {"files": [[n, hashlib.sha256(c).hexdigest()] for n, c in desk.state.files.items()]}

    def show(self, step: Close, intent: Fields, state: State, language: str) -> Shown:
        shown: Shown = [
            [say(language, "Everybody signs the transcript as a whole: all that stands before.")],
            [say(language, "Afterwards the one-time keys are destroyed.")],
        ]
        for name, digest in intent["files"]:
            shown += [[say(language, "file"), name], [say(language, "SHA-256"), digest]]
        return shown

    def perform(self, step: Close, intent: Fields, desk: Desk) -> dict[str, Any]:
        return {}

    def check(self, step: Close, intent: Fields, result: Fields, state: State) -> Wrong:
        yield from super().check(step, intent, result, state)
        made = [[n, hashlib.sha256(c).hexdigest()] for n, c in state.files.items()]
        if made != intent["files"]:
            yield "wrong-file", "the list of files is not what this ceremony made"


def with_files(state: State, files: dict[str, bytes]) -> State:
    """The state with more files made."""
    return replace(state, files={**state.files, **files})
