"""Partitions: certificates of one CA whose revocations are told by CRLs of their own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

CA_CERTIFICATES: Final = "ca"
USER_CERTIFICATES: Final = "user"
"""The partitions of CRLs by kind of certificate (RFC 5280 §5.2.5); all others are numbers, or the
name of the CRL issuer that lists them."""


@dataclass(frozen=True, slots=True)
class Partitioning:
    """How a CA spreads what it issues from now on over CRLs.

    ``shards``: how many for the certificates of others, 0 for one; ``by_kind``: CAs' certificates
    and others' apart.
    """

    shards: int = 0
    by_kind: bool = False

    def of(self, issuer: str, serial: int, *, ca: bool) -> str | None:
        """The partition that a new certificate is issued into; ``ca``: whether it is a CA's. Those
        of CAs are few, and stay together."""
        if ca:
            return CA_CERTIFICATES if self.by_kind else None
        if self.shards:
            return partition_of(issuer, serial, self.shards)
        return USER_CERTIFICATES if self.by_kind else None


ONE_CRL: Final = Partitioning()
"""Everything in one CRL."""


def partition_of(issuer: str, serial: int, partitions: int) -> str:
    """The partition that a new certificate is issued into, ``1`` to ``partitions``.

    It is asked once: the certificate names its partition by the URL in its CRL distribution
    point, and the ledger keeps the name. So partitions are added by asking with a larger number
    from then on; whatever was issued before stays where its certificate says.
    """
    digest = hashlib.sha256(b"%b/%x" % (issuer.encode(), serial)).digest()
    return str(int.from_bytes(digest[:8], "big") % partitions + 1)


def partition_url(url: str, partition: str) -> str:
    """Where the CRL of a partition is found: ``…/issuing.17.crl`` beside ``…/issuing.crl``."""
    return f"{url.removesuffix('.crl')}.{partition}.crl"


def series_of(ca: str, partition: str | None) -> str:
    """The name of the series of CRLs that lists what a CA issued into a partition."""
    if partition is None:
        return ca
    of_its_own = partition.isdigit() or partition in (CA_CERTIFICATES, USER_CERTIFICATES)
    return f"{ca}.{partition}" if of_its_own else partition  # that of a CRL issuer
