"""The entries of CAs and their CRLs, and what tells that one has to be written anew."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pki.directory.authorities import Crls, authority_entry, crl_entry
from pki.directory.entries import Entry, Tree
from pki.directory.source import Ledger
from pki.issuer import Issuer
from pki.names import parse_name
from pki.profile import Profile
from pki.record import Record, State
from pki.status import Good

_MOST: Final = 1000  # certificates of a CA


@dataclass(frozen=True, slots=True)
class CrlFile:
    """A CRL that is current. ``sha256``, ``size``: of its DER, which ``read`` gives."""

    sha256: bytes
    size: int
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class CrlSeries:
    """What is current of one series. ``scope``: its name; ``ca``: the CA whose entry shows it, too,
    because it is that CA's only one, or its one of CAs' certificates; ``whole``: the former."""

    scope: str
    ca: str | None
    whole: bool
    of_users: bool
    of_authorities: bool
    full: CrlFile | None
    delta: CrlFile | None


class Repository(Protocol):
    """Whose CRLs and certificates are published, looked up each time."""

    @property
    def issuers(self) -> Mapping[str, Issuer]: ...

    def crls(self) -> Sequence[CrlSeries]:
        """Every series of CRLs."""


@dataclass(frozen=True, slots=True)
class Place:
    """An entry of a CA or CRL. ``fingerprint``: another one whenever ``build`` gives another
    entry; ``too_large``: a CRL that is left out."""

    name: str
    fingerprint: str
    build: Callable[[], Entry]
    too_large: bool = False


async def places(
    tree: Tree,
    repository: Repository,
    ledger: Ledger,
    profiles: Mapping[str, Profile],
    *,
    max_crl: int,
) -> list[Place]:
    """The entries that are to be, CAs first. ``max_crl``: octets of a CRL that fits."""
    series = repository.crls()
    found = []
    for name, issuer in repository.issuers.items():
        subject = parse_name(issuer.subject).rfc4514()
        records = await ledger.by_subject(subject, limit=_MOST)
        certificates = [record.certificate for record in records if _of_a_ca(record, profiles)]
        certificates.append(issuer.certificate)
        own = [one for one in series if one.ca == name]
        found.append(_authority(tree, name, sorted(set(certificates)), own, max_crl))
    return found + [_series(tree, one, max_crl) for one in series if not one.whole]


def _of_a_ca(record: Record, profiles: Mapping[str, Profile]) -> bool:
    profile = profiles.get(record.profile)
    good = record.state is State.issued and isinstance(record.status, Good)
    return good and profile is not None and profile.ca


def _authority(
    tree: Tree, name: str, certificates: list[bytes], own: Sequence[CrlSeries], most: int
) -> Place:
    whole = next((one for one in own if one.whole), None)
    others = [one for one in own if not one.whole]

    def build() -> Entry:
        crls = Crls() if whole is None else _crls(whole, most)
        return authority_entry(tree, name, certificates, crls, [_crls(one, most) for one in others])

    said = [*certificates, *_said(own, most)]
    return Place(name, _digest(tree, said), build, any(_too_large(one, most) for one in own))


def _series(tree: Tree, one: CrlSeries, most: int) -> Place:
    def build() -> Entry:
        return crl_entry(tree, one.scope, _crls(one, most))

    return Place(one.scope, _digest(tree, _said([one], most)), build, _too_large(one, most))


def _crls(one: CrlSeries, most: int) -> Crls:
    return Crls(
        full=one.full.read() if one.full is not None and one.full.size <= most else None,
        delta=one.delta.read() if one.delta is not None and one.delta.size <= most else None,
        of_users=one.of_users,
        of_authorities=one.of_authorities,
    )


def _too_large(one: CrlSeries, most: int) -> bool:
    return any(file is not None and file.size > most for file in (one.full, one.delta))


def _said(series: Sequence[CrlSeries], most: int) -> list[bytes]:
    return [
        file.sha256
        for one in series
        for file in (one.full, one.delta)
        if file is not None and file.size <= most
    ]


def _digest(tree: Tree, parts: Sequence[bytes]) -> str:
    digest = hashlib.sha256(repr(tree).encode())
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.hexdigest()
