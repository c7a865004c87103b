"""ETSI EN 319 412: citizen-signature and enterprise-seal, with pkilint and asn1crypto."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import core
from pyasn1.codec.der.decoder import decode
from pyasn1_alt_modules import rfc3739

from infra.errors import Rejected
from pki import oids
from pki.certificate import parse_certificate
from pki.conformance import check
from pki.lint import lint_certificate
from pki.names import parse_rfc4514
from pki.profile import apply_subject, parse_profile
from tests.unit.certificate_fixtures import (
    ALGORITHM,
    ISSUING,
    NOW,
    PROFILES,
    REQUESTS,
    SERIAL,
    build_one,
    certificate,
    key,
    request,
    sign,
)

SIGNATURE = "etsi/qcp-n-qscd-non-eidas-final-certificate"
SIGNATURE_EU = "etsi/qcp-n-qscd-eidas-final-certificate"
SEAL = "etsi/ncp-legal-person-certificate"


def statements(der: bytes) -> dict[str, Any]:
    """The statements by OID, as RFC 3739's ASN.1 module reads them."""
    found = parse_certificate(der).extension(oids.QC_STATEMENTS)
    assert found is not None
    assert not found.critical  # EN 319 412-5 QCS-4.1-02
    decoded, rest = decode(found.value, asn1Spec=rfc3739.QCStatements())
    assert not rest
    return {
        str(each["statementId"]): bytes(each["statementInfo"])
        if each["statementInfo"].hasValue()
        else None
        for each in decoded
    }


def errors(der: bytes, rulebook: str) -> list[str]:
    return [
        f"{f.code} {f.detail}" for f in lint_certificate(der, rulebook) if f.severity == "error"
    ]


def with_statements(name: str, **changes: Any) -> bytes:
    """A certificate of a shipped profile whose qc_statements differ (None takes one out)."""
    data = tomllib.loads(Path(f"conf/profiles/{name}.toml").read_text())
    policies = changes.pop("policies", None)
    if policies:
        data["certificate_policies"] = {"policies": [{"oid": policies}]}
    merged = data["qc_statements"] | changes
    data["qc_statements"] = {k: v for k, v in merged.items() if v is not None}
    profile = parse_profile(name, data)
    tbs = build_one(name, profile=profile)
    assert not check(
        tbs, profile, REQUESTS[name], ISSUING, signature_algorithm=ALGORITHM, serial=SERIAL, now=NOW
    )
    return sign(key("issuing"), tbs)


def test_412_2_a_citizens_signature_certificate_passes() -> None:
    assert errors(certificate("citizen-signature"), SIGNATURE) == []


def test_412_3_an_enterprise_seal_certificate_passes() -> None:
    assert errors(certificate("enterprise-seal"), SEAL) == []


def test_412_2_a_pseudonym_stands_for_the_name() -> None:
    by = request("C=AQ,CN=Skua,pseudonym=Skua,serialNumber=PASAQ-P3000180")
    assert errors(sign(key("issuing"), build_one("citizen-signature", by=by)), SIGNATURE) == []


def test_412_5_statements_say_what_the_profile_says() -> None:
    found = statements(certificate("citizen-signature"))
    assert list(found) == [
        "1.3.6.1.5.5.7.11.2",
        "0.4.0.1862.1.1",
        "0.4.0.1862.1.4",
        "0.4.0.1862.1.6",
        "0.4.0.1862.1.3",
        "0.4.0.1862.1.5",
        "0.4.0.1862.1.7",
    ]
    assert found["0.4.0.1862.1.1"] is None
    assert found["0.4.0.1862.1.4"] is None
    (kind,) = core.SequenceOf.load(found["0.4.0.1862.1.6"], spec=core.ObjectIdentifier)
    assert kind.native == "0.4.0.1862.1.6.1"
    assert core.Integer.load(found["0.4.0.1862.1.3"]).native == 10
    (country,) = core.SequenceOf.load(found["0.4.0.1862.1.7"], spec=core.PrintableString)
    assert country.native == "AQ"  # that of the issuer
    (semantics,) = core.SequenceOf.load(found["1.3.6.1.5.5.7.11.2"], spec=core.ObjectIdentifier)
    assert semantics.native == "0.4.0.194121.1.1"


def test_412_5_a_seal_is_a_seal() -> None:
    found = statements(certificate("enterprise-seal"))
    (kind,) = core.SequenceOf.load(found["0.4.0.1862.1.6"], spec=core.ObjectIdentifier)
    assert kind.native == "0.4.0.1862.1.6.2"
    assert "0.4.0.1862.1.4" not in found


def test_412_5_qualified_in_the_european_union() -> None:
    der = with_statements("citizen-signature", legislation=None, policies="0.4.0.194112.1.2")
    assert errors(der, SIGNATURE_EU) == []
    found = lint_certificate(der, SIGNATURE_EU)
    assert [f for f in found if f.severity == "warning"] == []


def test_412_5_pkilint_sees_the_statement_that_is_missing() -> None:
    der = with_statements("citizen-signature", legislation=None, sscd=False)
    assert any("qualified_statement_absent" in error for error in errors(der, SIGNATURE_EU))


def test_412_1_a_national_scheme_names_its_registrar() -> None:
    data = tomllib.loads(Path("conf/profiles/citizen-signature.toml").read_text())
    by = request("C=AQ,CN=A,pseudonym=A,serialNumber=EI:AQ-2000")
    with pytest.raises(Rejected):
        apply_subject(
            PROFILES["citizen-signature"].subject,
            parse_rfc4514("C=AQ,CN=A,pseudonym=A,serialNumber=EI:AQ-2"),
        )
    data["qc_statements"]["registration_authorities"] = ["https://registry.example.org"]
    profile = parse_profile("citizen-signature", data)
    tbs = build_one("citizen-signature", profile=profile, by=by)
    assert not check(
        tbs, profile, by, ISSUING, signature_algorithm=ALGORITHM, serial=SERIAL, now=NOW
    )
    assert errors(sign(key("issuing"), tbs), SIGNATURE) == []


def test_412_1_eidas_identifiers() -> None:
    data = tomllib.loads(Path("conf/profiles/citizen-signature.toml").read_text())
    data["qc_statements"]["semantics"] = "eidas-natural-person"
    data["subject"]["serialNumber"]["semantics"] = "eidas-natural-person"
    profile = parse_profile("citizen-signature", data)
    by = request("C=AQ,CN=A,pseudonym=A,serialNumber=ES/AT/02635542Y")
    der = sign(key("issuing"), build_one("citizen-signature", profile=profile, by=by))
    assert errors(der, SIGNATURE) == []
    with pytest.raises(Rejected):
        build_one("citizen-signature", profile=profile, by=REQUESTS["citizen-signature"])


def test_412_2_key_usage_is_type_a() -> None:
    found = lint_certificate(certificate("citizen-signature"), SIGNATURE)
    assert not [f for f in found if "key_usage" in f.code or "content_commitment" in f.code]
