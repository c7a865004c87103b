"""qcStatements of qualified certificates (RFC 3739 §3.2.6, ETSI EN 319 412-1 §5.1, -5 §4)."""

from __future__ import annotations

from infra.errors import Rejected
from pki import der, oids
from pki.issuer import Issuer
from pki.names import parse_name
from pki.profile.model import ISSUER_COUNTRY, QcStatements


def legislation_countries(statements: QcStatements, issuer: Issuer | None) -> tuple[str, ...]:
    """The countries of QcCClegislation, the issuer's own filled in. Errors:
    ``issuer-without-country``."""
    return tuple(
        _country(issuer) if country == ISSUER_COUNTRY else country
        for country in statements.legislation
    )


def _country(issuer: Issuer | None) -> str:
    country = None if issuer is None else parse_name(issuer.subject).first(oids.COUNTRY_NAME)
    if country is None:
        raise Rejected(
            "issuer-without-country",
            "the profile names the country of its issuer in qc_statements.legislation, and the "
            "issuer's name has none; write the country into the profile",
        )
    return country


def encode_qc_statements(statements: QcStatements, issuer: Issuer | None) -> bytes:
    """QCStatements in DER, in the order of EN 319 412-5 §4 with the semantics first.

    Errors: ``issuer-without-country``.
    """
    found = []
    if statements.semantics is not None:
        found.append(_statement(oids.QCS_PKIX_SYNTAX_V2, _semantics(statements)))
    if statements.compliance:
        found.append(_statement(oids.QCS_COMPLIANCE))
    if statements.sscd:
        found.append(_statement(oids.QCS_SSCD))
    if statements.type is not None:
        kind = der.object_identifier(oids.QC_TYPES[statements.type])
        found.append(_statement(oids.QCS_TYPE, der.sequence(kind)))
    if statements.retention_years is not None:
        years = der.integer(statements.retention_years)
        found.append(_statement(oids.QCS_RETENTION_PERIOD, years))
    if statements.disclosure:
        locations = (
            der.sequence(der.ia5_string(pds.url), der.printable_string(pds.language))
            for pds in statements.disclosure
        )
        found.append(_statement(oids.QCS_PDS, der.sequence(*locations)))
    if countries := legislation_countries(statements, issuer):
        codes = der.sequence(*map(der.printable_string, countries))
        found.append(_statement(oids.QCS_CC_LEGISLATION, codes))
    return der.sequence(*found)


def _statement(oid: str, information: bytes = b"") -> bytes:
    return der.sequence(der.object_identifier(oid), information)


def _semantics(statements: QcStatements) -> bytes:
    """SemanticsInformation (RFC 3739 §3.2.6.1)."""
    authorities = [der.implicit(6, uri.encode()) for uri in statements.registration_authorities]
    return der.sequence(
        der.object_identifier(oids.SEMANTICS_IDENTIFIERS[statements.semantics or ""]),
        der.sequence(*authorities) if authorities else b"",
    )
