"""RFC 5280 §4, clause by clause, with openssl, cryptography and pkilint as the other side."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pki import oids
from pki.certificate import parse_certificate
from pki.lint import lint_certificate
from pki.names import parse_rfc4514
from pki.profile import parse_profile
from pki.reference import reference_extensions
from pki.request import parse_request
from tests.unit.certificate_fixtures import (
    ISSUING,
    NOW,
    PROFILES,
    REQUESTS,
    ROOT,
    build_one,
    certificate,
    issuer_of,
    key,
    request,
    san,
    sign,
)

NAMES = sorted(PROFILES)


def openssl(*arguments: str, data: bytes = b"") -> str:
    assert shutil.which("openssl"), "apt-get install openssl"
    done = subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def text_of(der: bytes) -> str:
    return openssl("x509", "-inform", "DER", "-noout", "-text", "-nameopt", "RFC2253", data=der)


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("name", NAMES)
def test_4_1_openssl_and_cryptography_read_every_profile(name: str) -> None:
    der = certificate(name)
    text = text_of(der)
    assert "Version: 3 (0x2)" in text
    assert "Signature Algorithm: ecdsa-with-SHA256" in text
    openssl("asn1parse", "-inform", "DER", "-noout", data=der)
    theirs = x509.load_der_x509_certificate(der)
    assert len(theirs.extensions) == len(parse_certificate(der).extensions)


@pytest.mark.parametrize("name", NAMES)
def test_4_pkilint_finds_no_error(name: str) -> None:
    profile = PROFILES[name]
    for rulebook in {"pkix", profile.rulebook}:
        found = lint_certificate(certificate(name), rulebook)
        errors = [f for f in found if f.severity == "error"]
        assert {f.code for f in errors} <= profile.waived_findings, errors


def test_4_2_1_6_what_is_waived_is_the_did_and_nothing_else() -> None:
    by = request("C=AQ,CN=Alice", san("email:alice@example.org", "upn:alice@example.org"))
    der = sign(key("issuing"), build_one("citizen-authentication", by=by))
    assert not [f for f in lint_certificate(der) if f.severity == "error"]
    with_did = lint_certificate(certificate("citizen-authentication"))
    assert [f.detail for f in with_did if f.severity == "error"] == [
        "certificate.tbsCertificate.extensions.5.extnValue.subjectAltName.1"
        '.uniformResourceIdentifier: Invalid URI syntax: "did:key:z6MkpTHR8VNs"'
    ]


@pytest.mark.parametrize("name", [n for n in NAMES if not PROFILES[n].self_signed])
def test_6_openssl_trusts_the_chain(tmp_path: Path, name: str) -> None:
    (tmp_path / "root.pem").write_bytes(pem(ROOT.certificate))
    (tmp_path / "issuing.pem").write_bytes(pem(ISSUING.certificate))
    (tmp_path / "leaf.pem").write_bytes(pem(certificate(name)))
    verdict = openssl(
        "verify", "-x509_strict", "-attime", str(int(NOW.timestamp())),
        "-CAfile", str(tmp_path / "root.pem"), "-untrusted", str(tmp_path / "issuing.pem"),
        str(tmp_path / "leaf.pem"),
    )  # fmt: skip
    assert verdict.rstrip().endswith("OK")


@pytest.mark.parametrize(
    ("name", "purpose"),
    [
        ("citizen-authentication", "sslclient"),
        ("officer", "sslclient"),
        ("tls-server", "sslserver"),
        ("time-stamping", "timestampsign"),
        ("citizen-encryption", "any"),
    ],
)
def test_4_2_1_12_openssl_grants_the_purpose(tmp_path: Path, name: str, purpose: str) -> None:
    (tmp_path / "root.pem").write_bytes(pem(ROOT.certificate))
    (tmp_path / "issuing.pem").write_bytes(pem(ISSUING.certificate))
    (tmp_path / "leaf.pem").write_bytes(pem(certificate(name)))
    openssl(
        "verify", "-purpose", purpose, "-attime", str(int(NOW.timestamp())),
        "-CAfile", str(tmp_path / "root.pem"), "-untrusted", str(tmp_path / "issuing.pem"),
        str(tmp_path / "leaf.pem"),
    )  # fmt: skip


def test_4_1_2_2_serial_number_is_positive_and_at_most_20_octets() -> None:
    serial = x509.load_der_x509_certificate(certificate("officer")).serial_number
    assert 0 < serial < 1 << 159


def test_4_1_2_5_validity_counts_both_ends() -> None:
    text = text_of(certificate("citizen-authentication"))
    assert "Not Before: Nov 22 11:55:00 2026 GMT" in text
    assert "Not After : Nov 22 11:54:59 2029 GMT" in text


def test_4_1_2_5_times_from_2050_on_are_generalized() -> None:
    der = sign(key("root"), build_one("root", now=NOW.replace(year=2035)))
    listed = openssl("asn1parse", "-inform", "DER", data=der)
    assert re.search(r"UTCTIME +:351122120000Z", listed)
    assert re.search(r"GENERALIZEDTIME +:20551122115959Z", listed)
    assert "Nov 22 11:59:59 2055 GMT" in text_of(der)


def test_4_1_2_6_names_are_written_in_the_string_types_of_the_profile() -> None:
    subject = parse_certificate(certificate("citizen-signature")).subject.der
    listed = openssl("asn1parse", "-inform", "DER", data=subject)
    assert re.findall(r"(\w+STRING) +:(.+)", listed) == [
        ("PRINTABLESTRING", "AQ"),
        ("UTF8STRING", "Alice Example"),
        ("UTF8STRING", "Alice"),
        ("UTF8STRING", "Example"),
        ("PRINTABLESTRING", "PNOAQ-12"),
    ]


def test_4_1_2_6_an_empty_subject_makes_subject_alt_name_critical() -> None:
    by = request("", san("dns:www.example.org"))
    der = sign(key("issuing"), build_one("tls-server", by=by))
    assert "X509v3 Subject Alternative Name: critical\n" in text_of(der)
    assert not [f for f in lint_certificate(der) if f.severity == "error"]


def test_4_2_1_1_and_4_2_1_2_key_identifiers_chain() -> None:
    leaf, issuing, root = (
        x509.load_der_x509_certificate(der).extensions
        for der in (certificate("officer"), ISSUING.certificate, ROOT.certificate)
    )

    def own(extensions: x509.Extensions) -> bytes:
        return extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest

    def above(extensions: x509.Extensions) -> bytes | None:
        found = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        return found.value.key_identifier

    assert above(leaf) == own(issuing)
    assert above(issuing) == own(root)
    bits = (
        key("subject")
        .public_key()
        .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    )
    assert own(leaf) == hashlib.sha1(bits).digest()  # noqa: S324 - RFC 5280 §4.2.1.2 (1)


def test_rfc7093_2_1_key_identifier_is_160_bits_of_sha256() -> None:
    data = tomllib.loads(Path("conf/profiles/officer.toml").read_text())
    profile = parse_profile("officer", data | {"key_identifier": "sha256-160"})
    der = sign(key("issuing"), build_one("officer", profile=profile))
    bits = (
        key("subject")
        .public_key()
        .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    )
    found = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(
        x509.SubjectKeyIdentifier
    )
    assert found.value.digest == hashlib.sha256(bits).digest()[:20]


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("root", "Certificate Sign, CRL Sign"),
        ("subordinate-ca", "Certificate Sign, CRL Sign"),
        ("ocsp-responder", "Digital Signature"),
        ("crl-issuer", "CRL Sign"),
        ("citizen-authentication", "Digital Signature"),
        ("citizen-signature", "Non Repudiation"),
        ("citizen-encryption", "Key Agreement"),
        ("enterprise-seal", "Non Repudiation"),
        ("officer", "Digital Signature"),
        ("tls-server", "Digital Signature"),
        ("time-stamping", "Digital Signature"),
        ("document-signer", "Digital Signature"),
    ],
)
def test_4_2_1_3_key_usage_is_critical_and_narrow(name: str, usage: str) -> None:
    assert re.search(rf"X509v3 Key Usage: critical\n +{usage}\n", text_of(certificate(name)))


def test_4_2_1_6_every_kind_of_alternative_name_is_read_by_openssl() -> None:
    kinds = ("dns", "email", "uri", "ip", "directoryName", "upn")
    data = tomllib.loads(Path("conf/profiles/tls-server.toml").read_text())
    profile = parse_profile("x", data | {"alternative_names": {k: {"maximum": 2} for k in kinds}})
    by = request(
        "C=AQ",
        san("dns:www.example.org", "email:a@example.org", "uri:did:web:example.org",
            "ip:192.0.2.1", "ip:2001:db8::1", "directoryName:C=AQ,CN=Alice", "upn:zoë@example.org"),
    )  # fmt: skip
    der = sign(key("issuing"), build_one("x", profile=profile, by=by))
    text = text_of(der)
    for shown in ("DNS:www.example.org", "email:a@example.org", "URI:did:web:example.org",
                  "IP Address:192.0.2.1", "IP Address:2001:DB8:0:0:0:0:0:1",
                  "DirName:/C=AQ/CN=Alice", "UPN::zo"):  # fmt: skip
        assert shown in text


def test_4_2_1_9_path_length_and_4_2_1_4_policies() -> None:
    text = text_of(ISSUING.certificate)
    assert re.search(r"Basic Constraints: critical\n +CA:TRUE, pathlen:0\n", text)
    assert "Policy: X509v3 Any Policy" in text
    assert re.search(r"Basic Constraints: critical\n +CA:TRUE\n", text_of(ROOT.certificate))


def test_4_2_1_10_name_constraints_bind(tmp_path: Path) -> None:
    data = tomllib.loads(Path("conf/profiles/subordinate-ca.toml").read_text())
    constraints = {"permitted": {"dns": ["example.org"]}, "excluded": {"ip": ["0.0.0.0/0"]}}
    profile = parse_profile("constrained", data | {"name_constraints": constraints})
    ca = sign(key("root"), build_one("constrained", profile=profile,
                                     by=REQUESTS["subordinate-ca"]))  # fmt: skip
    text = text_of(ca)
    assert "X509v3 Name Constraints: critical" in text
    assert "DNS:example.org" in text
    (tmp_path / "root.pem").write_bytes(pem(ROOT.certificate))
    (tmp_path / "ca.pem").write_bytes(pem(ca))
    for names, good in ((["dns:www.example.org"], True), (["dns:www.example.com"], False)):
        leaf = sign(key("issuing"), build_one("tls-server", by=request("", san(*names))))
        (tmp_path / "leaf.pem").write_bytes(pem(leaf))
        done = subprocess.run(
            ["openssl", "verify", "-attime", str(int(NOW.timestamp())), "-CAfile",
             str(tmp_path / "root.pem"), "-untrusted", str(tmp_path / "ca.pem"),
             str(tmp_path / "leaf.pem")],
            capture_output=True, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) is good, done.stderr


def test_4_2_1_13_and_4_2_2_1_point_to_the_issuer() -> None:
    text = text_of(certificate("officer"))
    assert "URI:http://pki.example.org/crl/issuing.crl" in text
    assert "OCSP - URI:http://pki.example.org/ocsp" in text
    assert "CA Issuers - URI:http://pki.example.org/aia/issuing.cer" in text
    root = text_of(ROOT.certificate)
    assert "CRL Distribution Points" not in root
    assert "Authority Information Access" not in root


def test_rfc6960_4_2_2_2_1_the_responder_has_nocheck() -> None:
    text = text_of(certificate("ocsp-responder"))
    assert re.search(r"Extended Key Usage: *\n +OCSP Signing\n", text)
    assert "OCSP No Check" in text


def test_rfc3161_2_3_time_stamping_is_critical_and_alone() -> None:
    text = text_of(certificate("time-stamping"))
    assert re.search(r"Extended Key Usage: critical\n +Time Stamping\n", text)


@pytest.mark.parametrize("name", NAMES)
def test_every_fixed_extension_is_what_another_encoder_makes_of_it(name: str) -> None:
    profile = PROFILES[name]
    tbs = build_one(name)
    for key_type in profile.key_types:
        expected = reference_extensions(profile, issuer_of(profile), key_type.family)
        assert expected
        if key_type.family == "ec":
            missing = [oids.EXTENSION_NAMES[o] for o, whole in expected.items() if whole not in tbs]
            assert missing == []


def test_a_request_made_by_openssl_becomes_a_certificate(tmp_path: Path) -> None:
    """The five-minute tour: a plain request is enough for citizen-authentication."""
    openssl(
        "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", str(tmp_path / "k.pem"), "-out", str(tmp_path / "r.pem"),
        "-subj", "/C=AQ/CN=Alice Example", "-addext", "subjectAltName=email:alice@example.org",
    )  # fmt: skip
    by = parse_request((tmp_path / "r.pem").read_bytes())
    der = sign(key("issuing"), build_one("citizen-authentication", by=by))
    assert parse_certificate(der).subject == parse_rfc4514("C=AQ,CN=Alice Example")
    assert "email:alice@example.org" in text_of(der)
    assert by.subject in der


def test_cabf_br_7_1_2_7_a_domain_validated_form_of_tls_server() -> None:
    data = tomllib.loads(Path("conf/profiles/tls-server.toml").read_text())
    policies = {"policies": [{"oid": "2.23.140.1.2.1"}]}
    profile = parse_profile("dv", data | {"certificate_policies": policies})
    by = request("", san("dns:www.example.org"))
    der = sign(key("issuing"), build_one("dv", profile=profile, by=by))
    found = lint_certificate(der, "cabf-serverauth/dv-final-certificate")
    assert [f for f in found if f.severity == "error"] == []
