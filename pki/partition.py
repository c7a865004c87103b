"""Partitions: certificates of one CA whose revocations are told by CRLs of their own."""

from __future__ import annotations

import hashlib


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
