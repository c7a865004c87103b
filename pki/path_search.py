"""Candidate certification paths by name and key identifier; whether one holds is for validation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from asn1crypto import x509

MAXIMUM_STEPS: Final = 500  # certificates can be made that name each other in circles

CertificationPath: TypeAlias = tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class PathSearch:
    """``paths``: from the certificate to an anchor, short ones first; ``longest``: the way that
    got furthest, for explaining that there is none."""

    paths: tuple[CertificationPath, ...]
    longest: CertificationPath


def search_paths(
    certificate: x509.Certificate,
    anchors: Sequence[x509.Certificate],
    intermediates: Sequence[x509.Certificate],
) -> PathSearch:
    """Every way from ``certificate`` through ``intermediates`` to one of ``anchors``, breadth
    first, until there are none left or ``MAXIMUM_STEPS`` certificates were looked at."""
    trusted = {anchor.dump() for anchor in anchors}
    if certificate.dump() in trusted:
        return PathSearch(((certificate,),), (certificate,))
    paths: list[CertificationPath] = []
    longest: CertificationPath = (certificate,)
    open_paths = deque([longest])
    for _ in range(MAXIMUM_STEPS):
        if not open_paths:
            break
        path = open_paths.popleft()
        longest = max(longest, path, key=len)
        paths.extend((*path, issuer) for issuer in _issuers(path[-1], anchors))
        seen = trusted.union(step.dump() for step in path)
        open_paths.extend(
            (*path, issuer)
            for issuer in _issuers(path[-1], intermediates)
            if issuer.dump() not in seen
        )
    return PathSearch(tuple(paths), longest)


def _issuers(
    certificate: x509.Certificate, candidates: Sequence[x509.Certificate]
) -> Iterator[x509.Certificate]:
    return (candidate for candidate in candidates if issued_by(certificate, candidate))


def issued_by(certificate: x509.Certificate, candidate: x509.Certificate) -> bool:
    """Whether names and key identifiers, as far as they are there, say so."""
    if candidate.subject != certificate.issuer:
        return False
    wanted, offered = certificate.authority_key_identifier, candidate.key_identifier
    return not wanted or not offered or bool(wanted == offered)
