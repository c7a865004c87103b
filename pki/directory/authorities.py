"""The entries of CAs and CRLs (RFC 4523), and of the branches that all entries hang on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pki import der, oids
from pki.certificate import parse_certificate
from pki.directory.entries import Entry, Tree, distinct
from pki.profile.model import Branch

CA_CERTIFICATE: Final = "cACertificate;binary"
CROSS_PAIR: Final = "crossCertificatePair;binary"
FULL_CRL: Final = "certificateRevocationList;binary"
AUTHORITY_CRL: Final = "authorityRevocationList;binary"
DELTA_CRL: Final = "deltaRevocationList;binary"

AUTHORITY_ATTRIBUTES: Final = (
    "objectClass", "cn", CA_CERTIFICATE, CROSS_PAIR, FULL_CRL, AUTHORITY_CRL, DELTA_CRL,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Crls:
    """The current CRLs of a scope in DER, and whose certificates they list."""

    full: bytes | None = None
    delta: bytes | None = None
    of_users: bool = True
    of_authorities: bool = False


def authority_entry(
    tree: Tree, name: str, certificates: Sequence[bytes], crls: Crls, more: Sequence[Crls] = ()
) -> Entry:
    """A CA (RFC 4523 §4.2): ``certificates``: those issued to it, by itself and by others;
    ``more``: other CRLs of it, of which one may be of CAs alone."""
    attributes = _crl_attributes(crls)
    for other in more:
        if other.of_authorities and other.full is not None:
            attributes[AUTHORITY_CRL] = (other.full,)
    classes = {b"applicationProcess", b"pkiCA"} | ({b"deltaCRL"} if crls.delta else set())
    read = [parse_certificate(certificate) for certificate in certificates]
    names = [name, *(one.subject.first(oids.COMMON_NAME) or name for one in read)]
    attributes |= {
        "objectClass": tuple(sorted(classes)),
        "cn": tuple(each.encode() for each in distinct(names)),
        CA_CERTIFICATE: tuple(sorted({one.der for one in read})),
        # RFC 4523 §2.3: issuedToThisCA of all that others issued to it.
        CROSS_PAIR: tuple(
            sorted(
                der.sequence(der.explicit(0, one.der))
                for one in read
                if one.issuer.der != one.subject.der
            )
        ),
    }
    return Entry(tree.authority(name), _present(attributes), AUTHORITY_ATTRIBUTES)


def crl_entry(tree: Tree, scope: str, crls: Crls) -> Entry:
    """A CRL of its own (cRLDistributionPoint, RFC 4523 §4.4)."""
    classes = {b"cRLDistributionPoint"} | ({b"deltaCRL"} if crls.delta else set())
    attributes = _crl_attributes(crls)
    attributes |= {"objectClass": tuple(sorted(classes)), "cn": (scope.encode(),)}
    return Entry(tree.authority(scope), _present(attributes), AUTHORITY_ATTRIBUTES)


def _crl_attributes(crls: Crls) -> dict[str, tuple[bytes, ...]]:
    full = () if crls.full is None else (crls.full,)
    return {
        FULL_CRL: full if crls.of_users else (),
        AUTHORITY_CRL: full if crls.of_authorities else (),
        DELTA_CRL: () if crls.delta is None else (crls.delta,),
    }


def _present(attributes: Mapping[str, tuple[bytes, ...]]) -> dict[str, tuple[bytes, ...]]:
    return {type: values for type, values in attributes.items() if values}


_CLASSES: Final = {
    "ou": ("organizationalUnit",),
    "o": ("organization",),
    "dc": ("domain",),
    "c": ("country",),
    "cn": ("applicationProcess",),
    "l": ("locality",),
}


def container_entries(tree: Tree) -> list[Entry]:
    """The root of the tree and its branches, each after the one above it."""
    found = [tree.base, *(tree.branch(branch) for branch in Branch), tree.of_authorities]
    return [_container(dn) for dn in dict.fromkeys(found)]


def _container(dn: str) -> Entry:
    type, _, value = dn.partition(",")[0].partition("=")
    classes = _CLASSES.get(type.lower(), ("organizationalUnit",))
    attributes = {"objectClass": tuple(c.encode() for c in classes), type: (value.encode(),)}
    return Entry(dn, attributes, ())
