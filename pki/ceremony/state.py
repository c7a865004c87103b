"""What a ceremony knows: folded from its transcript, entry by entry, and from those before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec

from infra.errors import Rejected
from pki.ceremony.script import Role
from pki.ceremony.share import ShareSet
from pki.certificate import parse_certificate
from pki.issuer import Issuer, Urls

_Known = TypeVar("_Known")


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody present. ``id``: their place in the script (``custodian-2``); ``how``: whose key it
    is that they confirm with, ``one-time`` or ``card``; ``algorithm``: it signs with."""

    id: str
    role: Role
    name: str
    how: str
    algorithm: str
    public_key_info: bytes


@dataclass(frozen=True, slots=True)
class Key:
    """A key pair. ``tokens``: the labels of those it is on; ``backup``: SHA-256 of the wrapped
    key, empty for none."""

    uri: str
    key_type: str
    public_key_info: bytes
    tokens: tuple[str, ...]
    backup: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of a CRL. ``serial``: hexadecimal digits; ``at``: seconds since 1970."""

    serial: str
    at: int
    reason: str


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA whose key was made in a ceremony. ``base``: of the URLs in what it issues;
    ``crl_number``: of its last CRL, 0 for none; ``this_update``: of that, seconds since 1970."""

    key: str
    certificate: bytes
    base: str
    crl_number: int = 0
    this_update: int = 0
    listed: tuple[Listed, ...] = ()

    def issuer(self, name: str) -> Issuer:
        """The CA as what builds certificates knows it."""
        return parse_certificate(self.certificate).as_issuer(name, Urls.below(self.base, name))


@dataclass(frozen=True, slots=True)
class Input:
    """A file from outside. ``kind``: ``request`` or ``certificate``; ``der``: its content."""

    kind: str
    der: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """What outlives a ceremony. ``sets``: the sharing that opens a token; ``coming``: the one that
    will, once the PIN is changed; ``issued``: every certificate made, by name."""

    sets: Mapping[str, ShareSet] = field(default_factory=dict)
    coming: Mapping[str, ShareSet] = field(default_factory=dict)
    tokens: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    keys: Mapping[str, Key] = field(default_factory=dict)
    authorities: Mapping[str, Authority] = field(default_factory=dict)
    issued: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class State:
    """Where a ceremony stands. ``base``: of the URLs of a new CA; ``files``: what was made for
    others, by file name."""

    base: str = ""
    kept: Kept = field(default_factory=Kept)
    people: Mapping[str, Person] = field(default_factory=dict)
    inputs: Mapping[str, Input] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    def keep(self, **changes: Any) -> State:
        """This state with other things kept."""
        return replace(self, kept=replace(self.kept, **changes))


def known(things: Mapping[str, _Known], name: str, what: str) -> _Known:
    """One of ``things`` by its name. Errors: ``unknown-name``."""
    found = things.get(name)
    if found is None:
        there = ", ".join(things) or "none"
        raise Rejected("unknown-name", f"there is no {what} {name!r}; there are: {there}")
    return found


def write_kept(kept: Kept) -> dict[str, Any]:
    """As the first entry of a transcript carries it."""
    written: dict[str, Any] = msgspec.to_builtins(kept, str_keys=True)
    return written


def read_kept(written: object) -> Kept:
    """From the first entry of a transcript. Errors: ``bad-transcript``."""
    try:
        return msgspec.convert(written, Kept, strict=False)
    except msgspec.ValidationError as error:
        raise Rejected("bad-transcript", f"what earlier ceremonies left: {error}") from error


def write_set(sharing: ShareSet) -> dict[str, Any]:
    """A sharing, as an entry carries it."""
    written: dict[str, Any] = msgspec.to_builtins(sharing, str_keys=True)
    return written


def read_set(written: object) -> ShareSet:
    """A sharing from an entry. Errors: ``bad-transcript``."""
    try:
        return msgspec.convert(written, ShareSet, strict=False)
    except msgspec.ValidationError as error:
        raise Rejected("bad-transcript", f"a sharing: {error}") from error
