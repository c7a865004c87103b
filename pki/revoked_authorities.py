"""CAs that issue nothing more: their certificate, or that of a CA above, is revoked or on hold.

Who tells it is kept with it: what one says to be good may be revoked by another.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

from cryptography import x509

from pki.authority import Authority
from pki.certificate import parse_certificate
from pki.look_up import LookUp
from pki.record import Record
from pki.serial import format_serial
from pki.status import CertStatus, RevocationReason, Revoked

LEDGER: Final = ""
"""Who tells it, where that is no CRL."""


class RevokedAuthorities:
    """Keeps ``Authority.barred`` of every CA of a hierarchy true.

    ``authorities``: by name, looked at anew at each change.
    """

    def __init__(self, authorities: Mapping[str, Authority]) -> None:
        self._authorities = authorities
        self._revoked: dict[tuple[bytes, str], Revoked] = {}
        self._unread: dict[str, str] = {}

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
        """What the ledger says of this certificate (DER)."""
        if isinstance(status, Revoked):
            self._revoked[certificate, LEDGER] = status
        else:
            self._revoked.pop((certificate, LEDGER), None)
        self._bar()

    def read(self, scope: str, crl: bytes) -> None:
        """What the newest full CRL (DER) of a scope, signed elsewhere, says of CAs here; it is
        believed."""
        self._unread.pop(scope, None)
        listed = x509.load_der_x509_crl(crl)
        for certificate, source in list(self._revoked):
            if source == scope:
                del self._revoked[certificate, source]
        for certificate, above in self._links():
            serial = parse_certificate(certificate).serial
            entry = listed.get_revoked_certificate_by_serial_number(serial)
            if entry is not None and _is_by(listed, above):
                self._revoked[certificate, scope] = _status(entry)
        self._bar()

    def miss(self, scope: str, why: str) -> None:
        """A CRL of this scope, signed elsewhere, cannot be read; until one can, a CA that it may
        list issues nothing."""
        self._unread[scope] = why
        self._bar()

    def _bar(self) -> None:
        for authority in self._authorities.values():
            authority.barred = self._why(authority)

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
            told = [status for (of, _), status in self._revoked.items() if of == certificate]
            if told:
                status = min(told, key=lambda one: (one.on_hold, one.at))
                read = parse_certificate(certificate)
                return (
                    f"the certificate of {read.subject.rfc4514()}, serial "
                    f"{format_serial(read.serial)}, is {'on hold' if status.on_hold else 'revoked'}"
                    f" since {status.at:%Y-%m-%dT%H:%M:%SZ} ({status.reason.name})"
                )
        ours = {one.issuer.certificate for one in self._authorities.values() if one.issuer}
        if self._unread and not ours.issuperset(authority.issuer.chain):
            return next(iter(self._unread.values()))
        return None


def _is_by(listed: x509.CertificateRevocationList, issuer: bytes) -> bool:
    """Whether this CRL is of the CA of this certificate, by name and, if it tells, key."""
    certificate = parse_certificate(issuer)
    try:
        named = listed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        key = None
    else:
        key = named.key_identifier
    same = key is None or key == certificate.subject_key_identifier
    return same and listed.issuer == x509.load_der_x509_certificate(issuer).subject


def _status(entry: x509.RevokedCertificate) -> Revoked:
    try:
        said = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        reason = RevocationReason[said.value]
    except x509.ExtensionNotFound:
        reason = RevocationReason.unspecified
    return Revoked(entry.revocation_date_utc, reason, None, 0)
