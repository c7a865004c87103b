"""What a CRL speaks of and how it says so: its scope, in the critical extension of that purpose.

RFC 5280 §5.2.4 (delta), §5.2.5 (issuing distribution point), §5.2.6 (freshest CRL), and
ITU-T X.509 §9.5.2.8 (expiredCertsOnCRL).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from crl.encode import OID_DELTA_CRL_INDICATOR, Extension, authority_key_identifier, crl_number
from crl.source import Part
from infra.errors import Broken, Rejected
from pki import der, oids
from pki.crl_entry import extension

OID_ISSUING_DISTRIBUTION_POINT: Final = "2.5.29.28"
OID_FRESHEST_CRL: Final = "2.5.29.46"
OID_EXPIRED_CERTS_ON_CRL: Final = "2.5.29.60"

_URI: Final = 6  # GeneralName (§4.2.1.6)


class Contents(StrEnum):
    """Whose certificates a CRL covers (§5.2.5)."""

    everybody = "everybody"
    users = "users"
    authorities = "authorities"


@dataclass(frozen=True, slots=True)
class Scope:
    """The certificates that a series of CRLs covers.

    ``name``: short and stable, names the series in URLs, folders and documents (``issuing``,
    ``issuing.17``); ``parts``: what of the ledger it lists, of one CA unless ``indirect``; ``url``:
    where the series is found, if the CRLs are to say so: then they cover only certificates whose
    CRL distribution point names this URL; ``delta_url``: where its delta CRLs are found, None for
    a series without; ``issuer_url``: where the certificate of its signer is found, for an indirect
    one, whose signer is none of those whose certificates lie at hand.
    """

    name: str
    parts: tuple[Part, ...]
    url: str | None = None
    contents: Contents = Contents.everybody
    indirect: bool = False
    delta_url: str | None = None
    issuer_url: str | None = None

    def __post_init__(self) -> None:
        issuers = {part.issuer for part in self.parts}
        if not issuers or (len(issuers) > 1 and not self.indirect):
            raise Broken("bad-scope", f"{self.name} covers {len(self.parts)} parts of the ledger")

    @property
    def coverage(self) -> bytes:
        """A hash of what it covers and how it says so: only a CRL of the same can be the base of a
        delta (§5.2.4)."""
        parts = [f"{part.issuer}/{part.partition or ''}" for part in self.parts]
        said = point_value(self) or b""
        return hashlib.sha256("\n".join(parts).encode() + b"\0" + said).digest()


@dataclass(frozen=True, slots=True)
class DistributionPoint:
    """What an issuing distribution point says; ``urls``: of the full name, in their order."""

    urls: tuple[str, ...]
    contents: Contents
    indirect: bool


def extensions(
    scope: Scope,
    *,
    key_identifier: bytes,
    number: int,
    base: int | None = None,
    expired_since: datetime | None = None,
    final: bool = False,
) -> tuple[bytes, ...]:
    """The extensions of a CRL of this scope, in DER.

    ``base``: the number of the CRL that a delta starts from, None for a full one;
    ``expired_since``: expired certificates are listed if they ended then or later; ``final``:
    nothing follows it, so it names no delta.
    """
    found = [authority_key_identifier(key_identifier), crl_number(number)]
    if base is not None:
        found.append(extension(OID_DELTA_CRL_INDICATOR, der.integer(base), critical=True))
    point = point_value(scope)
    if point is not None:
        found.append(extension(OID_ISSUING_DISTRIBUTION_POINT, point, critical=True))
    if base is None and scope.delta_url is not None and not final:  # no delta has it (§5.2.6)
        points = der.sequence(der.sequence(_full_name(scope.delta_url)))
        found.append(extension(OID_FRESHEST_CRL, points))
    if expired_since is not None:
        found.append(extension(OID_EXPIRED_CERTS_ON_CRL, der.generalized_time(expired_since)))
    if scope.issuer_url is not None:
        location = der.implicit(_URI, scope.issuer_url.encode("ascii"))
        access = der.sequence(der.object_identifier(oids.AD_CA_ISSUERS), location)
        found.append(extension(oids.AUTHORITY_INFORMATION_ACCESS, der.sequence(access)))
    return tuple(found)


def parse_issuing_distribution_point(value: bytes) -> DistributionPoint:
    """Read what the extension holds. Errors: ``bad-crl``, ``bad-der``."""
    reader = der.one(value, der.SEQUENCE)
    urls: list[str] = []
    if reader.peek() == 0xA0:
        names = reader.enter(0xA0).enter(0xA0)
        while names:
            tag, start, stop = names.header()
            if tag == 0x80 | _URI:
                urls.append(_ascii(value[start:stop]))
    users = _flag(reader, 0x81)
    authorities = _flag(reader, 0x82)
    if reader.peek() == 0x83:
        raise Rejected("bad-crl", "a CRL for some reasons only is not understood here")
    indirect = _flag(reader, 0x84)
    attributes = _flag(reader, 0x85)
    reader.done()
    if users + authorities + attributes > 1 or attributes:
        raise Rejected("bad-crl", "an issuing distribution point covers no certificate")
    contents = Contents.users if users else Contents.everybody
    return DistributionPoint(
        tuple(urls), Contents.authorities if authorities else contents, indirect
    )


def require_scope(scope: Scope, found: Mapping[str, Extension]) -> None:
    """That a CRL with these extensions is a full one that covers what this scope does.

    Errors: ``wrong-crl-scope``, ``bad-crl``, ``bad-der``.
    """
    for one in found.values():
        if one.critical and one.oid != OID_ISSUING_DISTRIBUTION_POINT:
            what = "it is a delta" if one.oid == OID_DELTA_CRL_INDICATOR else f"{one.oid} in it"
            raise _other_scope(scope, f"{what} (critical)")
    point = found.get(OID_ISSUING_DISTRIBUTION_POINT)
    if point is None:
        if point_value(scope) is not None:
            raise _other_scope(scope, "it has no issuing distribution point")
        return
    said = parse_issuing_distribution_point(point.value)
    if not point.critical:
        raise _other_scope(scope, "its issuing distribution point is not critical")
    if (said.contents, said.indirect) != (scope.contents, scope.indirect):
        raise _other_scope(scope, f"it covers {said.contents}, indirect: {said.indirect}")
    if said.urls != (() if scope.url is None else (scope.url,)):
        raise _other_scope(scope, f"it says that it is found at {' '.join(said.urls) or 'nowhere'}")


def _other_scope(scope: Scope, why: str) -> Rejected:
    wanted = f"a full CRL for {scope.contents}, found at {scope.url or 'no URL in particular'}"
    return Rejected("wrong-crl-scope", f"{scope.name} needs {wanted}; here {why}")


def point_value(scope: Scope) -> bytes | None:
    """The issuing distribution point of a scope in DER, None for one that needs none."""
    parts = []
    if scope.url is not None:
        parts.append(_full_name(scope.url))
    match scope.contents:
        case Contents.users:
            parts.append(der.implicit(1, b"\xff"))
        case Contents.authorities:
            parts.append(der.implicit(2, b"\xff"))
        case Contents.everybody:
            pass
    if scope.indirect:
        parts.append(der.implicit(4, b"\xff"))
    return der.sequence(*parts) if parts else None  # never an empty one (§5.2.5)


def _full_name(url: str) -> bytes:
    """distributionPoint [0] of one fullName [0] that is a URI (§4.2.1.13)."""
    return der.explicit(0, der.explicit(0, der.implicit(_URI, url.encode("ascii"))))


def _flag(reader: der.Reader, tag: int) -> bool:
    if reader.peek() != tag:
        return False
    if reader.content(tag) != b"\xff":
        raise Rejected("bad-crl", "a default value is written out")
    return True


def _ascii(octets: bytes) -> str:
    if not octets.isascii():
        raise Rejected("bad-crl", "a URI has other characters than ASCII")
    return octets.decode("ascii")
