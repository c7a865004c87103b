"""The responder keys of a host that has no CA: made here, certified by each CA."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from cli import files
from cli.service.validation import responder_id
from conf.schema import Settings
from infra.clock import Clock
from infra.errors import Failure, Rejected
from infra.state import unusable
from ocsp.delegate import Delegate, open_desk
from ocsp.follower import Origin, enrol
from pki import der, oids
from pki.algorithms import KeyType
from pki.certificate import Certificate, parse_certificate
from pki.export import encode_pem
from pki.issuer import Issuer
from pki.names import attribute, encode_name, parse_name
from pki.request import RequestedExtension, assemble_request, build_request_info
from pki.signer import Keys, Signer
from pki.signer.uri import check_label

RESPONDERS: Final = Path("responders")
"""Where, in the state folder, the certificates are that CAs of a feed gave."""

EXTENSIONS: Final = (
    RequestedExtension(oids.KEY_USAGE, True, der.named_bits({0})),  # digitalSignature
    RequestedExtension(
        oids.EXTENDED_KEY_USAGE, False, der.sequence(der.object_identifier(oids.OCSP_SIGNING))
    ),
    RequestedExtension(oids.OCSP_NO_CHECK, False, der.NULL_VALUE),  # RFC 6960 §4.2.2.2.1
)
"""What a responder's certificate should have, for CAs that are to be asked for it."""

_log = logging.getLogger(__name__)


def key_label(name: str) -> str:
    """What the key of this CA's responder is called. Errors: ``bad-key-label``."""
    return check_label(f"{name}-ocsp")


async def responder_signer(keys: Keys, name: str) -> Signer:
    """The key of this host's responder for a CA, made if need be. Errors: those of ``Keys``."""
    label = key_label(name)
    try:
        uri = await keys.generate(label, KeyType.P_256)
    except Rejected as rejected:
        if rejected.code != "key-exists":
            raise
        uri = keys.named(label)
    return await keys.open(uri)


async def responder_request(
    signer: Signer, issuer: Issuer, extensions: Iterable[RequestedExtension] = ()
) -> bytes:
    """A request (PKCS#10, DER) for a responder's certificate, the same each time but for its
    signature: in the CA's name, its common name followed by OCSP."""
    subject = parse_name(issuer.subject)
    common_name = subject.first(oids.COMMON_NAME)
    named = attribute("CN", f"{common_name or issuer.name} OCSP")
    others = [one for one in subject.attributes if one.type != oids.COMMON_NAME]
    name = encode_name([*others, named])
    info = build_request_info(name.der, signer.public_key_info, extensions)
    return assemble_request(info, signer.algorithm, await signer.sign(info))


def ends_soon(certificate: Certificate, now: datetime) -> bool:
    """Whether no more than a third of its time is left."""
    lifetime = certificate.not_after - certificate.not_before
    return now >= certificate.not_after - lifetime / 3


class Responders:
    """The responders of a feed's CAs, with certificates that are asked for and asked for again."""

    def __init__(self, settings: Settings, keys: Keys, origin: Origin, clock: Clock) -> None:
        self._folder = settings.home / RESPONDERS
        self._responder_id = responder_id(settings)
        self._keys = keys
        self._origin = origin
        self._clock = clock
        self._signers: dict[str, Signer] = {}

    async def delegate(self, issuer: Issuer) -> Delegate:
        """Who signs for this CA, with a certificate that has a third of its time before it, if
        the CA gives it; else with the one that is there.

        Errors: ``bad-key-label``, those of ``Keys``, ``enrol`` and the state folder.
        """
        signer = self._signers.get(issuer.name)
        if signer is None:
            signer = self._signers[issuer.name] = await responder_signer(self._keys, issuer.name)
        path = self._folder / f"{issuer.name}.pem"
        kept = self._kept(path, issuer, signer)
        now = self._clock.now()
        if kept is not None and not ends_soon(kept, now):
            return self._delegate(issuer, signer, kept)
        try:
            certificate = await enrol(self._origin, issuer, await responder_request(signer, issuer))
            delegate = self._delegate(issuer, signer, certificate)
            open_desk(delegate)
        except Failure as failure:
            if kept is None or kept.not_after <= now:
                raise
            _log.error("the OCSP certificate for CA %s is not renewed: %s", issuer.name, failure)
            return self._delegate(issuer, signer, kept)
        if kept is None or certificate.der != kept.der:
            self._keep(path, certificate)
            ends = f"{certificate.not_after:%FT%TZ}"
            _log.info("CA %s has certified its OCSP key here until %s", issuer.name, ends)
        return delegate

    def _kept(self, path: Path, issuer: Issuer, signer: Signer) -> Certificate | None:
        """What was asked for before, if it is still of this key and CA."""
        if not path.exists():
            return None
        try:
            certificate = parse_certificate(files.read(path))
            open_desk(self._delegate(issuer, signer, certificate))
        except Rejected as rejected:
            _log.warning("%s is of no use, another one is asked for: %s", path, rejected)
            return None
        return certificate

    def _keep(self, path: Path, certificate: Certificate) -> None:
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise unusable(path, error) from error
        files.write(path, encode_pem("CERTIFICATE", certificate.der), force=True)

    def _delegate(self, issuer: Issuer, signer: Signer, certificate: Certificate) -> Delegate:
        return Delegate(issuer, signer, certificate.der, self._responder_id)
