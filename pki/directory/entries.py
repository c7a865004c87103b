"""What the directory is to hold, made of what the ledger says: the same whenever it is asked for.

An entry belongs to a subject, and holds those of its certificates that its profiles let be seen.
It is named by an opaque id, so its name says nothing about anybody; attributes that do are there
only where the profile publishes them. National identifiers are never there but as an HMAC.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pki import oids
from pki.certificate import Certificate, parse_certificate
from pki.directory.naming import rdn
from pki.general_name import GeneralNameKind
from pki.names import EMPTY_NAME, Name
from pki.profile import Profile
from pki.profile.model import Branch, DirectoryRule, Publish
from pki.record import Record, State
from pki.serial import format_serial
from pki.status import Good

MAX_CERTIFICATES: Final = 64
"""Certificates of one entry, its newest: whoever has more has them by mistake."""

CERTIFICATE: Final = "userCertificate;binary"
SERIAL_NUMBER: Final = "digitalidSerialNumber"
NOT_AFTER: Final = "digitalidNotAfter"
IDENTIFIER_HASH: Final = "digitalidIdentifierHash"
WEB3_ID: Final = "digitalidWeb3Id"

# What is taken over from the subject, by kind of entry (RFC 2798, RFC 4519).
_OF_A_PERSON: Final = {
    oids.COMMON_NAME: "cn",
    oids.SURNAME: "sn",
    oids.GIVEN_NAME: "givenName",
    oids.INITIALS: "initials",
    oids.TITLE: "title",
    oids.ORGANIZATION_NAME: "o",
    oids.ORGANIZATIONAL_UNIT_NAME: "ou",
    oids.LOCALITY_NAME: "l",
    oids.STATE_OR_PROVINCE_NAME: "st",
}
_OF_AN_ENTERPRISE: Final = {
    oids.COMMON_NAME: "cn",
    oids.ORGANIZATION_NAME: "o",
    oids.LOCALITY_NAME: "l",
    oids.STATE_OR_PROVINCE_NAME: "st",
}

HOLDER_ATTRIBUTES: Final = (
    "objectClass", "uid", CERTIFICATE, SERIAL_NUMBER, NOT_AFTER, IDENTIFIER_HASH, WEB3_ID, "mail",
    "cn", "sn", "givenName", "initials", "title", "o", "ou", "l", "st",
)  # fmt: skip
"""What we write, and so what is compared: whatever else stands in an entry is somebody else's."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that is to be. ``attributes``: by type, with ``;binary`` where it belongs, values
    in order; ``managed``: the types that we write."""

    dn: str
    attributes: Mapping[str, tuple[bytes, ...]]
    managed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to become of a subject: its entry, None for none, and the names under which it must
    not be found (any more)."""

    entry: Entry | None
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tree:
    """Where things are. ``person_rdn``, ``enterprise_rdn``: types that name an entry whose
    attributes are published, ``uid`` always among them."""

    base: str
    people: str
    enterprises: str
    authorities: str
    person_rdn: tuple[str, ...] = ("uid",)
    enterprise_rdn: tuple[str, ...] = ("uid",)

    @property
    def plain(self) -> bool:
        """Whether every entry is named by its opaque id alone."""
        return self.person_rdn == self.enterprise_rdn == ("uid",)

    def branch(self, branch: Branch) -> str:
        """The name of a branch."""
        below = self.people if branch is Branch.people else self.enterprises
        return f"{below},{self.base}"

    @property
    def of_authorities(self) -> str:
        """The name of the branch of CAs."""
        return f"{self.authorities},{self.base}"

    def authority(self, name: str) -> str:
        """The name of a CA's entry, or of that of a CRL by its scope."""
        return f"{rdn([('cn', name)])},{self.of_authorities}"


@dataclass(frozen=True, slots=True)
class Retention:
    """Which certificates stay when their time is over."""

    replaced: bool
    expired: bool
    revoked: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """What entries are made by. ``key``: of the HMACs; ``profiles``: by name."""

    tree: Tree
    retention: Retention
    key: bytes
    profiles: Mapping[str, Profile]

    def id(self, subject: str) -> str:
        """The opaque id of a subject, 32 hexadecimal digits."""
        return self._hmac(b"entry", subject)[:32]

    def identifier_hash(self, identifier: str) -> str:
        """How a national identifier is found, whatever its case and spaces."""
        plain = unicodedata.normalize("NFKC", identifier).upper()
        return self._hmac(b"identifier", "".join(plain.split()))

    def _hmac(self, purpose: bytes, text: str) -> str:
        return hmac.digest(self.key, purpose + b"\0" + text.encode(), hashlib.sha256).hex()


def subject_of(record: Record) -> str:
    """Whose entry shows a certificate: its subject, or itself when it has none."""
    return record.subject or record.stored.id


def wanted(
    rules: Rules,
    subject: str,
    records: Iterable[Record],
    now: datetime,
    *,
    erased: datetime | None = None,
) -> Wanted:
    """What the directory is to show of a subject.

    ``records``: all that the ledger has of it; ``erased``: what was issued until then is not
    shown.
    """
    id = rules.id(subject)
    issued = [
        record
        for record in records
        if record.state is State.issued and _rule(rules, record) is not None
    ]
    shown = [
        record
        for record in _retained(issued, rules.retention, now)
        if may_be_shown(rules, record) and (erased is None or record.issued_at > erased)
    ]
    shown = sorted(shown, key=lambda record: record.issued_at)[-MAX_CERTIFICATES:]
    entry = _entry(rules, id, shown) if shown else None
    # An entry's name depends on what the profiles say, so there may be one from before.
    profiles = {record.profile for record in issued}
    if entry is not None and len(profiles) == 1:
        return Wanted(entry)
    name = _name(rules.tree, issued)
    names = {_dn(rules.tree, id, name, rules.profiles[one].directory) for one in profiles}
    return Wanted(entry, tuple(sorted(names - {entry.dn if entry else ""})))


def _rule(rules: Rules, record: Record) -> DirectoryRule | None:
    """The profile's rule, None where nothing is published."""
    profile = rules.profiles.get(record.profile)
    if profile is None or profile.directory.publish is Publish.nothing:
        return None
    return profile.directory


def may_be_shown(rules: Rules, record: Record) -> bool:
    """Whether the directory may show this certificate, as long as it is good."""
    rule = _rule(rules, record)
    return (
        record.state is State.issued and rule is not None and (record.consent or not rule.consent)
    )


def _name(tree: Tree, records: Sequence[Record]) -> Name:
    """The name that all of these have, empty where no entry is named by it."""
    if not records or tree.plain:
        return EMPTY_NAME
    return parse_certificate(records[0].certificate).subject


def _retained(records: Sequence[Record], keep: Retention, now: datetime) -> list[Record]:
    newest: dict[str, datetime] = {}
    for record in records:
        if isinstance(record.status, Good) and record.not_after >= now:
            known = newest.get(record.profile)
            newest[record.profile] = max(known or record.issued_at, record.issued_at)
    return [
        record
        for record in records
        if (keep.revoked or isinstance(record.status, Good))
        and (keep.expired or record.not_after >= now)
        and (
            keep.replaced
            or record.profile not in newest
            or record.issued_at >= newest[record.profile]
        )
    ]


def _entry(rules: Rules, id: str, shown: Sequence[Record]) -> Entry:
    values: dict[str, set[str]] = {"uid": {id}}
    certificates: set[bytes] = set()
    opened: tuple[Certificate, DirectoryRule] | None = None
    for record in shown:
        rule = _rule(rules, record)
        assert rule is not None  # noqa: S101 - it may be shown
        certificates.add(record.certificate)
        _add(values, SERIAL_NUMBER, format_serial(record.serial))
        _add(values, NOT_AFTER, f"{record.not_after:%Y%m%d%H%M%SZ}")
        if rule.publish is Publish.with_attributes:
            certificate = parse_certificate(record.certificate)
            opened = certificate, rule
            _look_ups(rules, values, certificate)
    classes: tuple[str, ...]
    if opened is None:
        first = _rule(rules, shown[-1])
        assert first is not None  # noqa: S101 - it may be shown
        classes, name, rule = ("account",), EMPTY_NAME, first
    else:
        name, rule = opened[0].subject, opened[1]
        classes = _attributes(values, id, name, rule)
    values["objectClass"] = {*classes, "pkiUser", "digitalidHolder"}
    attributes = {
        type: tuple(
            value.encode() for value in (sorted(found) if type == WEB3_ID else distinct(found))
        )
        for type, found in values.items()
    }
    attributes[CERTIFICATE] = tuple(sorted(certificates))
    return Entry(_dn(rules.tree, id, name, rule), attributes, HOLDER_ATTRIBUTES)


def _look_ups(rules: Rules, values: dict[str, set[str]], certificate: Certificate) -> None:
    """What one searches a holder by."""
    for type in (oids.SERIAL_NUMBER, oids.ORGANIZATION_IDENTIFIER):
        if (identifier := certificate.subject.first(type)) is not None:
            _add(values, IDENTIFIER_HASH, rules.identifier_hash(identifier))
    for name in certificate.alternative_names:
        if name.kind is GeneralNameKind.email:
            _add(values, "mail", name.value)
        elif name.kind is GeneralNameKind.uri and name.value[:4].lower() == "did:":
            _add(values, WEB3_ID, name.value)


def _attributes(
    values: dict[str, set[str]], id: str, name: Name, rule: DirectoryRule
) -> tuple[str, ...]:
    """Add what the subject says; returns the classes that allow it."""
    person = rule.branch is Branch.people
    taken = _OF_A_PERSON if person else _OF_AN_ENTERPRISE
    for attribute in name.attributes:
        if (type := taken.get(attribute.type)) is not None and attribute.value.strip():
            _add(values, type, attribute.value)
    if person:
        called = name.first(oids.PSEUDONYM) or id
        values.setdefault("cn", {called})
        values.setdefault("sn", {name.first(oids.PSEUDONYM) or min(values["cn"])})
        return ("inetOrgPerson",)
    if "o" in values:
        return "organization", "uidObject"
    for type in ("l", "st"):
        values.pop(type, None)
    return ("account",)


def distinct(values: Iterable[str]) -> list[str]:
    """Those that a directory takes for different: case, width and spaces make no difference
    (RFC 4518 §2)."""
    found: dict[str, str] = {}
    for value in sorted(values):
        plain = unicodedata.normalize("NFKC", value).casefold()
        found.setdefault(" ".join(plain.split()), value)
    return sorted(found.values())


def _add(values: dict[str, set[str]], type: str, value: str) -> None:
    values.setdefault(type, set()).add(value)


def _dn(tree: Tree, id: str, name: Name, rule: DirectoryRule) -> str:
    types: tuple[str, ...] = ("uid",)
    if rule.publish is Publish.with_attributes:
        types = tree.person_rdn if rule.branch is Branch.people else tree.enterprise_rdn
    pairs = [(type, value) for type in types if (value := _naming_value(type, id, name)).strip()]
    return f"{rdn(pairs)},{tree.branch(rule.branch)}"


def _naming_value(type: str, id: str, name: Name) -> str:
    oid = {"cn": oids.COMMON_NAME, "o": oids.ORGANIZATION_NAME}.get(type)
    return id if oid is None else name.first(oid) or ""
