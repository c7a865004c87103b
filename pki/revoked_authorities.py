"""CAs that issue nothing more: their certificate, or that of a CA above, is revoked or on hold."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from cryptography import x509

from pki.authority import Authority
from pki.certificate import parse_certificate
from pki.issuer import Issuer
from pki.look_up import LookUp
from pki.record import Record
from pki.serial import format_serial
from pki.status import CertStatus, Good, RevocationReason, Revoked


class RevokedAuthorities:
    """Keeps ``Authority.barred`` of every CA of a hierarchy true.

    ``authorities``: by name, looked at anew at each change.
    """

    def __init__(self, authorities: Mapping[str, Authority]) -> None:
        self._authorities = authorities
        self._revoked: dict[bytes, Revoked] = {}

    async def learn(self, ledger: LookUp) -> None:
        """What the ledger says of the certificates of CAs."""
        named = {
            one.issuer.certificate: name
            for name, one in self._authorities.items()
            if one.issuer is not None
        }
        for certificate, issuer in self._links():
            if issuer in named:
                serial = parse_certificate(certificate).serial
                self.hear(certificate, await ledger.status(named[issuer], serial))

    def changed(self, record: Record) -> None:
        """For ``Ledger.subscribe``."""
        if any(record.certificate == certificate for certificate, _ in self._links()):
            self.hear(record.certificate, record.status)

    def hear(self, certificate: bytes, status: CertStatus) -> None:
        """What the issuer of this certificate (DER) says of it."""
        if isinstance(status, Revoked):
            self._revoked[certificate] = status
        else:
            self._revoked.pop(certificate, None)
        for authority in self._authorities.values():
            authority.barred = self._why(authority)

    def read(self, issuer: Issuer, crl: bytes) -> None:
        """What a CRL (DER) that ``issuer`` signed elsewhere says of CAs here; it is believed."""
        listed = x509.load_der_x509_crl(crl)
        for certificate, above in self._links():
            if above == issuer.certificate:
                serial = parse_certificate(certificate).serial
                entry = listed.get_revoked_certificate_by_serial_number(serial)
                self.hear(certificate, Good() if entry is None else _status(entry))

    def _links(self) -> set[tuple[bytes, bytes]]:
        """The certificates that lead to our CAs, each with that of its issuer."""
        links: set[tuple[bytes, bytes]] = set()
        for authority in self._authorities.values():
            if authority.issuer is not None:
                chain = (authority.issuer.certificate, *authority.issuer.chain)
                links.update(pairwise(chain))
        return links

    def _why(self, authority: Authority) -> str | None:
        if authority.issuer is None:
            return None
        for certificate in (authority.issuer.certificate, *authority.issuer.chain):
            status = self._revoked.get(certificate)
            if status is not None:
                read = parse_certificate(certificate)
                return (
                    f"the certificate of {read.subject.rfc4514()}, serial "
                    f"{format_serial(read.serial)}, is {'on hold' if status.on_hold else 'revoked'}"
                    f" since {status.at:%Y-%m-%dT%H:%M:%SZ} ({status.reason.name})"
                )
        return None


def _status(entry: x509.RevokedCertificate) -> Revoked:
    try:
        said = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        reason = RevocationReason[said.value]
    except x509.ExtensionNotFound:
        reason = RevocationReason.unspecified
    return Revoked(entry.revocation_date_utc, reason, None, 0)
