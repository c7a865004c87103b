"""Reads one table of a profile's TOML: every key once, each with its type, none left over."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, Never, TypeVar

from infra.errors import Rejected
from pki.profile.model import Lifetime

_Choice = TypeVar("_Choice", bound=StrEnum)
_Value = TypeVar("_Value")

_OID: Final = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]{0,17})){1,30}")
_SPAN: Final = re.compile(r"([0-9]{1,5})([ydhm])")
_UNITS: Final = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}


class Table:
    """A table at ``path`` of ``source``. Every method that takes a value raises
    ``Rejected("bad-profile")`` with file, key and reason when it is not what it should be."""

    def __init__(self, source: str, path: str, data: Any) -> None:
        self.source = source
        self.path = path
        if not isinstance(data, Mapping):
            self.refuse("", "is a table")
        self._data: dict[str, Any] = dict(data)

    def refuse(self, key: str, why: str) -> Never:
        """Say what is wrong with a key, or with the table itself."""
        where = ".".join(part for part in (self.path, key) if part)
        raise Rejected("bad-profile", ": ".join(filter(None, (self.source, where, why))))

    def __contains__(self, key: str) -> bool:
        return key in self._data

    @property
    def keys(self) -> list[str]:
        """What nobody has taken yet, in the order of the file."""
        return list(self._data)

    def done(self) -> None:
        """Refuse what nobody has taken."""
        for key in self._data:
            self.refuse(key, "is no setting of a profile")

    def text(self, key: str, default: str | None = None) -> str:
        """A string; without a default, it must be there."""
        value = self._data.pop(key, default)
        if value is None:
            self.refuse(key, "is missing")
        if not isinstance(value, str) or not value or len(value) > 1000:
            self.refuse(key, "is a string of 1 to 1000 characters")
        return value

    def optional_text(self, key: str) -> str | None:
        """A string, or None when it is not there."""
        return self.text(key) if key in self._data else None

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._data.pop(key, default)
        if not isinstance(value, bool):
            self.refuse(key, "is true or false")
        return value

    def count(self, key: str, default: int, most: int) -> int:
        """A number from 0 to ``most``."""
        value = self._data.pop(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            self.refuse(key, f"is a number from 0 to {most}")
        return value

    def optional_count(self, key: str, most: int) -> int | None:
        """A number from 0 to ``most``, or None when it is not there."""
        return self.count(key, 0, most) if key in self._data else None

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings, none twice; empty when it is not there."""
        value = self._data.pop(key, [])
        if (
            not isinstance(value, list)
            or not all(isinstance(item, str) and 0 < len(item) <= 1000 for item in value)
            or len(set(value)) != len(value)
            or len(value) > 1000
        ):
            self.refuse(key, "is a list of strings, none of them twice")
        return tuple(value)

    def lists(self, key: str) -> tuple[tuple[str, ...], ...]:
        """A list of lists of strings; empty when it is not there."""
        value = self._data.pop(key, [])
        if not isinstance(value, list):
            self.refuse(key, "is a list of lists of strings")
        return tuple(
            Table(self.source, self.path, {f"{key}[{place}]": item}).texts(f"{key}[{place}]")
            for place, item in enumerate(value)
        )

    def choice(self, key: str, kind: type[_Choice], default: _Choice | None = None) -> _Choice:
        """One of the values of an enumeration."""
        value = self.text(key, default)
        return self._choose(key, kind, value)

    def choices(self, key: str, kind: type[_Choice]) -> tuple[_Choice, ...]:
        """A list of values of an enumeration."""
        return tuple(self._choose(key, kind, value) for value in self.texts(key))

    def _choose(self, key: str, kind: type[_Choice], value: str) -> _Choice:
        try:
            return kind(value)
        except ValueError:
            self.refuse(key, f"{value!r} is none of {', '.join(kind)}")

    def named(self, key: str, names: Mapping[str, _Value], what: str) -> tuple[_Value, ...]:
        """A list of names, each looked up in ``names``."""
        found = []
        for value in self.texts(key):
            if value not in names:
                self.refuse(key, f"{value!r} is no {what}; use {', '.join(names)}")
            found.append(names[value])
        return tuple(found)

    def pattern(self, key: str) -> re.Pattern[str] | None:
        """A regular expression, or None when it is not there."""
        text = self.optional_text(key)
        if text is None:
            return None
        try:
            return re.compile(text)
        except (re.error, OverflowError, RecursionError) as error:
            self.refuse(key, f"is no regular expression: {error}")

    def oid(self, key: str) -> str:
        """An object identifier in dotted form."""
        return self.as_oid(key, self.text(key))

    def as_oid(self, key: str, value: str) -> str:
        """``value``, if it is an object identifier in dotted form."""
        arcs = value.split(".")
        if not _OID.fullmatch(value) or (arcs[0] != "2" and int(arcs[1]) > 39):
            self.refuse(key, f"{value!r} is no object identifier in dotted form")
        return value

    def url(self, key: str, *schemes: str) -> str:
        """An absolute URL with one of these schemes, in ASCII."""
        value = self.text(key)
        scheme, found, rest = value.partition("://")
        if scheme not in schemes or not found or not re.fullmatch(r"[!-~]+", rest):
            self.refuse(key, f"is a URL that starts with {' or '.join(schemes)}://")
        return value

    def lifetime(self, key: str) -> Lifetime:
        """A span: ``5y``, ``398d``, ``12h``, ``30m``; years are those of the calendar."""
        match = _SPAN.fullmatch(self.text(key))
        if match is None or int(match[1]) == 0 or (match[2] == "y" and int(match[1]) > 100):
            self.refuse(key, "is a span such as 5y (at most 100y), 398d, 12h or 30m")
        if match[2] == "y":
            return Lifetime(int(match[1]), timedelta())
        return Lifetime(0, int(match[1]) * _UNITS[match[2]])

    def span(self, key: str, default: str, most: timedelta) -> timedelta:
        """A span of exact time, ``0m`` for none."""
        match = _SPAN.fullmatch(self.text(key, default))
        if match is None or match[2] == "y" or int(match[1]) * _UNITS[match[2]] > most:
            self.refuse(key, f"is a span such as 5m, 12h or 1d, at most {most.days}d")
        return int(match[1]) * _UNITS[match[2]]

    def table(self, key: str) -> Table:
        """A table within this one; it must be there."""
        if key not in self._data:
            self.refuse(key, "is missing")
        return Table(self.source, f"{self.path}.{key}".lstrip("."), self._data.pop(key))

    def optional(self, key: str, read: Callable[[Table], _Value]) -> _Value | None:
        """What ``read`` makes of the table within this one, or None when it is not there."""
        if key not in self._data:
            return None
        table = self.table(key)
        value = read(table)
        table.done()
        return value

    def tables(self, key: str) -> tuple[Table, ...]:
        """A list of tables; empty when it is not there."""
        value = self._data.pop(key, [])
        if not isinstance(value, list):
            self.refuse(key, "is a list of tables")
        path = f"{self.path}.{key}".lstrip(".")
        return tuple(
            Table(self.source, f"{path}[{place}]", item) for place, item in enumerate(value)
        )
