"""CAs that are no part of this installation, whose statuses come from their CRLs.

Each has a folder: ``ca.pem``, its certificate; ``source.json``, where its CRL is;
``responder.csr`` and, once the CA has made it, ``responder.pem``; the CRL in use.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from cli import files
from cli.service.responders import EXTENSIONS, key_label, responder_request, responder_signer
from conf.schema import Settings
from infra.clock import Clock
from infra.errors import Rejected
from infra.state import unusable
from ocsp.delegate import Delegate, ResponderIdType, open_desk
from pki import der, oids
from pki.algorithms import key_type_of
from pki.certificate import Certificate, parse_certificate
from pki.export import encode_pem
from pki.issuer import Issuer, Urls
from pki.names import parse_name
from pki.signer import Keys

AUTHORITIES: Final = Path("authorities")
"""Where, in the state folder, the folders of these CAs are."""

PREFIX: Final = "crl:"
"""What their names begin with in the status table, where a feed's CAs have other names."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_CRL_SIGN: Final = oids.KEY_USAGE_BITS.index("cRLSign")


class _Source(msgspec.Struct, forbid_unknown_fields=True):
    crl: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """A CA that is served by its CRL. ``name``: here; ``crl``: URL, or path of a file."""

    name: str
    folder: Path
    crl: str
    issuer: Issuer

    @property
    def request(self) -> Path:
        """The request for its responder's certificate."""
        return self.folder / "responder.csr"

    @property
    def responder(self) -> Path:
        """Its responder's certificate."""
        return self.folder / "responder.pem"

    @property
    def certificate(self) -> Certificate | None:
        """What its responder's certificate says, None before there is one.
        Errors: ``cannot-read``, those of ``parse_certificate``."""
        return parse_certificate(files.read(self.responder)) if self.responder.exists() else None


async def add(settings: Settings, keys: Keys, name: str, certificate: bytes, crl: str) -> Foreign:
    """Take a CA in, with a key and a request for its responder. ``certificate``: PEM or DER.

    Errors: ``bad-authority-name``, ``authority-exists``, ``not-a-ca``, ``bad-crl-source``, those
    of ``parse_certificate``, of the keys and of the state folder.
    """
    if not _NAME.fullmatch(name):
        raise Rejected(
            "bad-authority-name", f"{name!r} is no name: 1 to 32 of a-z, 0-9 and -, no - first"
        )
    folder = settings.home / AUTHORITIES / name
    if (folder / "ca.pem").exists():
        raise Rejected("authority-exists", f"there is a CA {name}; remove it first")
    foreign = Foreign(name, folder, _location(crl), _issuer(name, certificate, crl))
    for other in names(settings.home):
        if _identity(load(settings.home, other)) == _identity(foreign):
            raise Rejected(
                "authority-exists", f"this CA is there already, as {other}; remove that first"
            )
    signer = await responder_signer(keys, name)
    request = await responder_request(signer, foreign.issuer, EXTENSIONS)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(folder, error) from error
    files.write(folder / "source.json", msgspec.json.encode(_Source(foreign.crl)), force=True)
    files.write(foreign.request, encode_pem("CERTIFICATE REQUEST", request), force=True)
    # Last: this makes it a CA that is there.
    files.write(
        folder / "ca.pem", encode_pem("CERTIFICATE", foreign.issuer.certificate), force=True
    )
    return foreign


async def certify(
    foreign: Foreign, keys: Keys, certificate: bytes, kind: ResponderIdType, clock: Clock
) -> Certificate:
    """Keep the certificate that the CA gave its responder. ``certificate``: PEM or DER.

    Errors: ``delegate-expired``, those of ``open_desk`` and of the keys.
    """
    parsed = parse_certificate(certificate)
    signer = await responder_signer(keys, foreign.name)
    open_desk(Delegate(foreign.issuer, signer, parsed.der, kind))
    if parsed.not_after <= clock.now():
        raise Rejected("delegate-expired", f"it ended at {parsed.not_after:%FT%TZ}")
    files.write(foreign.responder, encode_pem("CERTIFICATE", parsed.der), force=True)
    return parsed


async def delegate(foreign: Foreign, keys: Keys, kind: ResponderIdType) -> Delegate:
    """Who signs for this CA. Errors: ``not-certified``, those of ``open_desk`` and of the keys."""
    certificate = foreign.certificate
    if certificate is None:
        raise Rejected(
            "not-certified",
            f"CA {foreign.name} has yet to certify {foreign.request}: then run "
            f"`digitalid ocsp ca certify {foreign.name} --certificate FILE`",
        )
    signer = await responder_signer(keys, foreign.name)
    made = Delegate(foreign.issuer, signer, certificate.der, kind)
    open_desk(made)
    return made


def names(home: Path) -> Iterator[str]:
    """The CAs that were added, in order."""
    for path in sorted((home / AUTHORITIES).glob("*/ca.pem")):
        yield path.parent.name


def load(home: Path, name: str) -> Foreign:
    """A CA that was added. Errors: ``no-such-authority``, ``bad-authority``, ``cannot-read``."""
    folder = home / AUTHORITIES / name
    if not _NAME.fullmatch(name) or not (folder / "ca.pem").exists():
        known = ", ".join(names(home)) or "none yet: see `digitalid ocsp ca add --help`"
        raise Rejected("no-such-authority", f"there is no CA {name!r} here; there are: {known}")
    try:
        source = msgspec.json.decode(files.read(folder / "source.json"), type=_Source)
    except msgspec.MsgspecError as error:
        raise Rejected(
            "bad-authority", f"{folder / 'source.json'} does not say where the CRL is: {error}"
        ) from error
    issuer = _issuer(name, files.read(folder / "ca.pem"), source.crl)
    return Foreign(name, folder, source.crl, issuer)


def shown(name: str) -> str:
    """A CA's name in the table as people know it: ``crl:NAME`` for one of these."""
    return ":".join(name.split(":")[:2]) if name.startswith(PREFIX) else name


def key_of(name: str) -> str:
    """What the key of the responder for a CA in the table is called."""
    return key_label(name.split(":")[1] if name.startswith(PREFIX) else name)


def remove(foreign: Foreign) -> None:
    """Forget a CA; its responder's key stays. Errors: those of the state folder."""
    try:
        # First, so that whatever interrupts it leaves no CA.
        (foreign.folder / "ca.pem").unlink()
        shutil.rmtree(foreign.folder)
    except OSError as error:
        raise unusable(foreign.folder, error) from error


def _location(crl: str) -> str:
    if crl.startswith(("http://", "https://")) and crl.isascii() and crl.isprintable():
        return crl
    if "://" in crl or not crl.isprintable() or not crl:
        raise Rejected("bad-crl-source", f"{crl[:200]!r} is no http or https URL, nor a path")
    return str(Path(crl).absolute())


def _issuer(name: str, content: bytes, crl: str) -> Issuer:
    certificate = parse_certificate(content)
    constraints = certificate.basic_constraints
    usage = certificate.extension(oids.KEY_USAGE)
    if constraints is None or not constraints.ca:
        raise Rejected("not-a-ca", f"the certificate of {name} is not that of a CA")
    if usage is not None and _CRL_SIGN not in der.Reader(usage.value).named_bits():
        raise Rejected("not-a-ca", f"by its certificate, {name} signs no CRLs (RFC 5280 §4.2.1.3)")
    key_type_of(certificate.public_key_info)
    # Another CA that gets the name of one that was removed does not get its statuses.
    identity = hashlib.sha256(certificate.subject.der + certificate.public_key_info)
    urls = Urls(crl=crl if crl.startswith("http") else "", ocsp="", certificate="")
    return certificate.as_issuer(f"{PREFIX}{name}:{identity.hexdigest()[:16]}", urls)


def _identity(foreign: Foreign) -> str:
    """What the CA is, whatever it is called here."""
    return foreign.issuer.name.rpartition(":")[2]


def subject(foreign: Foreign) -> str:
    """The name in its certificate (RFC 4514)."""
    return parse_name(foreign.issuer.subject).rfc4514()
