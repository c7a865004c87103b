"""The kinds of value that a setting can have: from what a layer says to the typed value."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias
from urllib.parse import urlsplit

Scheme: TypeAlias = Literal["file", "env", "prompt"]

UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
SIZES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

_DURATION: Final = re.compile(r"(?:\d{1,9}(?:ms|[smhdw]))+")
_DURATION_PART: Final = re.compile(r"(\d{1,9})(ms|[smhdw])")
_SIZE: Final = re.compile(r"(\d{1,12}) ?(B|KiB|MiB|GiB)")
_HOST: Final = re.compile(r"[A-Za-z0-9._:%-]{1,253}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,31}")
_CA: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_ORIGIN: Final = re.compile(r"[A-Za-z0-9._~/:-]{1,253}")
_SCHEME: Final = re.compile(r"(file|env|prompt):(.*)", re.DOTALL)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class Kind(Protocol):
    """One kind of value."""

    @property
    def says(self) -> str:
        """What is allowed, for people: ``a whole number from 0 to 65535``."""

    def parse(self, raw: object, home: Path) -> object:
        """The typed value of what TOML, the environment or a flag says. Errors: ``ValueError``
        with a reason that never repeats what might be a secret."""


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is: never the secret.

    ``scheme``: ``file`` (its first line), ``env`` (a variable) or ``prompt`` (asked for on the
    terminal); ``location``: the path, the variable's name or the question.
    """

    scheme: Scheme
    location: str

    def __str__(self) -> str:
        return f"{self.scheme}:{self.location}"


def parse_secret(text: str, home: Path) -> Secret:
    """A reference to a secret; ``{home}`` and relative paths are taken from ``home``.
    Errors: ``ValueError``, without repeating ``text``, which may be a secret by mistake."""
    found = _SCHEME.fullmatch(text)
    if found is None:
        raise ValueError(
            "a secret is never written here; name where it is: file:PATH, env:VARIABLE or prompt:"
        )
    scheme, location = found.groups()
    if scheme == "file":
        return Secret("file", str(_path(location, home)))
    if scheme == "prompt":
        return Secret("prompt", location)
    if not _VARIABLE.fullmatch(location):
        raise ValueError("env: must be followed by the name of an environment variable")
    return Secret("env", location)


def parse_duration(text: str) -> timedelta:
    """``7d``, ``90s``, ``1h30m``. Errors: ``ValueError``."""
    if not _DURATION.fullmatch(text):
        raise ValueError('a duration is written like "90s", "10m", "7d" or "1h30m"')
    parts = _DURATION_PART.findall(text)
    try:
        return timedelta(seconds=sum(int(count) * UNITS[unit] for count, unit in parts))
    except OverflowError as error:
        raise ValueError("a duration this long does not exist") from error


def show_duration(value: timedelta) -> str:
    """The shortest text that ``parse_duration`` reads back: ``1h30m``."""
    milliseconds = round(value.total_seconds() * 1000)
    out = ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        out += f"{count}{unit}" if count else ""
    return out or "0s"


@dataclass(frozen=True, slots=True)
class Text:
    """Text of a form; ``says`` describes it."""

    says: str
    form: re.Pattern[str]

    def parse(self, raw: object, home: Path) -> str:
        text = _text(raw)
        if not self.form.fullmatch(text):
            raise ValueError(f"{_quoted(text)} is not {self.says}")
        return text


HOST: Final = Text("a host name or an address to listen on", _HOST)
LABEL: Final = Text("1 to 32 letters, digits, dots, dashes, underlines or spaces", _NAME)
CRL_ISSUER: Final = Text(
    'a name of 2 to 32 lower-case letters, digits and dashes that begins with a letter, or ""',
    re.compile(r"([a-z][a-z0-9-]{1,31})?"),
)
ORIGIN: Final = Text("a name like ca.example.org/log, without spaces", _ORIGIN)


@dataclass(frozen=True, slots=True)
class Names:
    """Names of CAs, in one text."""

    says: str = 'names of CAs with a space between them, or ""'

    def parse(self, raw: object, home: Path) -> tuple[str, ...]:
        names = tuple(_text(raw).split())
        if not all(_CA.fullmatch(name) for name in names):
            raise ValueError(f"{_quoted(raw)} is not {self.says}")
        return names


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def says(self) -> str:
        return "one of " + ", ".join(self.words)

    def parse(self, raw: object, home: Path) -> str:
        text = _text(raw)
        if text not in self.words:
            raise ValueError(f"{_quoted(text)} is not {self.says}{did_you_mean(text, self.words)}")
        return text


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from ``least`` to ``most``."""

    least: int
    most: int

    @property
    def says(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def parse(self, raw: object, home: Path) -> int:
        if isinstance(raw, str) and re.fullmatch(r"-?[0-9]{1,18}", raw):
            raw = int(raw)
        if not isinstance(raw, int) or isinstance(raw, bool) or not self.least <= raw <= self.most:
            raise ValueError(f"{_quoted(raw)} is not {self.says}")
        return raw


@dataclass(frozen=True, slots=True)
class Share:
    """A share from 0.0 (none) to 1.0 (all)."""

    says: str = "a number from 0.0 to 1.0"

    def parse(self, raw: object, home: Path) -> float:
        if isinstance(raw, str):
            try:
                raw = float(raw)
            except ValueError:
                raise ValueError(f"{_quoted(raw)} is not {self.says}") from None
        if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 <= raw <= 1:
            raise ValueError(f"{_quoted(raw)} is not {self.says}")
        return float(raw)


@dataclass(frozen=True, slots=True)
class Switch:
    """True or false."""

    says: str = "true or false"

    def parse(self, raw: object, home: Path) -> bool:
        if isinstance(raw, str):
            raw = {"true": True, "false": False}.get(raw.lower(), raw)
        if not isinstance(raw, bool):
            raise ValueError(f"{_quoted(raw)} is not true or false")  # noqa: TRY004
        return raw


@dataclass(frozen=True, slots=True)
class Duration:
    """A span of time from ``least`` to ``most``, both written as durations."""

    least: str
    most: str

    @property
    def says(self) -> str:
        return f'a duration from "{self.least}" to "{self.most}"'

    def parse(self, raw: object, home: Path) -> timedelta:
        value = parse_duration(_text(raw))
        if not parse_duration(self.least) <= value <= parse_duration(self.most):
            raise ValueError(f"{_quoted(raw)} is not {self.says}")
        return value


@dataclass(frozen=True, slots=True)
class Size:
    """An amount of octets from ``least`` to ``most``: a whole number or text like ``64KiB``."""

    least: str
    most: str

    @property
    def says(self) -> str:
        return f'a size from "{self.least}" to "{self.most}"'

    def parse(self, raw: object, home: Path) -> int:
        if isinstance(raw, int) and not isinstance(raw, bool):
            raw = f"{raw}B" if 0 <= raw < 10**12 else "too large"
        value = _size(_text(raw))
        if value is None or not (_size(self.least) or 0) <= value <= (_size(self.most) or 0):
            raise ValueError(f"{_quoted(raw)} is not {self.says}")
        return value


@dataclass(frozen=True, slots=True)
class FilePath:
    """A path; a relative one, and ``{home}``, starts at the home folder."""

    says: str = "a path"

    def parse(self, raw: object, home: Path) -> Path:
        return _path(_text(raw), home)


@dataclass(frozen=True, slots=True)
class OptionalPath:
    """A path, or ``""`` for none."""

    says: str = 'a path, or "" for none'

    def parse(self, raw: object, home: Path) -> Path | None:
        text = _text(raw)
        return _path(text, home) if text else None


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """The beginning of URLs: http or https, without a slash at the end; or nothing."""

    says: str = 'a URL like http://pki.example.org, without query, or ""'

    def parse(self, raw: object, home: Path) -> str:
        text = _text(raw)
        if not text:
            return text
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError:
            raise ValueError(f"{_quoted(text)} is not {self.says}") from None
        wrong = (
            url.scheme not in ("http", "https")
            or not url.hostname
            or url.username is not None
            or url.query
            or url.fragment
            or port == 0
            or not re.fullmatch(r"[!-~]{1,500}", text)
            or text[-1:] in "?#"
        )
        if wrong:
            raise ValueError(f"{_quoted(text)} is not {self.says}")
        return text.rstrip("/")


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a secret is; the secret itself is refused."""

    says: str = "where the secret is: file:PATH, env:VARIABLE or prompt:"

    def parse(self, raw: object, home: Path) -> Secret:
        if not isinstance(raw, str):
            raise ValueError(f"must be {self.says}")  # noqa: TRY004
        return parse_secret(raw, home)


_DIRECTORY_URL: Final = re.compile(
    r"ldaps?://(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
    r"|ldapi://(?:/|%2[Ff])[!-~]{1,4000}"
)
_CHARACTER: Final = r"[^\s,+\"\\<>;=#\x00-\x1f]"
_RDN: Final = rf"[A-Za-z][A-Za-z0-9-]*={_CHARACTER}+(?: {_CHARACTER}+)*"
_DN: Final = re.compile(rf"{_RDN}(?:,{_RDN})*")


@dataclass(frozen=True, slots=True)
class DirectoryUrl:
    """Where a directory answers (RFC 4516 without what follows the host), or nothing."""

    says: str = 'ldaps://HOST[:PORT], ldap://HOST[:PORT], ldapi://%2FPATH, or ""'

    def parse(self, raw: object, home: Path) -> str:
        text = _text(raw).replace("{home}", str(home))
        if text and not _DIRECTORY_URL.fullmatch(text):
            raise ValueError(f"{_quoted(text)} is not {self.says}")
        return text


DN: Final = Text("a name like ou=people,o=Registry, without characters that need an escape", _DN)
DN_OR_NONE: Final = Text(f'{DN.says}, or ""', re.compile(f"(?:{_DN.pattern})?"))


def did_you_mean(word: str, words: tuple[str, ...] | Mapping[str, object]) -> str:
    """``; did you mean …`` when one of ``words`` is close to ``word``, else nothing."""
    from difflib import get_close_matches

    close = get_close_matches(word[:100], list(words), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}" if close else ""


def _size(text: str) -> int | None:
    found = _SIZE.fullmatch(text)
    return int(found[1]) * SIZES[found[2]] if found else None


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"{_quoted(raw)} must be text, in quotation marks")  # noqa: TRY004
    return raw


def _path(text: str, home: Path) -> Path:
    if not text or len(text) > 4096 or not text.isprintable():
        raise ValueError("a path is empty, too long or holds control characters")
    return home / text.replace("{home}", str(home))


def _quoted(raw: object) -> str:
    if isinstance(raw, float) and not math.isfinite(raw):
        return str(raw)
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, int | float | str):
        text = repr(raw) if not isinstance(raw, int) or abs(raw) < 10**40 else "this number"
        return text if len(text) <= 60 else text[:57] + "…"
    return "this value"
