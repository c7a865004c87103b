"""Names of keys: ``file:NAME``, ``file:/path`` and ``pkcs11:`` (RFC 7512)."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Final, TypeAlias
from urllib.parse import quote_from_bytes

from infra.errors import Rejected

MAX_URI: Final = 2048  # characters

# RFC 7512 §2.3: what stands for itself in a path and in a query, beside letters and digits.
_PATH_SAFE: Final = "-._~:[]@!$'()*+,=&"
_QUERY_SAFE: Final = "-._~:[]@!$'()*+,=/?|"
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PATH_VALUE: Final = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&]|%[0-9A-Fa-f]{2})*")
_QUERY_VALUE: Final = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=/?|]|%[0-9A-Fa-f]{2})*")
_FILE_VALUE: Final = re.compile(r"(?:[A-Za-z0-9\-._~:@!$'()*+,=&/]|%[0-9A-Fa-f]{2})+")
_VERSION: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?")
_TYPES: Final = ("public", "cert", "private", "secret-key", "data")


@dataclass(frozen=True, slots=True)
class FileUri:
    """A key in a file: ``name`` is a label in the key folder, or an absolute path."""

    name: str

    @property
    def is_path(self) -> bool:
        return self.name.startswith("/")

    def __str__(self) -> str:
        return "file:" + quote_from_bytes(self.name.encode(), _PATH_SAFE + "/")


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """A key on a token; what is None is not asked about (RFC 7512 §2.3, in its order).

    ``id``: the octets of CKA_ID; ``pin_source``: a reference to a secret.
    """

    token: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    model: str | None = None
    library_manufacturer: str | None = None
    library_version: str | None = None
    library_description: str | None = None
    object: str | None = None
    type: str | None = None
    id: bytes | None = None
    slot_manufacturer: str | None = None
    slot_description: str | None = None
    slot_id: int | None = None
    pin_source: str | None = None
    module_name: str | None = None
    module_path: str | None = None

    def __str__(self) -> str:
        path = ";".join(_attribute(self, name, _PATH_SAFE) for name in _path_names(self))
        query = "&".join(_attribute(self, name, _QUERY_SAFE) for name in _query_names(self))
        return f"pkcs11:{path}?{query}" if query else f"pkcs11:{path}"


KeyUri: TypeAlias = FileUri | Pkcs11Uri

_QUERY: Final = ("pin_source", "module_name", "module_path")
_PATH: Final = tuple(field.name for field in fields(Pkcs11Uri) if field.name not in _QUERY)


def _path_names(uri: Pkcs11Uri) -> list[str]:
    return [name for name in _PATH if getattr(uri, name) is not None]


def _query_names(uri: Pkcs11Uri) -> list[str]:
    return [name for name in _QUERY if getattr(uri, name) is not None]


def _attribute(uri: Pkcs11Uri, name: str, safe: str) -> str:
    value = getattr(uri, name)
    if isinstance(value, bytes):  # RFC 7512 §2.3: the whole of an id should be percent-encoded
        text = "".join(f"%{octet:02X}" for octet in value)
    else:
        text = quote_from_bytes(str(value).encode(), safe)
    return f"{name.replace('_', '-')}={text}"


def check_label(label: str) -> str:
    """A label for a new key, on a token and as a file. Errors: ``bad-key-label``."""
    if not _LABEL.fullmatch(label):
        raise Rejected(
            "bad-key-label",
            "a key label takes 1 to 64 letters, digits, dots, hyphens and underscores, "
            "and starts with a letter or digit",
        )
    return label


def parse(text: str) -> KeyUri:
    """The key that ``text`` names. Errors: ``bad-key-uri``, ``pin-in-uri``."""
    if len(text) > MAX_URI:
        raise _bad(f"a key URI takes at most {MAX_URI} characters")
    scheme, colon, rest = text.partition(":")
    match scheme.lower() if colon else "":
        case "file":
            return _file(rest)
        case "pkcs11":
            return _pkcs11(rest)
        case _:
            raise _bad("a key URI starts with file: or pkcs11:")


def _file(rest: str) -> FileUri:
    if rest.startswith("//"):  # RFC 8089 §2: an authority, of which only the empty one is ours
        rest = rest.removeprefix("//")
        if not rest.startswith("/"):
            raise _bad("a file: URI names no host")
    if not _FILE_VALUE.fullmatch(rest):
        raise _bad("a file: URI is empty or has characters that need percent-encoding")
    name = _text(rest)
    if name.startswith("/"):
        if "\0" in name or ".." in name.split("/") or name.startswith("//"):
            raise _bad("a path in a file: URI is absolute and has no .. in it")
    elif not _LABEL.fullmatch(name):
        raise _bad("file: takes the label of a key in the key folder, or an absolute path")
    return FileUri(name)


def _pkcs11(rest: str) -> Pkcs11Uri:
    path, question, query = rest.partition("?")
    values: dict[str, str | bytes | int] = {}
    for part in path.split(";") if path else ():
        name, value = _split(part, _PATH, _PATH_VALUE, values)
        values[name] = _path_value(name, value)
    for part in query.split("&") if question else ():
        if part.partition("=")[0] == "pin-value":
            raise Rejected(
                "pin-in-uri", "a PIN does not belong into a URI; name it by pin-source=file:/path"
            )
        name, value = _split(part, _QUERY, _QUERY_VALUE, values)
        values[name] = _text(value)
        if not values[name]:
            raise _bad(f"{name.replace('_', '-')} is empty")
    return Pkcs11Uri(**values)  # type: ignore[arg-type]  # _path_value gives each its type


def _split(
    part: str,
    known: tuple[str, ...],
    allowed: re.Pattern[str],
    values: dict[str, str | bytes | int],
) -> tuple[str, str]:
    attribute, equals, value = part.partition("=")
    name = attribute.replace("-", "_")
    if not equals or name not in known or "_" in attribute:
        names = ", ".join(known).replace("_", "-")
        raise _bad(f"an attribute is unknown or out of its place; here can stand: {names}")
    if name in values:
        raise _bad(f"{attribute} is given twice")
    if not allowed.fullmatch(value):
        raise _bad(f"the value of {attribute} has characters that need percent-encoding")
    return name, value


def _path_value(name: str, value: str) -> str | bytes | int:
    match name:
        case "id":
            octets = _octets(value)
            if not octets:
                raise _bad("id is empty")
            return octets
        case "slot_id":
            if not (value.isascii() and value.isdigit() and len(value) <= 20):
                raise _bad("slot-id is a decimal number")
            return int(value)
        case "type" if value not in _TYPES:
            raise _bad(f"type is one of {', '.join(_TYPES)}")
        case "library_version" if not _VERSION.fullmatch(value):
            raise _bad("library-version is a number, or two with a dot")
        case _:
            return _text(value)


def _octets(value: str) -> bytes:
    """Undo percent-encoding; ``value`` has passed the pattern of its place, so it is ASCII."""
    first, *rest = value.encode("ascii").split(b"%")
    return first + b"".join(bytes((int(part[:2], 16),)) + part[2:] for part in rest)


def _text(value: str) -> str:
    try:
        return _octets(value).decode()
    except UnicodeDecodeError as error:
        raise _bad("a value is not UTF-8") from error


def _bad(why: str) -> Rejected:
    return Rejected("bad-key-uri", why)
