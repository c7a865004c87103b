"""A certificate authority as everybody but its key sees it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Urls:
    """Where relying parties find what belongs to a CA."""

    crl: str
    ocsp: str
    certificate: str
    directory: str = ""

    @classmethod
    def below(cls, base: str, name: str, directory: str = "") -> Urls:
        """As a service lays them out whose address is ``base``."""
        return cls(f"{base}/crl/{name}.crl", f"{base}/ocsp", f"{base}/aia/{name}.cer", directory)


@dataclass(frozen=True, slots=True)
class Issuer:
    """What certificates, CRLs and OCSP answers need to know of the CA that makes them.

    ``name``: short and stable, as in URLs (``issuing``); ``certificate``, ``subject`` and
    ``public_key_info``: DER; ``key_identifier``: the SKI of its certificate, 20 octets;
    ``chain``: the certificates above it, the root last, empty for a root; ``crl_url``,
    ``ocsp_url``, ``certificate_url``: where relying parties look, as the certificates that it
    issues say; ``crl_issuer``: Name in DER of who signs the CRL at ``crl_url``, None for the CA
    itself; ``directory_url``: of the branch of the directory where CAs and CRLs are (RFC 4516),
    empty for none.
    """

    name: str
    certificate: bytes
    subject: bytes
    public_key_info: bytes
    key_identifier: bytes
    not_before: datetime
    not_after: datetime
    chain: tuple[bytes, ...]
    crl_url: str
    ocsp_url: str
    certificate_url: str
    crl_issuer: bytes | None = None
    directory_url: str = ""
