"""The terminal that a ceremony is led on: 80 by 24, colours or none, a serial line if need be.

Only whole lines count, and what was typed ahead is thrown away before each question, so that no
stray key answers one. Ctrl-C, Ctrl-\\ and Ctrl-Z do nothing but say how to pause.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from cli.output import clean, coloured, columns
from infra.errors import Rejected
from pki.ceremony.desk import Paused, Shown
from pki.ceremony.text import say

PAUSE: Final = "pause"
_WIDTH: Final = 80
_HEIGHT: Final = 24
_LONGEST_LINE: Final = 4096  # octets, termios(3)
_NAME_COLUMN: Final = 20
_EMPTY_READS: Final = 3
"""Ends of input in a row after which the terminal counts as gone: Ctrl-D is one at a time."""


class TerminalRoom:
    """``Room`` on standard input and output. ``language``: ``en`` or ``zh``."""

    def __init__(self, language: str) -> None:
        self._language = language
        self._in = sys.stdin.fileno()
        self._out = sys.stdout.fileno()
        if not (os.isatty(self._in) and os.isatty(self._out)):
            raise Rejected(
                "no-terminal", "a ceremony is led on a terminal: run it on one, without a pipe"
            )
        self._bold = coloured(sys.stdout)
        self._lines = 0
        self._asked = ""

    def disturbed(self) -> None:
        """Say that a key does nothing, and ask again what was asked."""
        text = say(
            self._language, "(This key does nothing here. To stop, type pause at a question.)"
        )
        self._write(f"\n{text}\n{self._asked}")

    def show(self, shown: Shown) -> None:
        """Have it read, page by page."""
        width, height = self._size()
        self._write("\n")
        self._lines += 1
        for line, bold in _laid_out(shown, width):
            if self._lines >= height - 2:
                self._more()
            self._write(f"\x1b[1m{line}\x1b[0m\n" if bold and self._bold else f"{line}\n")
            self._lines += 1

    def ask(self, question: str, answers: Sequence[str] = ()) -> str:
        """A line typed in; one of ``answers``, if there are any."""
        while True:
            line = self._question(question).decode(errors="replace").strip()
            if line == PAUSE:
                raise Paused
            if line and (not answers or line in answers):
                return line
            if line:
                hint = say(self._language, "Please type one of: {answers}",
                           answers=", ".join((*answers, PAUSE)))  # fmt: skip
                self._write(hint + "\n")

    def secret(self, question: str) -> bytearray:
        """A line typed in without echo."""
        while True:
            line = self._question(question, echo=False)
            self._write("\n")
            if line:
                return line

    def _more(self) -> None:
        self._question(say(self._language, "-- Enter for more --"), echo=False)
        self._write("\n")

    def _question(self, question: str, *, echo: bool = True) -> bytearray:
        # Short enough to stay on the line that is typed on, if it can.
        self._asked = "\n".join(wrap(clean(question), self._size()[0] - 1)) + " "
        self._write(self._asked)
        # What was typed ahead answers nothing: it is thrown away here.
        _set_echo(self._in, echo)
        try:
            return self._line()
        finally:
            self._asked = ""
            _set_echo(self._in, False)

    def _line(self) -> bytearray:
        line = bytearray()
        empty = 0
        while True:
            try:
                read = os.read(self._in, _LONGEST_LINE)
            except InterruptedError:
                continue
            except OSError as error:
                raise Paused from error  # the line was hung up
            empty = 0 if read else empty + 1
            if empty >= _EMPTY_READS:
                raise Paused
            if empty:
                self.disturbed()
            line += read
            if line.endswith(b"\n"):
                self._lines = 0
                del line[-1:]
                return line

    def _write(self, text: str) -> None:
        data = text.encode()
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except OSError as error:
            raise Paused from error

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._out)
        except OSError:
            return _WIDTH, _HEIGHT
        # A serial line says 0 by 0.
        return max(min(size.columns or _WIDTH, 100), 40), max(size.lines or _HEIGHT, 8)


@contextmanager
def undisturbed(room: TerminalRoom) -> Iterator[None]:
    """While the block runs, no key ends or stops the program, keys are echoed at questions only,
    and a hang-up pauses the ceremony."""

    def hint(number: int, frame: FrameType | None) -> None:
        room.disturbed()

    def gone(number: int, frame: FrameType | None) -> None:
        raise Paused

    chosen = {
        signal.SIGINT: hint,
        signal.SIGQUIT: hint,
        signal.SIGTSTP: hint,
        signal.SIGHUP: gone,
        signal.SIGTERM: gone,
    }
    terminal = sys.stdin.fileno()
    attributes = termios.tcgetattr(terminal)
    before = {number: signal.signal(number, handler) for number, handler in chosen.items()}
    _set_echo(terminal, False)
    try:
        yield
    finally:
        with suppress(termios.error):  # it may be gone
            termios.tcsetattr(terminal, termios.TCSADRAIN, attributes)
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_echo(terminal: int, wanted: bool) -> None:
    """Switch the echo, and throw away what was typed before."""
    try:
        attributes = termios.tcgetattr(terminal)
        attributes[3] = attributes[3] | termios.ECHO if wanted else attributes[3] & ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSAFLUSH, attributes)
    except termios.error as error:
        raise Paused from error  # the line was hung up


def _laid_out(shown: Shown, width: int) -> Iterator[tuple[str, bool]]:
    """Lines that fit, and whether they are a heading."""
    for item in shown:
        texts = [clean(text) for text in item]
        if len(texts) == 1:
            yield from ((line, False) for line in wrap(texts[0], width))
        elif not texts[0]:
            yield from ((line, True) for line in wrap(texts[1], width))
        else:
            name, value = texts
            left = _NAME_COLUMN if columns(name) < _NAME_COLUMN else columns(name) + 1
            lines = list(wrap(value, width - left)) or [""]
            yield name + " " * (left - columns(name)) + lines[0], False
            yield from ((" " * left + line, False) for line in lines[1:])


def wrap(text: str, width: int) -> Iterator[str]:
    """Lines of at most ``width`` columns: between words, around wide characters, or anywhere in
    a word that is too long."""
    line, at = "", 0
    for piece in _pieces(text):
        size = columns(piece)
        if at + size > width and line.strip():
            yield line.rstrip()
            line, at = "", 0
            piece = piece.lstrip()
            size = columns(piece)
        while at + size > width:
            yield piece[:width]
            piece = piece[width:]
            size = columns(piece)
        line, at = line + piece, at + size
    if line.strip():
        yield line.rstrip()


def _pieces(text: str) -> Iterator[str]:
    """What a line may be broken between: words with the space before them, wide characters."""
    word = ""
    for character in text:
        wide = columns(character) == 2
        if wide or (character == " " and word.strip()):
            if word:
                yield word
            word = ""
        if wide:
            yield character
        else:
            word += character
    if word:
        yield word
