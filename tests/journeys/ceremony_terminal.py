"""A ceremony at a real pseudo-terminal, driven by the cast of ``ceremony_fixtures``."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

COMMAND = Path(sys.executable).parent / "digitalid"
PROMPT = re.compile(r"(?:^|\n)([^\n]+[:?-]|[^\n]+[：]|[^\n]*--) \Z")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """A program on a pseudo-terminal. ``screen``: all that it wrote, without escapes."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        size: tuple[int, int] = (24, 80),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.process, self._master = pty.fork()
        if self.process == 0:
            os.execve(  # noqa: S606
                str(COMMAND),
                [str(COMMAND), *map(str, arguments)],
                {**os.environ, "TERM": "xterm", **(environment or {})},
            )
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.raw = ""
        self.code: int | None = None
        self._pending = b""
        self._answered = 0

    @property
    def screen(self) -> str:
        return ESCAPES.sub("", self.raw).replace("\r\n", "\n")

    def question(self, timeout: float = 120.0) -> str | None:
        """The question that it waits at; None once it has ended."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            while self._read(0.02):
                pass
            if self.code is not None:
                return None
            if len(self.raw) > self._answered and (found := PROMPT.search(self.screen)):
                return found[1]
        raise AssertionError(f"it asks nothing more:\n{self.screen[-2000:]}")

    def type(self, text: str) -> None:
        """Type a line."""
        self.press(text.encode() + b"\n")

    def press(self, octets: bytes) -> None:
        """Press keys, as they come over the line."""
        self._answered = len(self.raw)
        os.write(self._master, octets)

    def kill(self) -> None:
        """Power loss."""
        os.kill(self.process, signal.SIGKILL)
        while self.code is None:
            self._read(0.05)

    def hang_up(self) -> None:
        """The line goes away: SIGHUP, and errors from then on."""
        os.close(self._master)
        self._master = os.open(os.devnull, os.O_RDONLY)
        _, status = os.waitpid(self.process, 0)
        self.code = os.waitstatus_to_exitcode(status)

    def play(
        self,
        answer: Callable[[str, str], str],
        *,
        until: Callable[[str], bool] = lambda question: False,
    ) -> str | None:
        """Answer every question until one is met, or the program has ended."""
        while (question := self.question()) is not None:
            if until(question):
                return question
            at = self.screen.rfind(question)
            self.type(answer(question, self.screen[max(0, at - 400) : at]))
        return None

    def close(self) -> None:
        """Let go of the line, and end what still runs."""
        if self.code is None:
            self.kill()
        os.close(self._master)

    def _read(self, wait: float) -> bool:
        if self.code is not None:
            return False
        if not select.select([self._master], [], [], wait)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            data = b""
        if not data:
            _, status = os.waitpid(self.process, 0)
            self.code = os.waitstatus_to_exitcode(status)
            return False
        self._pending += data
        try:
            self.raw += self._pending.decode()
            self._pending = b""
        except UnicodeDecodeError:
            pass  # the rest of a character is on its way
        return True
