"""Secrets by reference: ``file:/path``, ``env:NAME`` or ``prompt:``, never a value in a setting."""

from __future__ import annotations

import getpass
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from infra.errors import Rejected

Ask: TypeAlias = Callable[[str], str]

MAX_SECRET: Final = 4096  # octets
SHORTEST_TOKEN: Final = 32  # characters; base64 of 24 octets
_LONGEST_TOKEN: Final = 1024
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


def ask_terminal(question: str) -> str:
    """Ask on the terminal without echo. Errors: ``secret-not-asked`` when there is none."""
    try:
        return getpass.getpass(question)
    except (EOFError, OSError, getpass.GetPassWarning) as error:
        raise Rejected(
            "secret-not-asked", "there is no terminal to ask on; name a file: or env: secret"
        ) from error


def resolve(reference: str, *, what: str = "Secret", ask: Ask = ask_terminal) -> bytes:
    """The secret that ``reference`` names, without the line end it may close with.

    ``what``: what the prompt calls it. Errors: ``bad-secret-reference``, ``no-such-secret``,
    ``secret-file-permissions``, ``secret-too-long``, ``secret-empty``, ``secret-not-asked``.
    """
    scheme, colon, rest = reference.partition(":")
    match scheme if colon else "":
        case "file":
            path = Path(rest)
            if not path.is_absolute():
                raise Rejected("bad-secret-reference", "file: takes an absolute path")
            value = read_private(
                path, MAX_SECRET, missing="no-such-secret", exposed="secret-file-permissions"
            )
        case "env" if _ENV_NAME.fullmatch(rest):
            found = os.environb.get(rest.encode())
            if found is None:
                raise Rejected("no-such-secret", f"the environment variable {rest} is not set")
            value = found
        case "prompt":
            value = ask(f"{rest or what}: ").encode()
        case _:
            # The text is not repeated: it may be the secret itself, written in the wrong place.
            raise Rejected(
                "bad-secret-reference", "a secret is named by file:/path, env:NAME or prompt:"
            )
    if len(value) > MAX_SECRET:
        raise Rejected("secret-too-long", f"a secret takes at most {MAX_SECRET} octets")
    value = value.removesuffix(b"\n").removesuffix(b"\r")
    if not value:
        raise Rejected("secret-empty", f"the secret that {scheme}: names is empty")
    return value


def read_private(path: Path, limit: int, *, missing: str, exposed: str) -> bytes:
    """At most ``limit`` + 1 octets of a regular file that only its owner can reach: this user, or
    root.

    Errors: ``Rejected`` with the code ``missing`` or ``exposed``.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to must not hang.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "the name is no path"
        raise Rejected(missing, f"{path} cannot be read: {why}") from error
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise Rejected(missing, f"{path} is not a regular file")
        if about.st_uid not in (0, os.geteuid()):
            raise Rejected(
                exposed,
                f"{path} belongs to another user, who knows it; if that is right, run: "
                f"chown {os.geteuid()} {path}",
            )
        if about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Rejected(
                exposed, f"others than its owner can reach {path}; run: chmod 600 {path}"
            )
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit + 1)
    finally:
        os.close(descriptor)


def read_token(path: Path, shortest: int = SHORTEST_TOKEN) -> str:
    """A secret that was made at random, and is shown as a bearer token is (RFC 6750 §2.1).

    Errors: ``no-such-secret``, ``secret-file-permissions``, ``secret-malformed``.
    """
    value = read_private(
        path, MAX_SECRET, missing="no-such-secret", exposed="secret-file-permissions"
    ).strip()
    if not shortest <= len(value) <= _LONGEST_TOKEN or not _TOKEN.fullmatch(value):
        raise Rejected(
            "secret-malformed",
            f"{path} does not hold {shortest} characters or more of A-Z, a-z, 0-9 and -._~+/; put "
            "the right ones back, or remove the file: another secret is made",
        )
    return value.decode()


class Secret:
    """A secret by reference: fetched at its first use, then kept; its text is its reference."""

    __slots__ = ("_ask", "_value", "_what", "reference")

    def __init__(self, reference: str, *, what: str = "Secret", ask: Ask = ask_terminal) -> None:
        self.reference = reference
        self._what = what
        self._ask = ask
        self._value: bytes | None = None

    def __call__(self) -> bytes:
        """The value. Errors: those of ``resolve``."""
        if self._value is None:
            self._value = resolve(self.reference, what=self._what, ask=self._ask)
        return self._value

    def __repr__(self) -> str:
        return f"Secret({self.reference.partition(':')[0]}:…)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")
