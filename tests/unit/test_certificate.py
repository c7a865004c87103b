"""Building certificates, and the check that finds every deviation before the signature."""

from __future__ import annotations

import base64
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from infra.errors import Broken, Rejected
from pki import der, oids
from pki.algorithms import KeyType, usual_algorithm
from pki.certificate import Order, build, parse_certificate, parse_tbs
from pki.conformance import check
from pki.extensions import extension
from pki.general_name import parse_general_name
from pki.issuer import Issuer
from pki.names import parse_rfc4514
from pki.profile import Profile, parse_profile
from pki.request import CertificateRequest, RequestedExtension
from tests.unit.certificate_fixtures import (
    ALGORITHM,
    ISSUING,
    ISSUING_TBS,
    NOW,
    PROFILES,
    REQUESTS,
    ROOT,
    SERIAL,
    altered,
    build_one,
    certificate,
    issuer_of,
    key,
    public_key_info,
    request,
    san,
)


def modified(name: str, **changes: Any) -> Profile:
    """A shipped profile with top-level keys set anew."""
    data = tomllib.loads(Path(f"conf/profiles/{name}.toml").read_text())
    return parse_profile(name, data | changes)


# ── What is built ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_profile_builds_what_its_check_accepts(name: str) -> None:
    tbs = build_one(name)
    assert checked(name, tbs) == []
    said = parse_tbs(tbs)
    assert said.version == 3
    assert said.serial == SERIAL
    assert len({found.oid for found in said.extensions}) == len(said.extensions)


def checked(
    name: str,
    tbs: bytes,
    *,
    profile: Profile | None = None,
    by: CertificateRequest | None = None,
    order: Order | None = None,
    issuer: Issuer | None = None,
    now: datetime = NOW,
) -> list[str]:
    """The codes of what the check finds."""
    profile = profile or PROFILES[name]
    found = check(
        tbs,
        profile,
        by or REQUESTS[name],
        issuer or issuer_of(profile),
        signature_algorithm=ALGORITHM,
        serial=SERIAL,
        now=now,
        order=order or Order(),
    )
    assert all(finding.severity == "error" and finding.rulebook == "profile" for finding in found)
    return [finding.code for finding in found]


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
    turned = replace(by, subject=der.sequence(*reversed(list(_parts(by.subject)))))
    tbs = build_one("citizen-authentication", by=turned)
    assert parse_tbs(tbs).subject.der == by.subject
    assert checked("citizen-authentication", tbs, by=turned) == []


def _parts(sequence: bytes) -> list[bytes]:
    reader = der.one(sequence, der.SEQUENCE)
    found = []
    while reader:
        found.append(reader.raw())
    return found


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
    from tests.unit.certificate_fixtures import as_issuer, sign

    data = tomllib.loads(Path("conf/profiles/root.toml").read_text())
    data["subject"]["C"] = {}
    nameless = build(
        parse_profile("root", data), request("CN=R,O=x", private=key("root")), None,
        signature_algorithm=ALGORITHM, serial=SERIAL, now=NOW,
    )  # fmt: skip
    with pytest.raises(Rejected) as refused:
        build_by(as_issuer("nowhere", sign(key("root"), nameless)), "citizen-signature")
    assert refused.value.code == "issuer-without-country"


# ── The check ────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Parts:
    """A TBSCertificate taken apart, to be put together wrongly."""

    version: bytes = b""
    serial: bytes = b""
    algorithm: bytes = b""
    issuer: bytes = b""
    validity: bytes = b""
    subject: bytes = b""
    key: bytes = b""
    extensions: dict[str, bytes] = field(default_factory=dict)
    extra: bytes = b""

    @classmethod
    def of(cls, tbs: bytes) -> Parts:
        fields = _parts(tbs)
        listed = _parts(der.one(fields[7], 0xA3).raw())
        named = {der.one(whole, der.SEQUENCE).object_identifier(): whole for whole in listed}
        return cls(*fields[:7], named)

    def whole(self) -> bytes:
        return der.sequence(
            self.version, self.serial, self.algorithm, self.issuer, self.validity, self.subject,
            self.key, der.explicit(3, der.sequence(*self.extensions.values())), self.extra,
        )  # fmt: skip


def put(**changes: bytes) -> Callable[[Parts], Parts]:
    return lambda parts: replace(parts, **changes)  # type: ignore[arg-type]


def put_extension(
    oid: str, value: bytes | None, *, critical: bool = False
) -> Callable[[Parts], Parts]:
    def change(parts: Parts) -> Parts:
        extensions = dict(parts.extensions)
        if value is None:
            del extensions[oid]
        else:
            extensions[oid] = extension(oid, critical, value)
        return replace(parts, extensions=extensions)

    return change


def twice(oid: str) -> Callable[[Parts], Parts]:
    return lambda parts: replace(
        parts, extensions=parts.extensions | {"again": parts.extensions[oid]}
    )


def turn_critical(oid: str) -> Callable[[Parts], Parts]:
    def change(parts: Parts) -> Parts:
        found = next(e for e in parse_tbs(parts.whole()).extensions if e.oid == oid)
        return put_extension(oid, found.value, critical=not found.critical)(parts)

    return change


def times(start: bytes, end: bytes) -> Callable[[Parts], Parts]:
    return put(validity=der.sequence(start, end))


START = NOW.replace(microsecond=0) - timedelta(minutes=5)
END = START.replace(year=2029) - timedelta(seconds=1)
OTHER_KEY = public_key_info(key("other"))


def name(text: str) -> bytes:
    return parse_rfc4514(text).der


def uri_point(url: bytes) -> bytes:
    return der.sequence(der.sequence(der.explicit(0, der.explicit(0, der.implicit(6, url)))))


# On citizen-authentication, whose request has a subject of C and CN and three alternative names.
MUTATIONS: dict[str, tuple[Callable[[Parts], Parts], str]] = {
    "version 1": (put(version=b""), "not-der"),
    "version 2": (put(version=der.explicit(0, der.integer(1))), "version"),
    "version 4": (put(version=der.explicit(0, der.integer(3))), "not-der"),
    "another serial": (put(serial=der.integer(SERIAL + 1)), "serial"),
    "serial 0": (put(serial=der.integer(0)), "serial"),
    "negative serial": (put(serial=der.integer(-SERIAL)), "serial"),
    "serial of 21 octets": (put(serial=der.integer(1 << 160)), "serial"),
    "another algorithm": (
        put(algorithm=usual_algorithm(KeyType.P_384).identifier), "signature-algorithm"),
    "another issuer": (put(issuer=name("CN=Mallory,C=AQ")), "issuer"),
    "the root as issuer": (put(issuer=ROOT.subject), "issuer"),
    "no issuer": (put(issuer=b"\x30\x00"), "issuer"),
    "a second too early": (
        times(der.time(START - timedelta(seconds=1)), der.time(END)), "validity-start"),
    "a second too late": (
        times(der.time(START + timedelta(seconds=1)), der.time(END)), "validity-start"),
    "ends a second too late": (
        times(der.time(START), der.time(END + timedelta(seconds=1))), "validity-end"),
    "ends a day early": (
        times(der.time(START), der.time(END - timedelta(days=1))), "validity-end"),
    "ends before it starts": (
        times(der.time(START), der.time(START - timedelta(days=1))), "validity-end"),
    "outlasts the CA": (
        times(der.time(START), der.time(ISSUING.not_after + timedelta(days=1))), "validity-end"),
    "GeneralizedTime before 2050": (
        times(der.generalized_time(START), der.time(END)), "time-form"),
    "another subject": (put(subject=name("C=AQ,CN=Mallory")), "subject"),
    "no subject": (put(subject=b"\x30\x00"), "subject-attribute"),
    "no country": (put(subject=name("CN=Alice Example")), "subject-attribute"),
    "an attribute more": (put(subject=name("C=AQ,O=State,CN=Alice Example")), "subject-attribute"),
    "an allowed attribute more": (put(subject=name("C=AQ,CN=Alice Example,surname=X")), "subject"),
    "the name twice": (
        put(subject=name("C=AQ,CN=Alice Example,CN=Alice Example")), "subject-attribute"),
    "attributes in another order": (
        put(subject=der.sequence(*reversed(_parts(name("C=AQ,CN=Alice Example"))))), "subject"),
    "one RDN of two attributes": (put(subject=name("C=AQ+CN=Alice Example")), "subject"),
    "country in lower case": (put(subject=name("C=aq,CN=Alice Example")), "subject-attribute"),
    "name as PrintableString": (
        put(subject=name("C=AQ,CN=#130d416c696365204578616d706c65")), "subject-attribute"),
    "another key": (put(key=OTHER_KEY), "public-key"),
    "no subjectKeyIdentifier": (
        put_extension(oids.SUBJECT_KEY_IDENTIFIER, None), "extension-missing"),
    "subjectKeyIdentifier of another key": (
        put_extension(oids.SUBJECT_KEY_IDENTIFIER, der.octet_string(bytes(20))), "key-identifier"),
    "subjectKeyIdentifier critical": (turn_critical(oids.SUBJECT_KEY_IDENTIFIER), "key-identifier"),
    "subjectKeyIdentifier twice": (twice(oids.SUBJECT_KEY_IDENTIFIER), "extension-duplicate"),
    "no authorityKeyIdentifier": (
        put_extension(oids.AUTHORITY_KEY_IDENTIFIER, None), "extension-missing"),
    "authorityKeyIdentifier of the root": (
        put_extension(
            oids.AUTHORITY_KEY_IDENTIFIER, der.sequence(der.implicit(0, ROOT.key_identifier))
        ),
        "extension-differs",
    ),
    "keyUsage not critical": (turn_critical(oids.KEY_USAGE), "extension-differs"),
    "keyUsage wider": (
        put_extension(oids.KEY_USAGE, der.named_bits({0, 1}), critical=True), "extension-differs"),
    "keyUsage with zero bits at its end": (
        put_extension(oids.KEY_USAGE, der.bit_string(b"\x80", 0), critical=True),
        "extension-differs",
    ),
    "no keyUsage": (put_extension(oids.KEY_USAGE, None), "extension-missing"),
    "keyUsage twice": (twice(oids.KEY_USAGE), "extension-duplicate"),
    "extKeyUsage of a server": (
        put_extension(
            oids.EXTENDED_KEY_USAGE, der.sequence(der.object_identifier("1.3.6.1.5.5.7.3.1"))
        ),
        "extension-differs",
    ),
    "extKeyUsage critical": (turn_critical(oids.EXTENDED_KEY_USAGE), "extension-differs"),
    "a CA": (
        put_extension(oids.BASIC_CONSTRAINTS, der.sequence(der.TRUE), critical=True),
        "extension-differs",
    ),
    "default of cA written": (
        put_extension(oids.BASIC_CONSTRAINTS, der.sequence(der.boolean(False)), critical=True),
        "extension-differs",
    ),
    "another policy": (
        put_extension(
            oids.CERTIFICATE_POLICIES, der.sequence(der.sequence(der.object_identifier("1.2.3")))
        ),
        "extension-differs",
    ),
    "another CRL": (
        put_extension(oids.CRL_DISTRIBUTION_POINTS, uri_point(b"http://evil.example/crl")),
        "extension-differs",
    ),
    "no authorityInfoAccess": (
        put_extension(oids.AUTHORITY_INFORMATION_ACCESS, None), "extension-missing"),
    "name constraints added": (
        put_extension(oids.NAME_CONSTRAINTS, b"\x30\x00", critical=True), "extension-unexpected"),
    "an unknown extension": (put_extension("1.2.3.4", b"\x05\x00"), "extension-unexpected"),
    "no alternative names": (put_extension(oids.SUBJECT_ALT_NAME, None), "alternative-names"),
    "an alternative name less": (
        put_extension(oids.SUBJECT_ALT_NAME, san("email:alice@example.org").value),
        "alternative-names",
    ),
    "another alternative name": (
        put_extension(
            oids.SUBJECT_ALT_NAME,
            san("email:eve@example.org", "uri:did:key:z6MkpTHR8VNs", "upn:alice@example.org").value,
        ),
        "alternative-names",
    ),
    "alternative names critical": (turn_critical(oids.SUBJECT_ALT_NAME), "alternative-names"),
    "alternative names that are no DER": (
        put_extension(oids.SUBJECT_ALT_NAME, b"\x30\x05\x82"), "not-der"),
    "an issuerUniqueID": (
        put(key=public_key_info(key("subject")) + b"\x81\x02\x00\x01"), "not-der"),
    "something after the extensions": (put(extra=der.NULL_VALUE), "not-der"),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_finds(mutation: str) -> None:
    change, code = MUTATIONS[mutation]
    parts = Parts.of(build_one("citizen-authentication"))
    assert checked("citizen-authentication", parts.whole()) == []
    mutant = change(parts).whole()
    assert mutant != parts.whole()
    assert code in checked("citizen-authentication", mutant)


def test_the_check_finds_octets_cut_short_lengthened_or_flipped() -> None:
    tbs = build_one("citizen-authentication")
    assert checked("citizen-authentication", tbs + b"\x00") == ["not-der"]
    for size in range(0, len(tbs), 7):
        assert checked("citizen-authentication", tbs[:size])
    for place in range(len(tbs)):
        mutant = bytearray(tbs)
        mutant[place] ^= 0x04
        assert checked("citizen-authentication", bytes(mutant)), place


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda parts: replace(parts, issuer=ISSUING.subject), "issuer"),
        (put_extension(oids.AUTHORITY_KEY_IDENTIFIER, b"\x30\x00"), "extension-unexpected"),
        (put_extension(oids.BASIC_CONSTRAINTS, b"\x30\x00", critical=True), "extension-differs"),
    ],
)
def test_the_check_finds_what_is_wrong_with_a_root(
    change: Callable[[Parts], Parts], code: str
) -> None:
    parts = Parts.of(build_one("root"))
    assert checked("root", parts.whole()) == []
    assert code in checked("root", change(parts).whole())


def test_the_check_finds_a_request_that_the_profile_does_not_allow() -> None:
    """Even octets that say what was requested do not conform when the profile forbids it."""
    lax = modified("citizen-authentication", key_types=["ed25519", "p-256"],
                   alternative_names={"dns": {"maximum": 9}, "uri": {}})  # fmt: skip
    for by, code in (
        (request("C=AQ,CN=A", san("dns:www.example.org")), "alternative-names"),
        (request("C=AQ,CN=A", san("uri:https://example.org")), "alternative-names"),
    ):
        tbs = build_one("x", profile=lax, by=by)
        assert code in checked("citizen-authentication", tbs, by=by)
    strict = modified("citizen-authentication", key_types=["p-384"])
    assert checked(
        "citizen-authentication", build_one("citizen-authentication"), profile=strict
    ) == ["public-key"]
    picky = modified(
        "tls-server",
        alternative_names={"minimum": 3, "dns": {"minimum": 2, "maximum": 2}, "ip": {}},
    )
    assert (
        checked("tls-server", build_one("tls-server"), profile=picky).count("alternative-names")
        == 2
    )
    fixed = modified(
        "citizen-authentication", subject={"C": {"fixed": "UT"}, "CN": {"minimum_length": 64}}
    )
    assert (
        checked("citizen-authentication", build_one("citizen-authentication"), profile=fixed)
        == ["subject-attribute"] * 2
    )
    groups = modified(
        "citizen-authentication",
        subject={
            "C": {},
            "CN": {"semantics": "natural-person"},
            "O": {},
            "one_of": [["O"]],
            "never_together": [["C", "CN"]],
        },
    )
    assert (
        checked("citizen-authentication", build_one("citizen-authentication"), profile=groups)
        == ["subject-attribute"] * 3
    )


def test_the_check_holds_an_order_to_its_bounds() -> None:
    tbs = build_one("citizen-authentication")
    for order in (
        Order(lifetime=timedelta(days=1)),
        Order(lifetime=timedelta(days=9999)),
        Order(not_before=NOW),
        Order(not_before=NOW + timedelta(days=1)),
        Order(subject=parse_rfc4514("C=AQ,CN=Bob").der),
        Order(alternative_names=(parse_general_name("uri:did:web:x"),)),
    ):
        assert checked("citizen-authentication", tbs, order=order), order


def test_the_check_holds_against_the_issuer_at_hand() -> None:
    tbs = build_one("citizen-authentication")
    for issuer in (
        altered(ISSUING, key_identifier=bytes(20)),
        altered(ISSUING, crl_url="http://other.example/crl"),
        altered(ISSUING, ocsp_url="http://other.example/ocsp"),
        altered(ISSUING, not_after=END - timedelta(days=1)),
        altered(ISSUING, not_before=START + timedelta(minutes=1)),
    ):
        assert checked("citizen-authentication", tbs, issuer=issuer), issuer
    refusing = modified("citizen-authentication", validity={"lifetime": "3y", "backdate": "5m"})
    ending = altered(ISSUING, not_after=END - timedelta(days=1))
    assert "validity-end" in checked("citizen-authentication", tbs, issuer=ending, profile=refusing)


# ── Reading ──────────────────────────────────────────────────────────────────────────────────────


def test_a_certificate_is_read_in_der_and_in_pem() -> None:
    whole = certificate("citizen-authentication")
    read = parse_certificate(whole)
    theirs = x509.load_der_x509_certificate(whole)
    assert read.serial == theirs.serial_number
    assert read.not_before == theirs.not_valid_before_utc
    assert read.not_after == theirs.not_valid_after_utc
    assert read.subject.der == theirs.subject.public_bytes()
    assert read.issuer.der == theirs.issuer.public_bytes()
    assert read.signature == theirs.signature
    assert read.tbs == theirs.tbs_certificate_bytes
    assert [e.oid for e in read.extensions] == [e.oid.dotted_string for e in theirs.extensions]
    pem = b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % base64.encodebytes(whole)
    assert parse_certificate(b"Issued to Alice\r\n" + pem) == read
    assert parse_certificate(pem).sha256.hex() == read.sha256.hex()
    assert parse_certificate(ROOT.certificate).basic_constraints is not None
    assert parse_certificate(ROOT.certificate).extension(oids.AUTHORITY_KEY_IDENTIFIER) is None


def test_a_certificate_of_version_1_is_read() -> None:
    whole = Path("/etc/ssl/certs/ca-certificates.crt")
    parts = Parts.of(ISSUING_TBS)
    tbs = der.sequence(
        parts.serial, parts.algorithm, parts.issuer, parts.validity, parts.subject, parts.key
    )
    read = parse_certificate(der.sequence(tbs, parts.algorithm, der.bit_string(b"")))
    assert read.version == 1
    assert read.extensions == ()
    assert read.basic_constraints is None
    assert read.subject_key_identifier == ISSUING.key_identifier
    if whole.exists():
        for block in whole.read_bytes().split(b"-----END CERTIFICATE-----\n")[:-1]:
            parse_certificate(block + b"-----END CERTIFICATE-----\n")


PEM = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "bad-certificate"),
        (b"garbage", "bad-certificate"),
        (PEM * 2, "bad-certificate"),
        (PEM.replace(b"MAA=", b"MAA"), "bad-certificate"),
        (PEM, "bad-der"),
        (bytes(70_000), "certificate-too-large"),
        (certificate("officer")[:-1], "bad-der"),
        (certificate("officer") + b"\x00", "bad-der"),
        (der.sequence(ISSUING_TBS, usual_algorithm(KeyType.P_384).identifier, der.bit_string(b"")),
         "bad-certificate"),
        (der.sequence(ISSUING_TBS, ALGORITHM.identifier, der.bit_string(b"\x00", 3)),
         "bad-certificate"),
    ],
)  # fmt: skip
def test_what_is_no_certificate_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(Rejected) as refused:
        parse_certificate(data)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "change",
    [
        put(version=der.explicit(0, der.integer(0))),
        twice(oids.KEY_USAGE),
        put(extra=der.NULL_VALUE),
        lambda parts: replace(
            parts,
            extensions={str(i): extension(f"1.2.{i}", False, b"\x05\x00") for i in range(1, 80)},
        ),
        lambda parts: replace(
            parts,
            extensions={
                "x": der.sequence(
                    der.object_identifier("1.2.3"), der.boolean(False), der.octet_string(b"")
                )
            },
        ),
    ],
)
def test_a_tbs_certificate_that_breaks_the_rules_is_refused(
    change: Callable[[Parts], Parts],
) -> None:
    with pytest.raises(Rejected):
        parse_tbs(change(Parts.of(ISSUING_TBS)).whole())
