"""Settings from their four layers: defaults, the home folder's file, the environment, flags.

Reading is the only I/O; ``resolve`` is pure. A mistake in any layer, even one that a later layer
overrides, stops the start and is named with its layer, key and reason.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args, get_type_hints

from conf.kinds import Kind, Secret, did_you_mean, show_duration
from conf.schema import Settings, contradiction

FILE_NAME: Final = "digitalid.toml"
MAX_FILE: Final = 1 << 20
PREFIX: Final = "DIGITALID_"
NOT_SETTINGS: Final = frozenset({"DIGITALID_HOME", "DIGITALID_FUZZ_SECONDS"})
"""Variables with our prefix that are no settings."""

# A Kubernetes service named digitalid… puts these into every pod of its namespace.
_OF_KUBERNETES: Final = re.compile(
    r"DIGITALID_.*(SERVICE_(HOST|PORT)(_.*)?|PORT_\d+_(TCP|UDP|SCTP)(_.*)?)=.*|.*_PORT=(tcp|udp)://.*"
)

Layer: TypeAlias = Literal["default", "file", "environment", "flag"]
_LAYERS: Final = ("default", "file", "environment", "flag")
Key: TypeAlias = str
"""``section.name``, as in ``http.app_port``."""


class BadSetting(ValueError):
    """A setting that cannot be used; the message is ``WHERE: key: reason``, without secrets."""


@dataclass(frozen=True, slots=True)
class Saying:
    """What one layer says of a key; ``where``: the file, variable or flag."""

    layer: Layer
    where: str
    raw: object


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and for each key what every layer says, the last of which counts."""

    settings: Settings
    provenance: Mapping[Key, tuple[Saying, ...]]

    def origin(self, key: Key) -> Layer:
        """The layer that set ``key``. Errors: ``BadSetting``."""
        return self._sayings(key)[-1].layer

    def value(self, key: Key) -> str | int | float | bool | None:
        """The value of ``key`` in force, ready to be printed. Errors: ``BadSetting``."""
        self._sayings(key)
        section, _, name = key.partition(".")
        return show(getattr(getattr(self.settings, section), name))

    def explain(self, key: Key) -> Explanation:
        """All there is to say about ``key``. Errors: ``BadSetting``."""
        sayings = self._sayings(key)
        return Explanation(key, self.value(key), kinds()[key].says, sayings, documentation()[key])

    def _sayings(self, key: Key) -> tuple[Saying, ...]:
        if key not in self.provenance:
            raise BadSetting(f"{key}: unknown key{did_you_mean(key, self.provenance)}")
        return self.provenance[key]


@dataclass(frozen=True, slots=True)
class Explanation:
    """``config explain``: the value, what is allowed, what each layer says, and what it means."""

    key: Key
    value: str | int | float | bool | None
    allowed: str
    sayings: tuple[Saying, ...]
    documentation: str

    @property
    def layer(self) -> Layer:
        return self.sayings[-1].layer


def load(home: Path, environ: Mapping[str, str], flags: Mapping[Key, object]) -> Loaded:
    """The settings of the instance in ``home``.

    ``home`` need not exist; ``environ``: variables, those without our prefix are ignored;
    ``flags``: values by key, typed or as text. Errors: ``BadSetting``.
    """
    home = home.absolute()
    file = home / FILE_NAME
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        text = b""
    except OSError as error:
        raise BadSetting(f"{file}: cannot be read: {error.strerror}") from error
    sayings = {key: [Saying("default", "default.toml", raw)] for key, raw in defaults().items()}
    layers = (*_in_file(str(file), text), *_in_environment(environ), *_in_flags(flags))
    for key, saying in layers:
        sayings[key].append(saying)
    return resolve(home, {key: tuple(said) for key, said in sayings.items()})


def resolve(home: Path, provenance: Mapping[Key, tuple[Saying, ...]]) -> Loaded:
    """The typed settings of what the layers say, ``provenance`` having every key.
    Errors: ``BadSetting``."""
    values: dict[Key, object] = {}
    for key, kind in kinds().items():
        for saying in provenance[key]:
            try:
                values[key] = kind.parse(saying.raw, home)
            except ValueError as error:
                raise BadSetting(f"{saying.where}: {key}: {error}") from error
    sections: dict[str, Any] = {}
    for name, section in _sections().items():
        own = {field.name: values[f"{name}.{field.name}"] for field in fields(section)}
        sections[name] = section(**own)
    settings = Settings(home=home, **sections)
    if (wrong := contradiction(settings)) is not None:
        keys, reason = wrong
        # Whoever spoke last is the one to change it.
        key = max(keys, key=lambda key: _LAYERS.index(provenance[key][-1].layer))
        raise BadSetting(f"{provenance[key][-1].where}: {key}: {reason}")
    return Loaded(settings, provenance)


def parse_file(where: str, text: bytes) -> dict[Key, object]:
    """The keys that a settings file sets, not yet typed.

    ``text``: TOML in UTF-8, at most 1 MiB. Errors: ``BadSetting``, which names ``where``.
    """
    if len(text) > MAX_FILE:
        raise BadSetting(f"{where}: a settings file is at most {MAX_FILE} octets")
    try:
        document = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        # tomllib quotes keys but no values, except that of a number beyond what int() takes.
        reason = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "not TOML in UTF-8"
        raise BadSetting(f"{where}: {reason}") from error
    found: dict[Key, object] = {}
    for section, body in document.items():
        if section not in _sections():
            meant = did_you_mean(section, _sections())
            raise BadSetting(f"{where}: {section}: unknown section{meant}")
        if not isinstance(body, dict):
            raise BadSetting(f"{where}: {section}: is a section; write [{section}] above its keys")
        for name, raw in body.items():
            found[_known(f"{section}.{name}", where)] = raw
    return found


def show(value: object) -> str | int | float | bool | None:
    """A setting's value as it is printed: durations as ``7d``, paths and references as text."""
    match value:
        case timedelta():
            return show_duration(value)
        case Path() | Secret():
            return str(value)
        case tuple():
            return " ".join(value)
        case bool() | int() | float() | str() | None:
            return value
        case _:
            raise TypeError(type(value).__name__)


@cache
def kinds() -> Mapping[Key, Kind]:
    """Every key with its kind, in the order of the schema."""
    found: dict[Key, Kind] = {}
    for name, section in _sections().items():
        for field, hint in get_type_hints(section, include_extras=True).items():
            found[f"{name}.{field}"] = get_args(hint)[1]
    return found


@cache
def defaults() -> Mapping[Key, object]:
    """What ``default.toml`` says."""
    return parse_file("default.toml", _default_text().encode())


@cache
def documentation() -> Mapping[Key, str]:
    """The comment above each key of ``default.toml``, as one line."""
    found: dict[Key, str] = {}
    section, comment = "", list[str]()
    for line in _default_text().splitlines():
        if line.startswith("#"):
            comment.append(line.lstrip("# ").rstrip())
            continue
        if line.startswith("["):
            section = line.strip("[]")
        elif line:
            found[f"{section}.{line.partition(' = ')[0]}"] = " ".join(comment)
        comment = []
    return found


def variable(key: Key) -> str:
    """The environment variable that sets ``key``: ``DIGITALID_HTTP_APP_PORT``."""
    return PREFIX + key.replace(".", "_").upper()


def _in_file(where: str, text: bytes) -> Iterator[tuple[Key, Saying]]:
    for key, raw in parse_file(where, text).items():
        yield key, Saying("file", where, raw)


def _in_environment(environ: Mapping[str, str]) -> Iterator[tuple[Key, Saying]]:
    known = {variable(key): key for key in kinds()}
    for name, text in environ.items():
        if not name.startswith(PREFIX) or name in NOT_SETTINGS:
            continue
        if name not in known:
            if _OF_KUBERNETES.fullmatch(f"{name}={text}"):
                continue
            raise BadSetting(f"environment: {name}: unknown setting{did_you_mean(name, known)}")
        yield known[name], Saying("environment", name, text)


def _in_flags(flags: Mapping[Key, object]) -> Iterator[tuple[Key, Saying]]:
    for key, raw in flags.items():
        yield _known(key, "flag"), Saying("flag", f"--set {key}", raw)


def _known(key: Key, where: str) -> Key:
    if key not in kinds():
        raise BadSetting(f"{where}: {key}: unknown key{did_you_mean(key, kinds())}")
    return key


@cache
def _sections() -> Mapping[str, Any]:
    hints = get_type_hints(Settings)
    return {name: section for name, section in hints.items() if is_dataclass(section)}


@cache
def _default_text() -> str:
    return Path(__file__).with_name("default.toml").read_text()
