"""Building certificates: what is built and what is refused."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from infra.errors import Broken, Rejected
from pki import der, oids
from pki.algorithms import KeyType, usual_algorithm
from pki.certificate import Order, build, parse_certificate, parse_tbs
from pki.general_name import parse_general_name
from pki.issuer import Issuer
from pki.names import parse_rfc4514
from pki.profile import parse_profile
from pki.request import CertificateRequest, RequestedExtension
from tests.unit.certificate_fixtures import (
    ALGORITHM,
    ISSUING,
    NOW,
    PROFILES,
    REQUESTS,
    ROOT,
    SERIAL,
    altered,
    as_issuer,
    build_one,
    certificate,
    checked,
    elements,
    key,
    modified,
    request,
    san,
    sign,
)

# ── What is built ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_profile_builds_what_its_check_accepts(name: str) -> None:
    tbs = build_one(name)
    assert checked(name, tbs) == []
    said = parse_tbs(tbs)
    assert said.version == 3
    assert said.serial == SERIAL
    assert len({found.oid for found in said.extensions}) == len(said.extensions)


def test_an_order_replaces_the_subject_and_adds_names() -> None:
    order = Order(
        subject=parse_rfc4514("C=AQ,CN=Alice Married").der,
        alternative_names=(
            parse_general_name("uri:did:web:example.org"),
            parse_general_name("upn:zoë@example.org"),
        ),
        lifetime=timedelta(days=30),
    )
    by = request("C=AQ,CN=Alice Single", san("email:alice@example.org"))
    tbs = build_one("citizen-authentication", by=by, order=order)
    said = parse_tbs(tbs)
    assert said.subject.first(oids.COMMON_NAME) == "Alice Married"
    assert [str(name) for name in said.alternative_names] == [
        "email:alice@example.org",
        "uri:did:web:example.org",
        "upn:zoë@example.org",
    ]
    assert said.not_after - said.not_before == timedelta(days=30, seconds=-1)
    assert checked("citizen-authentication", tbs, by=by, order=order) == []


def test_every_kind_of_alternative_name_passes_the_check() -> None:
    kinds = [
        "dns:a.example.org", "email:a@example.org", "uri:https://example.org/a", "ip:2001:db8::1",
        "directoryName:C=AQ,CN=Alice", "upn:zoë@example.org", "smtpUTF8Mailbox:zoë@example.org",
        "xmppAddr:a@example.org", "srvName:_xmpp.example.org",
    ]  # fmt: skip
    profile = modified(
        "tls-server", alternative_names={name.partition(":")[0]: {} for name in kinds}
    )
    order = Order(alternative_names=tuple(map(parse_general_name, kinds[5:])))
    by = request("C=AQ", san(*kinds[:5]))
    tbs = build_one("tls-server", profile=profile, by=by, order=order)
    assert len(parse_tbs(tbs).alternative_names) == len(kinds)
    assert checked("tls-server", tbs, profile=profile, by=by, order=order) == []


def test_a_subject_in_another_order_is_written_anew_and_conforms() -> None:
    by = request("CN=Alice,C=AQ")
    assert parse_rfc4514("C=AQ,CN=Alice").der == by.subject
    turned = replace(by, subject=der.sequence(*reversed(list(elements(by.subject)))))
    tbs = build_one("citizen-authentication", by=turned)
    assert parse_tbs(tbs).subject.der == by.subject
    assert checked("citizen-authentication", tbs, by=turned) == []


def test_requested_extensions_equal_to_the_profile_are_fine() -> None:
    granted = parse_tbs(build_one("citizen-authentication", by=request("C=AQ,CN=A")))
    asked = tuple(
        RequestedExtension(e.oid, e.critical, e.value)
        for e in granted.extensions
        if e.oid != oids.AUTHORITY_KEY_IDENTIFIER
    )
    by = request("C=AQ,CN=A", *asked)
    assert build_one("citizen-authentication", by=by) == granted.tbs
    assert checked("citizen-authentication", granted.tbs, by=by) == []


def test_requested_purposes_may_stand_in_another_order() -> None:
    both = {"purposes": ["clientAuth", "emailProtection"]}
    profile = modified("citizen-authentication", extended_key_usage=both)
    value = der.sequence(*map(der.object_identifier, ("1.3.6.1.5.5.7.3.4", "1.3.6.1.5.5.7.3.2")))
    by = request("C=AQ,CN=A", RequestedExtension(oids.EXTENDED_KEY_USAGE, False, value))
    assert build_one("citizen-authentication", by=by, profile=profile)


def test_ignored_extensions_are_left_out() -> None:
    profile = modified(
        "citizen-authentication", ignored_extensions=["keyUsage", "1.2.3.4", "subjectAltName"]
    )
    by = request(
        "C=AQ,CN=A",
        RequestedExtension(oids.KEY_USAGE, True, der.named_bits({5})),
        RequestedExtension("1.2.3.4", False, b"\x05\x00"),
        san("dns:www.example.org"),
    )
    tbs = build_one("citizen-authentication", by=by, profile=profile)
    assert tbs == build_one("citizen-authentication", by=request("C=AQ,CN=A"), profile=profile)
    assert checked("citizen-authentication", tbs, by=by, profile=profile) == []


def test_an_empty_subject_makes_the_alternative_names_critical() -> None:
    by = request("", san("dns:www.example.org"))
    tbs = build_one("tls-server", by=by)
    found = parse_tbs(tbs).extension(oids.SUBJECT_ALT_NAME)
    assert found is not None
    assert found.critical
    assert checked("tls-server", tbs, by=by) == []


@pytest.mark.parametrize(("method", "expected"), [("sha1", 20), ("sha256-160", 20)])
def test_key_identifiers_are_those_of_the_rfcs(method: str, expected: int) -> None:
    profile = modified("officer", key_identifier=method)
    tbs = build_one("officer", profile=profile)
    identifier = parse_tbs(tbs).subject_key_identifier
    assert len(identifier) == expected
    theirs = x509.SubjectKeyIdentifier.from_public_key(key("subject").public_key()).digest
    assert (identifier == theirs) == (method == "sha1")
    assert checked("officer", tbs, profile=profile) == []
    assert checked("officer", tbs, profile=PROFILES["officer"]) == (
        [] if method == "sha1" else ["key-identifier"]
    )


def test_key_usage_follows_the_kind_of_key() -> None:
    private = rsa.generate_private_key(65537, 2048)
    rsa_request = request("C=AQ,CN=Alice", private=private, key_type=KeyType.RSA_2048)
    for by, bits in ((rsa_request, {2}), (request("C=AQ,CN=Alice"), {4})):
        tbs = build_one("citizen-encryption", by=by)
        found = parse_tbs(tbs).extension(oids.KEY_USAGE)
        assert found is not None
        assert der.Reader(found.value).named_bits() == bits
        assert checked("citizen-encryption", tbs, by=by) == []


def test_name_constraints_policies_and_tls_features_pass_the_check() -> None:
    profile = modified(
        "subordinate-ca",
        name_constraints={
            "permitted": {"dns": ["example.org"], "ip": ["192.0.2.0/24", "2001:db8::/32"]},
            "excluded": {
                "email": [".example.com", "a@example.org"],
                "uri": ["example.net"],
                "directoryName": ["C=AQ,O=Secret"],
            },
        },
        certificate_policies={
            "policies": [{"oid": "2.999.3", "cps": "https://example.org/cps"}, {"oid": "1.2.3"}]
        },
    )  # fmt: skip
    tbs = build_one("subordinate-ca", profile=profile)
    assert checked("subordinate-ca", tbs, profile=profile) == []
    assert checked("subordinate-ca", tbs) == [
        "extension-differs",
        "extension-unexpected",
    ]
    server = modified("tls-server", tls_features=["status_request"])
    assert checked("tls-server", build_one("tls-server", profile=server), profile=server) == []


def test_times_after_2049_are_generalized() -> None:
    by, now = REQUESTS["root"], datetime(2040, 1, 1, tzinfo=UTC)
    tbs = build_one("root", by=by, now=now)
    assert b"\x18\x0f20591231235959Z" in tbs
    assert b"\x17\x0d400101000000Z" in tbs
    assert checked("root", tbs, by=by, now=now) == []


# ── What is refused ──────────────────────────────────────────────────────────────────────────────

ED25519 = request(
    "C=AQ,CN=A",
    private=ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)),
    key_type=KeyType.ED25519,
)


def asking(oid: str, value: bytes) -> CertificateRequest:
    return request("C=AQ,CN=A", RequestedExtension(oid, False, value))


@pytest.mark.parametrize(
    ("name", "by", "code"),
    [
        ("citizen-encryption", ED25519, "key-type-not-allowed"),
        ("citizen-authentication", request("CN=A"), "subject-attribute-missing"),
        ("citizen-authentication", request(""), "subject-attribute-missing"),
        ("citizen-authentication", request("C=AQ,O=x,CN=A"), "subject-attribute-not-allowed"),
        ("citizen-signature", request("C=AQ,CN=A,serialNumber=PNOAQ-1"),
         "subject-attribute-missing"),
        ("citizen-signature", request("C=AQ,CN=A,pseudonym=x,serialNumber=1"),
         "bad-semantics-identifier"),
        ("enterprise-seal", request("C=AQ,CN=A,O=B,organizationIdentifier=1"),
         "bad-semantics-identifier"),
        ("tls-server", request("CN=www.example.org"), "san-missing"),
        ("tls-server", request("CN=www.example.com", san("dns:www.example.org")),
         "subject-attribute-not-in-san"),
        ("tls-server", request(""), "san-missing"),
        ("citizen-authentication", request("C=AQ,CN=A", san("dns:a.example")), "san-not-allowed"),
        ("citizen-authentication", asking(oids.SUBJECT_ALT_NAME, b"\x30\x00"), "bad-general-name"),
        ("citizen-authentication", asking(oids.SUBJECT_ALT_NAME, b"\x30\x05"), "bad-der"),
        ("citizen-authentication", asking(oids.KEY_USAGE, der.named_bits({0, 5})),
         "extension-not-allowed"),
        ("citizen-authentication", asking(oids.KEY_USAGE, b""), "extension-not-allowed"),
        ("citizen-authentication",
         asking(oids.EXTENDED_KEY_USAGE, der.sequence(der.object_identifier("2.5.29.37.0"))),
         "extension-not-allowed"),
        ("citizen-authentication", asking(oids.BASIC_CONSTRAINTS, der.sequence(der.TRUE)),
         "extension-not-allowed"),
        ("citizen-authentication", asking(oids.SUBJECT_KEY_IDENTIFIER, der.octet_string(bytes(20))),
         "extension-not-allowed"),
        ("citizen-authentication", asking(oids.QC_STATEMENTS, b"\x30\x00"),
         "extension-not-allowed"),
        ("citizen-authentication", asking("1.2.3.4", b"\x05\x00"), "extension-not-allowed"),
        ("citizen-authentication",
         replace(request("C=AQ,CN=A"), subject=parse_rfc4514("C=AQ,CN=A").der + b"\x00"),
         "bad-der"),
    ],
)  # fmt: skip
def test_what_goes_beyond_the_profile_is_refused(
    name: str, by: CertificateRequest, code: str
) -> None:
    with pytest.raises(Rejected) as refused:
        build_one(name, by=by)
    assert refused.value.code == code


def build_by(issuer: Issuer | None, name: str, algorithm: KeyType = KeyType.P_256) -> bytes:
    return build(
        PROFILES[name],
        REQUESTS[name],
        issuer,
        signature_algorithm=usual_algorithm(algorithm),
        serial=SERIAL,
        now=NOW,
    )


def test_the_issuer_must_be_one_that_may_issue() -> None:
    leaf = certificate("officer")
    not_a_ca = altered(ISSUING, certificate=leaf, subject=parse_certificate(leaf).subject.der)
    for issuer, name, code in (
        (None, "officer", "issuer-needed"),
        (ROOT, "root", "self-signed-only"),
        (not_a_ca, "officer", "issuer-is-no-ca"),
        (ISSUING, "subordinate-ca", "path-length"),
        (altered(ISSUING, crl_url=""), "officer", "bad-issuer-url"),
    ):
        with pytest.raises(Rejected) as refused:
            build_by(issuer, name)
        assert refused.value.code == code


def test_an_issuer_that_contradicts_itself_is_ours_to_mend() -> None:
    with pytest.raises(Broken):
        build_by(altered(ISSUING, subject=ROOT.subject), "officer")
    with pytest.raises(Broken):
        build_by(ISSUING, "officer", KeyType.ED25519)
    with pytest.raises(Rejected) as refused:
        build_by(None, "root", KeyType.ED25519)
    assert refused.value.code == "key-type"


@pytest.mark.parametrize("serial", [0, -1, 1 << 159])
def test_a_serial_number_out_of_range_is_never_built(serial: int) -> None:
    with pytest.raises(Broken):
        build(
            PROFILES["officer"], REQUESTS["officer"], ISSUING,
            signature_algorithm=ALGORITHM, serial=serial, now=NOW,
        )  # fmt: skip


def test_the_legislation_of_an_issuer_without_a_country_is_refused() -> None:
    data = tomllib.loads(Path("conf/profiles/root.toml").read_text())
    data["subject"]["C"] = {}
    nameless = build(
        parse_profile("root", data), request("CN=R,O=x", private=key("root")), None,
        signature_algorithm=ALGORITHM, serial=SERIAL, now=NOW,
    )  # fmt: skip
    with pytest.raises(Rejected) as refused:
        build_by(as_issuer("nowhere", sign(key("root"), nameless)), "citizen-signature")
    assert refused.value.code == "issuer-without-country"
