"""People of a ceremony who answer every question, and a room without a terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from cli.ceremony.parts import build_crl
from infra.clock import Clock, SystemClock
from pki.ceremony.archive import FOLDER, left_by, past
from pki.ceremony.desk import Paused, Shown, Tools
from pki.ceremony.journal import Journal
from pki.ceremony.replay import Replay
from pki.ceremony.run import TRANSCRIPT, begin, go
from pki.profile import Profile, load_profiles

NAMES = {
    "administrator-1": "Ada Lovelace",
    "custodian-1": "Grace Hopper",
    "custodian-2": "Barbara Liskov",
    "custodian-3": "Edith Clarke",
    "custodian-4": "Mary Kenneth Keller",
    "custodian-5": "Frances Allen",
    "witness-1": "Alan Turing",
    "auditor-1": "Karen Sparck Jones",
}


@dataclass
class Cast:
    """Everybody, with what they type. ``media``: where files go; ``opening``: the numbers of the
    custodians who bring their shares, in this order; ``incoming``: media by the input they bring.
    """

    folder: Path
    media: Path
    opening: Sequence[int] = (1, 3, 5)
    incoming: Mapping[str, Path] = field(default_factory=dict)
    share_set: str = ""
    place: str = ""
    answered: int = 0

    @property
    def sticks(self) -> Path:
        """The custodians' own media, by number."""
        return self.folder.parent.parent / "sticks"

    def stick(self, name: str) -> Path:
        """A custodian's own medium."""
        number = next(place for place, called in NAMES.items() if called == name)[-1]
        path = self.sticks / number
        path.mkdir(parents=True, exist_ok=True)
        return path

    def answer(self, question: str, before: str) -> str:
        """What is typed at ``question``; ``before``: what was shown last."""
        self.answered += 1
        assert self.answered < 500, f"this goes round in circles: {question}"
        registering = re.findall(r"Registration: ([a-z]+-\d)|登记：([a-z]+-\d)", before)
        if registering:
            self.place = next(filter(None, registering[-1]))
        for pattern, answer in _ANSWERS:
            if found := re.search(pattern, question):
                return answer(self, found)
        raise AssertionError(f"nobody knows what to answer to {question!r}")

    def shares(self) -> list[Path]:
        """The share files of those who open the token."""
        found = [
            max(
                self.sticks.glob(f"{number}/*{self.share_set}[0-9a-f-]*.share"),
                key=os.path.getmtime,
            )
            for number in self.opening
        ]
        assert found
        return found


PASSPHRASE = "correct horse battery"
"""Everybody's, for their key and their share."""

_ANSWERS: list[tuple[str, Callable[[Cast, re.Match[str]], str]]] = [
    (r"Enter for more|按回车键继续", lambda cast, found: ""),
    (r"^Name, as|^姓名", lambda cast, found: NAMES[cast.place]),
    (r"^Key: type|^密钥：", lambda cast, found: "one-time"),
    (r"^New passphrase|same again|^新口令|再输入一次", lambda cast, found: PASSPHRASE),
    (r"^(.+): type passphrase|^(.+)：输入 passphrase", lambda cast, found: "passphrase"),
    (r"^(.+): folder of your own|^(.+)：您自己的介质", lambda c, f: str(c.stick(f[1] or f[2]))),
    (r"type yes|输入 yes", lambda cast, found: "yes"),
    (r"your passphrase|您的口令", lambda cast, found: PASSPHRASE),
    (r"^Share (\d) of|^第 (\d) 个份额（共需", lambda c, f: str(c.shares()[int(f[1] or f[2]) - 1])),
    (r"passphrase of share|个份额的口令", lambda cast, found: PASSPHRASE),
    (r"^Folder of the medium that takes|^接收文件的介质", lambda cast, found: str(cast.media)),
    (r"^Folder of the medium with ([a-z0-9-]+),", lambda c, f: str(c.incoming[f[1]])),
]


class ScriptedRoom:
    """``Room`` with a cast. ``override``: answers to questions that match, each used once."""

    def __init__(self, cast: Cast, override: Sequence[tuple[str, str]] = ()) -> None:
        self.cast = cast
        self.shown: list[str] = []
        self.questions: list[str] = []
        self._override = list(override)

    def show(self, shown: Shown) -> None:
        self.shown += [" ".join(item) for item in shown]

    def ask(self, question: str, answers: Sequence[str] = ()) -> str:
        answer = self._answer(question)
        if answer == "pause":
            raise Paused
        return answer

    def secret(self, question: str) -> bytearray:
        return bytearray(self._answer(question).encode())

    def _answer(self, question: str) -> str:
        self.questions.append(question)
        for place, (pattern, answer) in enumerate(self._override):
            if re.search(pattern, question):
                del self._override[place]
                return answer
        return self.cast.answer(question, "\n".join(self.shown[-3:]))


class SteppingClock:
    """A clock that goes on by a second whenever it is asked."""

    def __init__(self, at: datetime) -> None:
        self._seconds = at.timestamp()

    def now(self) -> datetime:
        self._seconds += 1
        return datetime.fromtimestamp(self._seconds, UTC)

    def timestamp(self) -> float:
        return self.now().timestamp()


def no_lint(certificate: bytes, profile: Profile) -> Sequence[str]:
    """For where pkilint is not what is tested."""
    return ()


def tools(clock: Clock | None = None) -> Tools:
    """The tools of a ceremony, without pkilint."""
    return Tools(
        clock or SystemClock(),
        os.urandom,
        load_profiles(files("conf") / "profiles"),
        build_crl,
        no_lint,
        lambda: {"software": "digitalid test", "package": "00" * 32},
    )


def shipped(name: str, **changes: str) -> str:
    """A script that comes with the product, with some texts exchanged."""
    text = (files("conf") / "ceremonies" / f"{name}.toml").read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def on_files(text: str) -> str:
    """A script with keys in files, so that it needs no SoftHSM and is quick."""
    return text.replace('store = "softhsm"', 'store = "file"')


def hold(
    home: Path,
    name: str,
    script: str,
    *,
    override: Sequence[tuple[str, str]] = (),
    opening: Sequence[int] = (1, 3, 5),
    incoming: Mapping[str, Path] | None = None,
    share_set: str = "",
    point: Callable[[str], None] = lambda point: None,
    clock: Clock | None = None,
    language: str = "en",
) -> tuple[Replay, ScriptedRoom]:
    """Begin a ceremony, or go on with it, and hold it to its end."""
    folder = home / FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    media = home / "media" / name
    media.mkdir(parents=True, exist_ok=True)
    held = [each for each in past(home) if each.name != name]
    previous, kept = left_by(held)
    using = tools(clock)
    journal = Journal(folder / TRANSCRIPT, using.clock)
    try:
        begin(
            folder,
            using,
            journal,
            script=script,
            language=language,
            rehearsal=False,
            previous=previous,
            kept=kept,
        )
    finally:
        journal.close()
    cast = Cast(folder, media, opening, incoming or {}, share_set)
    room = ScriptedRoom(cast, override)
    return go(home, folder, room, using, point=point), room


def transcript(home: Path, name: str) -> Path:
    """Where a ceremony's transcript is."""
    return home / FOLDER / name / TRANSCRIPT


def rewritten(path: Path) -> Iterator[bytes]:
    """The lines of a transcript."""
    yield from path.read_bytes().splitlines()
