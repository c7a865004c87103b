"""Ceremonies at a pseudo-terminal of 80 by 24: the real command, three of five custodians."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.output import columns
from pki.signer.softhsm import find_module
from tests.journeys.ceremony_terminal import COMMAND, Terminal
from tests.unit.ceremony_fixtures import NAMES, PASSPHRASE, Cast, on_files, shipped

needs_softhsm = pytest.mark.skipif(find_module() is None, reason="apt-get install softhsm2")

SMALL = """
kind = "small"
title = { en = "Small", zh = "小型仪式" }
public_url = "http://pki.example.org"
[people]
administrator = 1
custodian = 2
[token]
store = "file"
label = "small"
[[step]]
act = "attend"
[[step]]
act = "share-secret"
threshold = 2
confirm = ["administrator"]
[[step]]
act = "initialise-token"
confirm = ["administrator"]
[[step]]
act = "make-key"
key = "small"
key_type = "p-256"
confirm = ["administrator"]
[[step]]
act = "certify"
name = "small"
issuer = "self"
key = "small"
profile = "root"
subject = "CN=Small Root,O=Registry,C=AQ"
authority = true
confirm = ["administrator"]
[[step]]
act = "close"
"""


class Hall:
    """A home folder, and terminals in it, one after the other."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.open: list[Terminal] = []
        (home / "media").mkdir(parents=True)

    def cast(self, name: str, *opening: int, home: Path | None = None) -> Cast:
        folder = (home or self.home) / "ceremonies" / name
        return Cast(folder, self.home / "media", opening or (1, 3, 5))

    def terminal(self, *words: str | Path, **options: object) -> Terminal:
        arguments = ["--home", self.home, "ceremony", *words]
        terminal = Terminal(arguments, **options)  # type: ignore[arg-type]
        self.open.append(terminal)
        return terminal

    def command(self, *words: str | Path) -> dict[str, object]:
        done = subprocess.run(
            [COMMAND, "--home", self.home, "--json", "ceremony", *words],
            capture_output=True,
            timeout=60,
            check=False,
        )
        answer: dict[str, object] = json.loads(done.stdout)
        return answer


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    hall = Hall(tmp_path / "home")
    yield hall
    for terminal in hall.open:
        terminal.close()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@needs_softhsm
def test_a_root_is_made_and_signs_its_next_list(hall: Hall) -> None:
    terminal = hall.terminal("run", "root-creation", "--name", "root")
    terminal.play(hall.cast("root").answer)
    assert terminal.code == 0, terminal.screen[-2000:]
    assert "The ceremony is closed." in terminal.screen
    assert PASSPHRASE not in terminal.raw
    folder = hall.home / "ceremonies" / "root"
    checked = hall.command(
        "verify", folder / "transcript.jsonl", "--certificate", folder / "out" / "root.cer"
    )
    assert checked["good"] is True
    # Power fails while the second one runs; the custodians come together again.
    terminal = hall.terminal("run", "root-crl")
    asked = terminal.play(hall.cast("root-crl").answer, until=lambda q: "Folder of" in q)
    assert asked is not None
    terminal.kill()
    (hall.home / "media" / "of-somebody-else").write_text("x")
    terminal = hall.terminal("resume")
    cast = hall.cast("root-crl")
    asked = terminal.play(cast.answer, until=lambda q: "Folder of" in q)
    terminal.type(str(hall.home / "media"))
    assert "Folder of" in (terminal.question() or "")
    assert "bad-medium" in terminal.screen and "of-somebody-else" in terminal.screen
    for path in (hall.home / "media").iterdir():
        path.unlink()
    terminal.play(cast.answer)
    assert terminal.code == 0, terminal.screen[-2000:]
    second = hall.home / "ceremonies" / "root-crl" / "transcript.jsonl"
    assert hall.command("verify", second, "--before", folder / "transcript.jsonl")["good"] is True


def test_in_chinese_on_a_serial_line_without_colours(hall: Hall, tmp_path: Path) -> None:
    script = tmp_path / "script.toml"
    script.write_text(on_files(shipped("root-creation")))
    terminal = hall.terminal(
        "run", script, "--name", "root", "--language", "zh",
        size=(0, 0), environment={"TERM": "dumb"},
    )  # fmt: skip
    terminal.play(hall.cast("root").answer)
    assert terminal.code == 0, terminal.screen[-2000:]
    assert "\x1b" not in terminal.raw
    assert "仪式已结束。" in terminal.screen
    shown = [line for line in terminal.screen.splitlines() if not re.search(r"[:：-] ", line)]
    assert max(columns(line) for line in shown if str(hall.home) not in line) <= 80


def test_stray_keys_answer_nothing_and_end_nothing(hall: Hall, small: Path) -> None:
    terminal = hall.terminal("run", small)
    cast = hall.cast("small", 1, 2)
    asked = terminal.play(cast.answer, until=lambda q: "type yes" in q)
    assert asked is not None
    for keys in (b"\x03", b"\x1c", b"\x1a", b"\x04", b"\n", b"\x1b[A\n", b"y\n", b"quit\n"):
        terminal.press(keys)
        assert "type yes" in (terminal.question() or "")
    assert "This key does nothing here" in terminal.screen
    # Typed ahead while it works on the step before: thrown away, and not even echoed.
    terminal.type("yes")
    assert "passphrase" in (terminal.question() or "")
    terminal.press(PASSPHRASE.encode() + b"\nyes\nyes\nyes\n")
    terminal.play(cast.answer)
    assert terminal.code == 0, terminal.screen[-2000:]
    assert PASSPHRASE not in terminal.raw


def test_a_pause_a_wrong_passphrase_a_deviation_and_a_refusal(hall: Hall, small: Path) -> None:
    terminal = hall.terminal("run", small)
    cast = hall.cast("small", 1, 2)
    terminal.play(cast.answer, until=lambda q: "type yes" in q)
    terminal.type("deviation")
    terminal.play(lambda q, b: "The clock is two minutes late.", until=lambda q: "passphr" in q)
    terminal.type("not my passphrase")
    assert "type yes" in (terminal.question() or "")
    assert "wrong-passphrase" in terminal.screen
    terminal.type("deviation")
    terminal.play(lambda q, b: "The clock is two minutes late.", until=lambda q: "passphr" in q)
    terminal.type(PASSPHRASE)
    terminal.question()
    terminal.type("refuse")
    terminal.play(lambda q, b: "I was not shown the bag.", until=lambda q: "passphr" in q)
    terminal.type(PASSPHRASE)
    assert terminal.question() is None
    assert "Paused. To go on" in terminal.screen
    terminal = hall.terminal("resume")
    terminal.play(cast.answer)
    assert terminal.code == 0, terminal.screen[-2000:]
    transcript = hall.home / "ceremonies" / "small" / "transcript.jsonl"
    notes = [
        entry["body"]
        for entry in map(json.loads, transcript.read_text().splitlines())
        if entry["kind"] == "note"
    ]
    assert [(note["about"], note["text"]) for note in notes] == [
        ("deviation", "The clock is two minutes late."),
        ("refusal", "I was not shown the bag."),
    ]
    assert hall.command("verify", transcript)["good"] is True


def test_a_line_that_is_hung_up_pauses(hall: Hall, small: Path) -> None:
    terminal = hall.terminal("run", small)
    terminal.play(hall.cast("small", 1, 2).answer, until=lambda q: "type yes" in q)
    terminal.hang_up()
    transcript = hall.home / "ceremonies" / "small" / "transcript.jsonl"
    last = json.loads(transcript.read_text().splitlines()[-1])
    assert last["kind"] == "pause"


def test_a_rehearsal_is_marked_and_apart(hall: Hall, small: Path) -> None:
    cast = hall.cast("small", 1, 2, home=hall.home / "rehearsal")
    begun = hall.terminal("rehearse", small)
    begun.play(cast.answer, until=lambda q: "type yes" in q)
    begun.type("pause")
    assert begun.question() is None
    assert re.search(r"ceremony resume small\s+--rehearsal", begun.screen)
    again = hall.terminal("rehearse", small)
    assert again.question() is None
    assert re.search(r"ceremony resume small\s+--rehearsal", again.screen)
    terminal = hall.terminal("resume", "small", "--rehearsal")
    terminal.play(cast.answer)
    assert terminal.code == 0, terminal.screen[-2000:]
    screens = (begun.screen, terminal.screen)
    assert [screen.count("THIS IS A REHEARSAL") for screen in screens] == [2, 5]
    transcript = hall.home / "rehearsal" / "ceremonies" / "small" / "transcript.jsonl"
    assert hall.command("verify", transcript)["rehearsal"] is True
    assert not (hall.home / "tokens").exists()
    report = hall.home / "report.html"
    hall.command("report", transcript, "--out", report)
    assert "THIS IS A REHEARSAL" in report.read_text()


def test_without_a_terminal_nothing_begins(hall: Hall, small: Path) -> None:
    answer = hall.command("run", small)
    assert answer["error"]["code"] == "no-terminal"  # type: ignore[index]
    assert set(NAMES) and not list((hall.home / "ceremonies").glob("*/transcript.jsonl"))
