"""CAs whose keys are here and whose certificates are made offline: request out, certificate in,
and the offline CA's own CRL and certificate at the URLs that they name.

Each step can be repeated: the same request comes back for the same name, and a certificate that is
here already is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final, cast

from cryptography import x509

from infra.errors import Rejected
from infra.store.port import Collection, Document, Duplicate, Store
from pki.algorithms import KeyType, algorithm_of, verify
from pki.certificate import Certificate, parse_certificate
from pki.hierarchy import AUTHORITIES, LOG_KEY, Hierarchy
from pki.issuer import Issuer
from pki.log.act import Act
from pki.log.log import Log
from pki.names import parse_name, parse_rfc4514
from pki.request import assemble_request, build_request_info
from pki.signer.port import Signer
from pki.signer.uri import check_label

REQUESTED: Final = Collection("requested_authorities")
"""By name: the subject (RFC 4514) and type of key that were asked for, and the request in DER."""

_MOST: Final = 8
"""Certificates from a CA up to its root."""


async def request_certificate(
    store: Store, hierarchy: Hierarchy, name: str, subject: str, key_type: KeyType
) -> bytes:
    """A request (PKCS#10, DER) for the key of a CA that is to be, made unless it is there; or, for
    the name ``log``, for the key that signs the log.

    Errors: ``authority-exists``, ``request-differs``, ``bad-key-label``, those of
    ``parse_rfc4514`` and of keys.
    """
    check_label(name)
    wanted = parse_rfc4514(subject)
    if name in hierarchy.authorities:
        raise Rejected("authority-exists", f"there is a CA {name} already; give this one a name")
    body: Document = {"subject": wanted.rfc4514(), "key_type": key_type.value}
    known = await store.get(REQUESTED, name)
    if known is None:
        known = await store.insert(REQUESTED, name, body | {"request": b""})
    if known.body["subject"] != body["subject"] or known.body["key_type"] != body["key_type"]:
        raise Rejected(
            "request-differs",
            f"a certificate for {name} was asked for with another subject or type of key",
        )
    if known.body["request"]:  # whose fingerprint may have been written down
        return cast(bytes, known.body["request"])
    signer = await _key(hierarchy, name, key_type)
    info = build_request_info(wanted.der, signer.public_key_info, ())
    request = assemble_request(info, signer.algorithm, await signer.sign(info))
    await store.replace(REQUESTED, known, body | {"request": request})
    return request


async def import_certificate(
    store: Store,
    hierarchy: Hierarchy,
    log: Log,
    name: str,
    certificates: Sequence[bytes],
    *,
    by: str,
    now: datetime,
) -> Certificate:
    """Take in what a ceremony made for a request: its certificate, then those above it, the root
    last. A CA is open from the next start on. ``by``: the account that asks.

    Errors: ``no-such-request``, ``key-mismatch``, ``subject-differs``, ``bad-chain``,
    ``not-valid-now``, ``not-a-ca``, those of ``parse_certificate``.
    """
    asked = await store.get(REQUESTED, name)
    if asked is None:
        raise Rejected("no-such-request", f"no certificate for {name!r} was asked for here")
    chain = _checked(certificates, now)
    certificate = chain[0]
    signer = await _key(hierarchy, name, KeyType(str(asked.body["key_type"])))
    if certificate.public_key_info != signer.public_key_info:
        raise Rejected("key-mismatch", f"the certificate is for another key than that of {name}")
    if certificate.subject.rfc4514() != asked.body["subject"]:
        raise Rejected("subject-differs", f"{asked.body['subject']!s} was asked for")
    constraints = certificate.basic_constraints
    if name != LOG_KEY and (constraints is None or not constraints.ca):
        raise Rejected("not-a-ca", f"the certificate for {name} is not that of a CA")
    act_id = f"ca/{name}" if name != LOG_KEY else f"log-certificate/{certificate.sha256.hex()}"
    if await log.find(act_id) is None:
        detail = {"issuer": chain[-1].sha256.hex(), "name": name}
        what = "ca.import" if name != LOG_KEY else "log.certificate"
        await log.append(Act(act_id, what, by, now, certificate.sha256, detail))
    if name != LOG_KEY:
        await _keep(store, name, signer, chain)
    return certificate


def issuer_above(hierarchy: Hierarchy, name: str) -> Issuer | None:
    """The CA above ours that was never here, if what it issued says that its CRL is found where
    this instance has one of this name."""
    for authority in hierarchy.authorities.values():
        if authority.issuer is None:
            continue
        below = authority.issuer.certificate
        for place, der in enumerate(authority.issuer.chain, 1):
            body: Document = {"certificate": der, "chain": [*authority.issuer.chain[place:]]}
            above = hierarchy.issuer(name, body)
            if above.crl_url in _crl_urls(below):
                return above
            below = der
    return None


def _crl_urls(certificate: bytes) -> Iterator[str]:
    for extension in x509.load_der_x509_certificate(certificate).extensions:
        if isinstance(extension.value, x509.CRLDistributionPoints):
            for point in extension.value:
                yield from (str(each.value) for each in point.full_name or ())


async def _keep(store: Store, name: str, signer: Signer, chain: Sequence[Certificate]) -> None:
    body: Document = {
        "key": signer.uri,
        "algorithm": signer.algorithm.name,
        "certificate": chain[0].der,
        "chain": [above.der for above in chain[1:]],
        "profile": "",
    }
    try:
        await store.insert(AUTHORITIES, name, body)
    except Duplicate as duplicate:
        known = await store.get(AUTHORITIES, name)
        if known is None or known.body["certificate"] != chain[0].der:
            raise Rejected(
                "authority-exists", f"CA {name} has another certificate already"
            ) from duplicate


async def _key(hierarchy: Hierarchy, name: str, key_type: KeyType) -> Signer:
    if name == LOG_KEY:
        return await hierarchy.log_key()
    return await hierarchy.own_key(name, key_type)


def _checked(certificates: Sequence[bytes], now: datetime) -> list[Certificate]:
    """Each signed by the next, the last by itself, all of them valid now (RFC 5280 §6.1)."""
    if not 2 <= len(certificates) <= _MOST:
        raise Rejected("bad-chain", "give the certificate, and those above it up to the root")
    chain = [parse_certificate(der) for der in certificates]
    for below, above in zip(chain, [*chain[1:], chain[-1]], strict=True):
        if below.issuer != above.subject:
            raise Rejected(
                "bad-chain",
                f"{below.subject.rfc4514()} was issued by {below.issuer.rfc4514()}, and after it "
                f"comes {above.subject.rfc4514()}",
            )
        try:
            algorithm = algorithm_of(below.algorithm)
            verify(algorithm, above.public_key_info, below.signature, below.tbs)
        except Rejected as rejected:
            name = parse_name(below.subject.der).rfc4514()
            raise Rejected("bad-chain", f"{name} is not signed by the key above it") from rejected
        if not below.not_before <= now <= below.not_after:
            raise Rejected("not-valid-now", f"{below.subject.rfc4514()} does not hold now")
        constraints = above.basic_constraints
        if constraints is None or not constraints.ca:
            raise Rejected("bad-chain", f"{above.subject.rfc4514()} is no CA")
    if len({certificate.sha256 for certificate in chain}) != len(chain):
        raise Rejected("bad-chain", "a certificate is given twice")
    return chain
