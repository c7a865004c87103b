"""A ceremony under way: each step is written down, shown, confirmed, done, and recorded as done.

Whatever happens between two lines, the next start goes on from the last entry on the disk: an
intent that was confirmed is done with the very octets that were confirmed, and each act looks at
what is there before it does anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from infra.errors import Broken, Failure, Rejected, Unavailable
from infra.state import owned
from pki.ceremony.acts import act_of
from pki.ceremony.custody import collect
from pki.ceremony.desk import Desk, Paused, Room, Shown, Tools
from pki.ceremony.journal import Journal
from pki.ceremony.participant import destroy_one_time_keys, signing
from pki.ceremony.people_acts import fingerprint
from pki.ceremony.place import place_of, write_whole
from pki.ceremony.replay import Replay, fingerprint_of, replay, uses_secret
from pki.ceremony.script import AnyStep, Close, parse_script, step_name
from pki.ceremony.share import wipe
from pki.ceremony.state import Kept, Person, State, known, write_kept
from pki.ceremony.text import EDITION, say
from pki.ceremony.transcript import FORMAT, Kind

TRANSCRIPT: Final = "transcript.jsonl"
OUT: Final = "out"


class Ceremony(Desk):
    """A run in its folder. ``home``: the folder of all state; ``step_hook``: called with the name
    of each point that a crash test may die at."""

    def __init__(
        self,
        home: Path,
        folder: Path,
        room: Room,
        tools: Tools,
        journal: Journal,
        *,
        point: Callable[[str], None] = lambda point: None,
    ) -> None:
        told = replay(journal.entries)
        if told.wrong or told.script is None:
            first = told.wrong[0].detail if told.wrong else "it is empty"
            raise Rejected("altered-transcript", f"{journal.path}: {first}; run ceremony verify")
        self.script = told.script
        self.folder = folder
        self.language = told.language
        self.place = place_of(told.script.token, home)
        self.room = room
        self.tools = tools
        self.told = told
        self._journal = journal
        self._secrets: dict[str, bytearray] = {}
        self._point = point

    # Desk

    @property
    def state(self) -> State:
        return self.told.state

    def say(self, text: str, **values: object) -> str:
        return say(self.language, text, **values)

    def secret(self, label: str, *, coming: bool = False) -> bytearray:
        sets = self.state.kept.coming if coming else self.state.kept.sets
        sharing = known(sets, label, "shared secret for token")
        identifier = sharing.identifier.hex()
        if identifier not in self._secrets:
            secret, envelopes = collect(self, sharing)
            self._secrets[identifier] = secret
            shares = [[envelope.place, envelope.custodian] for envelope in envelopes]
            self._write(Kind.unlock, {"set": identifier, "shares": shares})
        return self._secrets[identifier]

    def remember(self, set_identifier: bytes, secret: bytearray) -> None:
        self._secrets[set_identifier.hex()] = secret

    def join(self, person: Person, sign: Callable[[bytes], bytes]) -> None:
        self._signed(
            Kind.joined,
            {
                "place": person.id,
                "role": person.role.value,
                "name": person.name,
                "how": person.how,
                "algorithm": person.algorithm,
                "public_key": base64.b64encode(person.public_key_info).decode(),
            },
            sign,
        )

    # the run

    def run(self) -> None:
        """Go on to the end. Errors: ``Paused``, and what cannot be mended by trying again."""
        try:
            while not self.told.finished:
                self._step(self.told.current())
        except (Paused, Failure) as stopped:
            why = "asked" if isinstance(stopped, Paused) else stopped.code
            with suppress(Failure):  # the disk may be what failed
                self._write(Kind.pause, {"why": why})
            raise
        finally:
            self._forget()
        self._give()
        destroy_one_time_keys(self.folder)

    def _forget(self) -> None:
        """Wipe every secret from memory."""
        for secret in self._secrets.values():
            wipe(secret)
        self._secrets.clear()

    def _step(self, step: AnyStep) -> None:
        self._head(step)
        if self.told.open is None:
            self._intend(step)
        under_way = self.told.open
        if under_way is None:
            raise Broken("no-intent", "an intent was written and is not there")
        self.room.show(act_of(step).show(step, under_way.intent, self.state, self.language))
        if self.told.step == 1:
            explained = (
                "yes confirms this step; comment and deviation are written into the transcript; "
                "refuse stops the ceremony."
            )
            self.room.show([[self.say(explained)]])
        for person in self.told.missing():
            self._confirm(self.state.people[person])
        if isinstance(step, Close):
            return
        self._point(f"confirmed {step_name(step)}")
        result = self._patiently(lambda: act_of(step).perform(step, under_way.intent, self))
        self._point(f"performed {step_name(step)}")
        self._write(
            Kind.done, {"step": self.told.step, "intent": under_way.digest, "result": result}
        )
        self._point(f"recorded {step_name(step)}")
        if not any(map(uses_secret, self.script.step[self.told.step :])):
            self._forget()
        self._give()
        self.room.show([[self.say("Done.")], *_outcome(self.language, result)])

    def _head(self, step: AnyStep) -> None:
        title = self.say(
            "Step {number} of {count}: {act}",
            number=self.told.step + 1,
            count=len(self.script.step),
            act=self.say(f"act:{step_name(step)}"),
        )
        head: Shown = [["", title]]
        if self.told.rehearsal:
            head.append([self.say("THIS IS A REHEARSAL: its keys and certificates are worthless.")])
        if step.say is not None:
            head.append([step.say.of(self.language)])
        self.room.show(head)

    def _intend(self, step: AnyStep) -> None:
        act = act_of(step)
        intent = self._patiently(lambda: act.intend(step, self))
        shown = act.show(step, intent, self.state, self.language)
        body = {"step": self.told.step, "act": step_name(step), "intent": intent, "shown": shown}
        self._write(Kind.intend, body)
        self._point(f"intended {step_name(step)}")

    def _patiently(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do it, again if it fails and those present want to try."""
        while True:
            try:
                return work()
            except (Rejected, Unavailable) as failure:
                self.room.show([[self.say("It did not work: {why}", why=str(failure))]])
                self.room.ask(self.say("Type again to try again, or pause:"), ("again",))

    def _confirm(self, person: Person) -> None:
        role = self.say(f"role:{person.role.value}")
        while True:
            answer = self.room.ask(
                self.say("{role} {name}: type yes, comment, deviation or refuse:", role=role,
                         name=person.name),
                ("yes", "comment", "deviation", "refuse"),
            )  # fmt: skip
            text = ""
            if answer != "yes":
                text = self.room.ask(self.say("Your words, for the transcript:")).strip()[:2000]
            sign = self._signature_of(person)
            if sign is None:
                continue
            if answer == "yes":
                break
            about = {"refuse": "refusal"}.get(answer, answer)
            body = {"person": person.id, "step": self.told.step, "about": about, "text": text}
            self._signed(Kind.note, body, sign)
            if answer == "refuse":
                raise Paused
        under_way = self.told.open
        if under_way is None:
            raise Broken("no-intent", "there is nothing to confirm")
        body = {"person": person.id, "step": self.told.step, "intent": under_way.digest}
        self._signed(Kind.confirm, body, sign)
        self._point(f"confirmed by {person.id}")

    def _signature_of(self, person: Person) -> Callable[[bytes], bytes] | None:
        """What signs for this person once they have typed their passphrase; none if it is wrong."""
        secret = self.room.secret(
            self.say("{name}, your passphrase (not shown):", name=person.name)
        )
        try:
            sign = signing(self.folder, person, secret)
            sign(b"this signature is thrown away: it shows that the key answers")
        except (Rejected, Unavailable) as failure:
            self.room.show([[f"{failure.code}: {failure.detail}"]])
            return None
        finally:
            wipe(secret)
        return sign

    def _give(self) -> None:
        """Put what was made where people find it."""
        for name, content in self.state.files.items():
            path = self.folder / OUT / name
            if not path.is_file() or path.read_bytes() != content:
                write_whole(path, content)

    def _signed(self, kind: Kind, body: Mapping[str, Any], sign: Callable[[bytes], bytes]) -> None:
        draft = self._journal.draft(kind, body)
        entry = replace(draft, signature=sign(draft.to_be_signed))
        self._journal.append(entry)
        self._told(entry)

    def _write(self, kind: Kind, body: Mapping[str, Any]) -> None:
        self._told(self._journal.write(kind, body))

    def _told(self, entry: Any) -> None:
        before = len(self.told.wrong)
        self.told.feed(entry)
        if len(self.told.wrong) > before:
            wrong = self.told.wrong[-1]
            raise Broken("bad-entry", f"entry {wrong.entry}: {wrong.code}: {wrong.detail}")


def _outcome(language: str, result: Mapping[str, Any]) -> Shown:
    """The fingerprint of what was signed."""
    shown: Shown = []
    for kind in ("certificate", "crl"):
        if kind in result:
            digest = hashlib.sha256(base64.b64decode(result[kind])).digest()
            shown += fingerprint(digest, language)
    return shown


def begin(
    folder: Path,
    tools: Tools,
    journal: Journal,
    *,
    script: str,
    language: str,
    rehearsal: bool,
    previous: str,
    kept: Kept,
) -> None:
    """Write the first entry; once it is there, it must be of the same script. Errors:
    ``another-script``, ``ceremony-closed``, those of ``parse_script``."""
    parse_script(script)
    if journal.entries:
        begun = journal.entries[0].body
        if fingerprint_of(begun["script"]) != fingerprint_of(script):
            raise Rejected("another-script", f"{folder} was begun with another script")
        return
    journal.write(
        Kind.begin,
        {
            "format": FORMAT,
            "id": tools.random(16).hex(),
            "language": language,
            "texts": EDITION,
            "rehearsal": "yes" if rehearsal else "no",
            "script": script,
            "previous": previous,
            "kept": write_kept(kept),
            "facts": dict(tools.facts()),
        },
    )


def go(
    home: Path,
    folder: Path,
    room: Room,
    tools: Tools,
    *,
    point: Callable[[str], None] = lambda point: None,
) -> Replay:
    """Run or resume the ceremony that began in ``folder``. Errors: see ``Ceremony``."""
    with owned(folder.parent, within=home):
        journal = Journal(folder / TRANSCRIPT, tools.clock)
        try:
            resumed = len(journal.entries) > 1
            ceremony = Ceremony(home, folder, room, tools, journal, point=point)
            if resumed and not ceremony.told.finished:
                ceremony._write(Kind.resume, {"torn": journal.torn, "facts": dict(tools.facts())})
            ceremony.run()
            return ceremony.told
        finally:
            journal.close()
