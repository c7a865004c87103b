"""How a command answers: text for people, or one JSON document; and its exit code.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | done, and the answer is no: not valid, revoked, altered, with findings |
| 2 | the command line is wrong |
| 3 | rejected: the same call fails again until something is changed |
| 4 | unavailable: the same call can succeed later |
| 5 | broken: a fault of this program or its data, with an incident number |
| 130 | stopped with Ctrl-C |
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from typing import TYPE_CHECKING, Final, TextIO, TypeAlias

from infra.errors import Broken, Failure, Rejected, Unavailable

if TYPE_CHECKING:
    from rich.console import Console

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | dict[str, Json] | None"

DONE: Final = 0
NEGATIVE: Final = 1
USAGE: Final = 2
REJECTED: Final = 3
UNAVAILABLE: Final = 4
BROKEN: Final = 5
INTERRUPTED: Final = 130

WIDTH: Final = 80


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence. ``tone``: how it is coloured on a terminal."""

    text: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Fields:
    """Names and values, one a line, the values aligned; empty values are left out."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings: fitted to a terminal, one row a line and nothing cut in a pipe."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Text that must stay as it is, such as PEM."""

    text: str


Block: TypeAlias = Line | Fields | Table | Verbatim


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command has to say: ``document`` with ``--json``, else ``text``."""

    document: Json
    text: tuple[Block, ...]
    exit_code: int = DONE


GOOD: Final = "green"
BAD: Final = "bold red"
WARNING: Final = "yellow"
QUIET: Final = "dim"


def exit_code(failure: Failure) -> int:
    """The exit code that a failure ends the command with."""
    match failure:
        case Rejected():
            return REJECTED
        case Unavailable():
            return UNAVAILABLE
        case Broken():
            return BROKEN
        case _:
            raise TypeError(type(failure).__name__)


def show(answer: Answer, *, as_json: bool, stream: TextIO | None = None) -> None:
    """Write an answer to standard output or ``stream``. Errors: ``cannot-write``."""
    stream = stream or sys.stdout
    try:
        if as_json:
            # In ASCII, nothing that a certificate's names hold can steer a terminal.
            stream.write(json.dumps(answer.document, indent=2) + "\n")
        else:
            _write(answer.text, stream)
        stream.flush()
    except BrokenPipeError:
        raise  # which click keeps silent about
    except OSError as error:
        raise unwritten(error, stream) from error


def show_error(code: str, detail: str, *, as_json: bool, retry_after: float | None = None) -> None:
    """``error: CODE: detail`` on standard error; with ``as_json``
    ``{"error": {"code", "detail"}}`` on standard output if that takes it, plus ``retry_after``
    (seconds) if given.
    """
    if as_json:
        error: dict[str, Json] = {"code": code, "detail": detail}
        if retry_after is not None:
            error["retry_after"] = retry_after
        try:
            sys.stdout.write(json.dumps({"error": error}, indent=2) + "\n")
            sys.stdout.flush()
        except BrokenPipeError as broken:
            unwritten(broken, sys.stdout)  # the exit code tells it, too
            return
        except OSError as failure:
            unwritten(failure, sys.stdout)
        else:
            return
    with aside():
        if coloured(sys.stderr):
            from rich.text import Text

            line = Text.assemble(("error: ", BAD), (clean(code), "bold"), f": {clean(detail)}")
            _console(sys.stderr).print(line, soft_wrap=True)
        else:
            sys.stderr.write(f"error: {clean(code)}: {clean(detail)}\n")


def counted(number: int, one: str, many: str) -> str:
    """``1 entry``, ``2 entries``."""
    return f"{number} {one if number == 1 else many}"


def escape_unencodable() -> None:
    """From now on, what the terminal's characters do not have is shown by its escapes."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class Unwritten(Rejected):
    """Standard output takes nothing, so not this either."""


def unwritten(error: OSError, stream: TextIO) -> Unwritten:
    """What to say when the stream does not take what is written; nothing more goes there."""
    _silence(stream)
    return Unwritten(
        "cannot-write",
        f"standard output: {error.strerror}; what was asked may be done: look before you repeat it",
    )


@contextmanager
def aside() -> Iterator[None]:
    """What the block writes to standard error is lost if that takes nothing, and all after it."""
    try:
        yield
        sys.stderr.flush()
    except OSError:
        _silence(sys.stderr)


def say_aside(text: str) -> None:
    """A line on standard error."""
    with aside():
        sys.stderr.write(f"{clean(text)}\n")


def _silence(stream: TextIO) -> None:
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # what is left to write, at exit
        os.close(nowhere)


def clean(text: str) -> str:
    """Text that cannot steer a terminal or reorder what is around it: control, format and other
    unprintable characters become their escapes."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in text
    )


def coloured(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that takes colours; ``NO_COLOR`` turns them off."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def width(stream: TextIO) -> int:
    """Columns of the terminal, 80 for anything else."""
    return shutil.get_terminal_size((WIDTH, 24)).columns if stream.isatty() else WIDTH


def columns(text: str) -> int:
    """How many columns a terminal gives a text: Chinese characters take two."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    return 0 if unicodedata.combining(character) else 1


def _padded(text: str, size: int) -> str:
    return text + " " * (size - columns(text))


def _write(blocks: tuple[Block, ...], stream: TextIO) -> None:
    on_terminal, colours = stream.isatty(), coloured(stream)
    for number, block in enumerate(blocks):
        # A table or a list of fields stands apart from what is before it.
        if number and not (isinstance(block, Line) and isinstance(blocks[number - 1], Line)):
            stream.write("\n")
        match block:
            case Verbatim(text):
                stream.write(text if text.endswith("\n") else text + "\n")
            case Line(text, tone):
                _line(clean(text), tone if colours else "", stream)
            case Fields(rows):
                _fields(rows, stream, colours=colours)
            case Table(headings, rows):
                if on_terminal:
                    _table_on_terminal(headings, rows, stream)
                else:
                    _table(headings, rows, stream)


def _line(text: str, tone: str, stream: TextIO) -> None:
    if tone:
        from rich.text import Text

        _console(stream).print(Text(text, style=tone), soft_wrap=True)
    else:
        stream.write(text + "\n")


def _fields(rows: tuple[tuple[str, str], ...], stream: TextIO, *, colours: bool) -> None:
    import textwrap

    shown = [(name, clean(value)) for name, value in rows if value]
    left = max((columns(name) for name, _ in shown), default=0) + 2
    room = max(width(stream) - left, 20)
    for name, value in shown:
        # Hexadecimal and URLs stay in one piece, to be copied; sentences are wrapped.
        lines = textwrap.wrap(value, room, break_long_words=False, break_on_hyphens=False) or [""]
        label = _padded(name, left)
        if colours:
            _console(stream).print(f"[{QUIET}]{label}[/]", end="", highlight=False)
            stream.write(lines[0] + "\n")
        else:
            stream.write(label + lines[0] + "\n")
        for line in lines[1:]:
            stream.write(" " * left + line + "\n")


def _table(headings: tuple[str, ...], rows: tuple[tuple[str, ...], ...], stream: TextIO) -> None:
    cells = [headings, *(tuple(map(clean, row)) for row in rows)]
    widths = [max(columns(row[place]) for row in cells) for place in range(len(headings))]
    for row in cells:
        line = "  ".join(_padded(cell, size) for cell, size in zip(row, widths, strict=True))
        stream.write(line.rstrip() + "\n")


def _table_on_terminal(
    headings: tuple[str, ...], rows: tuple[tuple[str, ...], ...], stream: TextIO
) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in ("SERIAL", "STATUS"))
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    _console(stream).print(table)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    # no_color alone would leave bold and dim in place.
    return Console(
        file=stream, width=width(stream), highlight=False, force_terminal=coloured(stream)
    )
