"""When the certificates end that an instance rests on: its CAs', those of its responders and CRL
issuers, and its own for TLS; and when its operator is told."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from cli.service import foreign
from pki.certificate import parse_certificate
from pki.names import parse_name
from pki.views import moment

if TYPE_CHECKING:
    from cli.service.parts import Instance
    from cli.service.validation_authority import ValidationAuthority
    from conf.schema import Expiry, Settings
    from ocsp.delegate import Delegate
    from pki.issuer import Issuer

_MAX_CHAIN: Final = 256 << 10
"""Octets of a file of certificates."""

_RENEWED: Final = 6
"""By itself a certificate is renewed in its last third: something is wrong in its last sixth."""
_BY_HAND: Final = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate in use. ``role``: ``ca``, ``ocsp``, ``crl-issuer`` or ``tls``; ``name``: of
    the CA, or the section of the settings that names the file; ``to_do``: before it ends, for its
    operator; ``part``: of its lifetime, the last of so many is soon."""

    role: str
    name: str
    not_before: datetime
    not_after: datetime
    to_do: str
    part: int = _BY_HAND

    def ends_soon(self, now: datetime, expiry: Expiry) -> bool:
        """Whether its operator should know that it ends, or has ended."""
        before = expiry.authority if self.role == "ca" else expiry.certificate
        return now >= self.not_after - min(before, (self.not_after - self.not_before) / self.part)


def of_instance(instance: Instance) -> list[Certified]:
    """The certificates of a CA's instance."""
    issuers, signing = instance.issuers.values(), instance.crl_issuers.values()
    return [
        *_authorities(
            [*issuers, *(one for one in signing if one.name not in instance.crl_signers)]
        ),
        *(_responder(one, by_itself=True) for one in instance.delegates),
        *(_crl_issuer(one) for one in signing if one.name in instance.crl_signers),
        *instance.tls,
    ]


def of_validation_authority(authority: ValidationAuthority) -> list[Certified]:
    """The certificates of a validation authority, and of the CAs that it answers for."""
    delegates = authority.delegates.values()
    return [
        *_authorities([one.issuer for one in delegates]),
        *(
            _responder(one, by_itself=not one.issuer.name.startswith(foreign.PREFIX))
            for one in delegates
        ),
        *authority.tls,
    ]


def tls_in_use(settings: Settings) -> list[Certified]:
    """Those for TLS, which are read when the service starts; of a chain what ends first."""
    found = []
    for section, path in (
        ("http", settings.http.tls_certificate),
        ("slapd", settings.slapd.tls_certificate),
        ("directory", settings.directory.certificate),
    ):
        if path is None:
            continue
        try:
            with path.open("rb") as file:
                chain = [parse_certificate(one) for one in _blocks(file.read(_MAX_CHAIN))]
        except Exception as error:  # whoever uses it says what is wrong with it
            _log.debug("%s: %s", path, error)
            continue
        if chain:
            first = min(chain, key=lambda one: one.not_after)
            to_do = f"put another one into {path}, and restart"
            found.append(Certified("tls", section, first.not_before, first.not_after, to_do))
    return found


def soon(certified: Iterable[Certified], now: datetime, expiry: Expiry) -> Iterator[dict[str, Any]]:
    """For the status: each that ends soon or has ended, the first to end before all others."""
    for one in sorted(certified, key=lambda one: one.not_after):
        if one.ends_soon(now, expiry):
            yield {
                "role": one.role,
                "name": one.name,
                "not_after": moment(one.not_after),
                "ended": one.not_after < now,
                "to_do": one.to_do,
            }


def _authorities(issuers: Iterable[Issuer]) -> Iterator[Certified]:
    """Each CA by its name here, and those above that have none by that in their certificate."""
    named = {one.certificate: foreign.shown(one.name) for one in issuers}
    for issuer in issuers:
        for above in issuer.chain:
            named.setdefault(above, parse_name(parse_certificate(above).subject.der).rfc4514())
    to_do = "make the CA that is to follow it, and issue from that one"
    for der, name in named.items():
        read = parse_certificate(der)
        yield Certified("ca", name, read.not_before, read.not_after, to_do)


def _responder(delegate: Delegate, *, by_itself: bool) -> Certified:
    read, name = parse_certificate(delegate.certificate), foreign.shown(delegate.issuer.name)
    if not by_itself:
        to_do = f"have that CA certify the key again, then: digitalid ocsp ca certify {name}"
    elif read.not_after >= delegate.issuer.not_after:
        to_do = "it lasts as long as its CA"
    else:
        to_do = "it should have been renewed; the service's log says why it was not"
    part = _RENEWED if by_itself else _BY_HAND
    return Certified("ocsp", name, read.not_before, read.not_after, to_do, part)


def _crl_issuer(issuer: Issuer) -> Certified:
    to_do = "restart, which renews it"
    return Certified(
        "crl-issuer", issuer.name, issuer.not_before, issuer.not_after, to_do, _RENEWED
    )


def _blocks(text: bytes) -> Iterator[bytes]:
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    for part in text.split(begin)[1:]:
        yield begin + part.partition(end)[0] + end + b"\n"
