"""What a certificate says: TBSCertificate, read back from DER (RFC 5280 §4.1.2)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Never

from infra.errors import Rejected
from pki import der, oids
from pki.extensions import make_key_identifier
from pki.general_name import GeneralName, parse_general_names
from pki.names import Name, parse_name
from pki.profile.model import BasicConstraints, KeyIdentifierMethod

MAXIMUM_EXTENSIONS: Final = 64


@dataclass(frozen=True, slots=True)
class Extension:
    """``value``: the DER inside extnValue."""

    oid: str
    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TBSCertificate:
    """What a certificate says; ``tbs``: its to-be-signed octets; ``version``: 1 to 3."""

    tbs: bytes
    version: int
    serial: int
    algorithm: bytes
    issuer: Name
    not_before: datetime
    not_after: datetime
    subject: Name
    public_key_info: bytes
    extensions: tuple[Extension, ...]

    def extension(self, oid: str) -> Extension | None:
        """The extension of this type."""
        return next((found for found in self.extensions if found.oid == oid), None)

    @property
    def subject_key_identifier(self) -> bytes:
        """The subjectKeyIdentifier, else the SHA-1 of the key (RFC 5280 §4.2.1.2)."""
        found = self.extension(oids.SUBJECT_KEY_IDENTIFIER)
        if found is None:
            return make_key_identifier(KeyIdentifierMethod.sha1, self.public_key_info)
        reader = der.Reader(found.value)
        identifier = reader.content(der.OCTET_STRING)
        reader.done()
        return identifier

    @property
    def basic_constraints(self) -> BasicConstraints | None:
        """BasicConstraints, if there (RFC 5280 §4.2.1.9)."""
        found = self.extension(oids.BASIC_CONSTRAINTS)
        if found is None:
            return None
        reader = der.one(found.value, der.SEQUENCE)
        ca = reader.boolean() if reader.peek() == der.BOOLEAN else False
        length = reader.integer() if reader.peek() == der.INTEGER else None
        reader.done()
        return BasicConstraints(ca, length, found.critical)

    @property
    def alternative_names(self) -> tuple[GeneralName, ...]:
        """The names of subjectAltName; none without it."""
        found = self.extension(oids.SUBJECT_ALT_NAME)
        return () if found is None else parse_general_names(found.value)


def parse_tbs(tbs: bytes) -> TBSCertificate:
    """Read a TBSCertificate in DER. Errors: ``bad-certificate``, ``bad-der``, those of
    ``parse_name``."""
    reader = der.one(tbs, der.SEQUENCE)
    version = 1
    if reader.peek() == 0xA0:
        inside = reader.enter(0xA0)
        version = inside.integer() + 1
        inside.done()
        if version not in (2, 3):
            _bad("the version is neither 1, 2 nor 3, or written though it is 1")
    serial = reader.integer()
    algorithm = reader.raw(der.SEQUENCE)
    issuer = parse_name(reader.raw(der.SEQUENCE))
    validity = reader.enter(der.SEQUENCE)
    not_before, not_after = validity.time(), validity.time()
    validity.done()
    subject = parse_name(reader.raw(der.SEQUENCE))
    public_key_info = reader.raw(der.SEQUENCE)
    for tag in (0x81, 0x82):  # unique identifiers, which nobody writes any more
        if reader.peek() == tag:
            reader.raw()
    extensions: list[Extension] = []
    if reader:
        inside = reader.enter(0xA3)
        listed = inside.enter(der.SEQUENCE)
        inside.done()
        while listed:
            extensions.append(read_extension(listed))
            if len(extensions) > MAXIMUM_EXTENSIONS:
                _bad(f"there are more than {MAXIMUM_EXTENSIONS} extensions")
        if len({found.oid for found in extensions}) != len(extensions):
            _bad("an extension stands there twice (RFC 5280 §4.2)")
    reader.done()
    return TBSCertificate(
        tbs=tbs,
        version=version,
        serial=serial,
        algorithm=algorithm,
        issuer=issuer,
        not_before=not_before,
        not_after=not_after,
        subject=subject,
        public_key_info=public_key_info,
        extensions=tuple(extensions),
    )


def read_extension(listed: der.Reader) -> Extension:
    """The next of ``listed``: one Extension. Errors: ``bad-der``, ``bad-certificate``."""
    inside = listed.enter(der.SEQUENCE)
    oid = inside.object_identifier()
    critical = False
    if inside.peek() == der.BOOLEAN:
        critical = inside.boolean()
        if not critical:
            _bad("an extension writes the default of critical")
    value = inside.content(der.OCTET_STRING)
    inside.done()
    return Extension(oid, critical, value)


def _bad(why: str) -> Never:
    raise Rejected("bad-certificate", why)
