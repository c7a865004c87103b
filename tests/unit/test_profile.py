"""Profiles: every mistake in a file names file, key and reason; what a profile lets in."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.errors import Rejected
from pki import oids
from pki.general_name import parse_general_name
from pki.names import Attribute, encode_name, encode_rdns, parse_rfc4514
from pki.profile import (
    Order,
    apply_alternative_names,
    apply_subject,
    decide_validity,
    load_profiles,
    parse_profile,
)
from pki.profile.model import AlternativeNamesRule, Lifetime, SubjectRule
from tests.unit.certificate_fixtures import ISSUING, NOW, PROFILES

PLAIN: dict[str, Any] = tomllib.loads(
    """
description = "Test"
key_types = ["p-256"]
[validity]
lifetime = "1y"
[subject]
C = { required = true }
CN = {}
[key_usage]
usages = ["digitalSignature"]
"""
)


def changed(**changes: Any) -> dict[str, Any]:
    """The plain profile with keys set; ``a__b`` is key b of table a; None takes a key away."""
    data = copy.deepcopy(PLAIN)
    for path, value in changes.items():
        *tables, key = path.split("__")
        table = data
        for name in tables:
            table = table.setdefault(name, {})
        if value is None:
            del table[key]
        else:
            table[key] = value
    return data


def test_the_eleven_profiles_are_there() -> None:
    assert sorted(PROFILES) == [
        "citizen-authentication",
        "citizen-encryption",
        "citizen-signature",
        "document-signer",
        "enterprise-seal",
        "ocsp-responder",
        "officer",
        "root",
        "subordinate-ca",
        "time-stamping",
        "tls-server",
    ]
    for name, profile in PROFILES.items():
        assert profile.name == name
        assert profile.summary()["name"] == name
        assert profile.summary()["lifetime"]


def test_a_plain_profile_takes_the_defaults() -> None:
    profile = parse_profile("plain", PLAIN)
    assert not profile.ca
    assert profile.rulebook == "pkix"
    assert profile.subject.required == (oids.COUNTRY_NAME,)
    assert list(profile.subject.attributes) == [oids.COUNTRY_NAME, oids.COMMON_NAME]
    assert profile.subject.attributes[oids.COMMON_NAME].maximum_length == 64


def test_the_fingerprint_tells_contents_apart() -> None:
    one, same = parse_profile("a", PLAIN), parse_profile("a", copy.deepcopy(PLAIN))
    assert one == same
    assert hash(one) == hash(same)
    other = parse_profile("a", changed(validity__lifetime="2y"))
    assert other != one
    assert other.fingerprint != one.fingerprint
    assert parse_profile("b", PLAIN) != one
    assert one.__eq__("a") is False


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"colour": "red"}, "colour", "no setting"),
    ({"description": None}, "description", "missing"),
    ({"description": 5}, "description", "string"),
    ({"key_types": []}, "key_types", "at least one"),
    ({"key_types": ["p-255"]}, "key_types", "p-255"),
    ({"key_types": "p-256"}, "key_types", "list"),
    ({"key_types": ["p-256", "p-256"]}, "key_types", "twice"),
    ({"rulebook": "cabf"}, "rulebook", "pkix"),
    ({"validity": None}, "validity", "missing"),
    ({"validity": 5}, "validity", "table"),
    ({"validity__lifetime": "5 years"}, "validity.lifetime", "5y"),
    ({"validity__lifetime": "0d"}, "validity.lifetime", "5y"),
    ({"validity__lifetime": "101y"}, "validity.lifetime", "5y"),
    ({"validity__backdate": "3d"}, "validity.backdate", "2d"),
    ({"validity__backdate": "1y"}, "validity.backdate", "2d"),
    ({"validity__at_issuer_end": "stop"}, "validity.at_issuer_end", "cap"),
    ({"validity__until": "2030"}, "validity.until", "no setting"),
    ({"subject__X": {}}, "subject.X", "attribute"),
    ({"subject__cn": {}}, "subject.cn", "attribute"),
    ({"subject__CN": {"colour": 1}}, "subject.CN.colour", "no setting"),
    ({"subject__CN": {"maximum_length": 65}}, "subject.CN.maximum_length", "64"),
    ({"subject__CN": {"required": "yes"}}, "subject.CN.required", "true or false"),
    ({"subject__CN": {"pattern": "("}}, "subject.CN.pattern", "regular expression"),
    ({"subject__CN": {"count": 0}}, "subject.CN.count", "at least 1"),
    ({"subject__CN": {"fixed": "x", "count": 2}}, "subject.CN.count", "fixed"),
    ({"subject__CN": {"fixed": "a" * 65}}, "subject.CN.fixed", "64"),
    ({"subject__C": {"fixed": "a*"}}, "subject.C.fixed", "PrintableString"),
    ({"subject__serialNumber": {"semantics": "x"}}, "subject.serialNumber.semantics", "natural"),
    ({"subject__one_of": [["O"]]}, "subject", "one_of"),
    ({"subject__one_of": [["colour"]]}, "subject.one_of", "colour"),
    ({"subject__one_of": ["CN"]}, "subject.one_of[0]", "list"),
    ({"alternative_names__fax": {}}, "alternative_names.fax", "kind"),
    ({"alternative_names__dns": {"minimum": 2}}, "alternative_names.dns.minimum", "larger"),
    ({"alternative_names__dns": {"schemes": ["x"]}}, "alternative_names.dns.schemes", "setting"),
    ({"alternative_names__ip": {"networks": ["x"]}}, "alternative_names.ip.networks", "network"),
    ({"alternative_names__minimum": 1}, "alternative_names.minimum", "kind"),
    ({"key_usage__usages": []}, "key_usage.ec", "at least one"),
    ({"key_usage__usages": ["signing"]}, "key_usage.usages", "signing"),
    ({"key_usage__usages": ["keyEncipherment"]}, "key_usage.ec", "keyEncipherment"),
    ({"key_usage__usages": ["keyCertSign"]}, "key_usage", "keyCertSign"),
    ({"basic_constraints": {"ca": True}}, "key_usage", "keyCertSign"),
    ({"basic_constraints": {"path_length": 0}}, "basic_constraints.path_length", "CA"),
    ({"basic_constraints": {"ca": True, "critical": False}}, "basic_constraints.critical", "CA"),
    ({"extended_key_usage": {"purposes": []}}, "extended_key_usage.purposes", "at least one"),
    ({"extended_key_usage": {"purposes": ["x"]}}, "extended_key_usage.purposes", "identifier"),
    ({"extended_key_usage": {"purposes": ["timeStamping"]}}, "extended_key_usage", "critical"),
    ({"certificate_policies": {}}, "certificate_policies.policies", "at least one"),
    ({"certificate_policies": {"policies": [{"oid": "1.99"}]}},
     "certificate_policies.policies[0].oid", "identifier"),
    ({"certificate_policies": {"policies": [{"oid": "1.2", "cps": "x"}]}},
     "certificate_policies.policies[0].cps", "URL"),
    ({"certificate_policies": {"policies": [{"oid": "1.2"}, {"oid": "1.2"}]}},
     "certificate_policies.policies", "twice"),
    ({"name_constraints": {}}, "name_constraints", "permits"),
    ({"name_constraints": {"permitted": {"dns": [".a"]}}}, "name_constraints.permitted.dns", "dot"),
    ({"name_constraints": {"excluded": {"ip": ["x"]}}}, "name_constraints.excluded.ip", "network"),
    ({"name_constraints": {"permitted": {"dns": ["a"]}}}, "name_constraints", "CA"),
    ({"authority_information_access": ["crl"]}, "authority_information_access", "ocsp"),
    ({"self_signed": True}, "self_signed", "CA"),
    ({"ocsp_no_check": True}, "ocsp_no_check", "OCSPSigning"),
    ({"tls_features": ["x"]}, "tls_features", "status_request"),
    ({"key_identifier": "md5"}, "key_identifier", "sha1"),
    ({"ignored_extensions": ["x"]}, "ignored_extensions", "identifier"),
    ({"qc_statements": {"type": "x"}}, "qc_statements.type", "esign"),
    ({"qc_statements": {"legislation": ["aq"]}}, "qc_statements.legislation", "alpha-2"),
    ({"qc_statements": {"disclosure": [{"url": "http://a.b", "language": "en"}]}},
     "qc_statements.disclosure[0].url", "https"),
    ({"qc_statements": {"disclosure": [{"url": "https://a.b", "language": "EN"}]}},
     "qc_statements.disclosure[0].language", "639"),
    ({"qc_statements": {"registration_authorities": ["https://a.b"]}},
     "qc_statements.semantics", "needed"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "key", "reason"), MISTAKES)
def test_a_mistake_names_file_key_and_reason(
    changes: dict[str, Any], key: str, reason: str
) -> None:
    with pytest.raises(Rejected) as refused:
        parse_profile("x", changed(**changes), source="conf/profiles/x.toml")
    assert refused.value.code == "bad-profile"
    assert refused.value.detail.startswith(f"conf/profiles/x.toml: {key}: ")
    assert reason in refused.value.detail.partition(f"{key}: ")[2]


@pytest.mark.parametrize("text", ["=", "description = 1979-05-27", "\xff"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(Rejected) as refused:
        load_profiles(tmp_path)
    assert refused.value.code == "bad-profile"
    assert str(tmp_path / "x.toml") in refused.value.detail


def test_a_folder_in_place_of_a_file_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").mkdir()
    with pytest.raises(Rejected, match="cannot be read"):
        load_profiles(tmp_path)
    (tmp_path / "x.toml").rmdir()
    (tmp_path / "readme.txt").write_text("=")
    (tmp_path / "x.toml").write_text("#" * 300_000)
    with pytest.raises(Rejected, match="larger than"):
        load_profiles(tmp_path)


# ── The subject ──────────────────────────────────────────────────────────────────────────────────


def subject_rule(**subject: Any) -> SubjectRule:
    return parse_profile("x", changed(**{f"subject__{k}": v for k, v in subject.items()})).subject


def test_a_subject_that_fits_stays_as_it_is() -> None:
    name = parse_rfc4514("C=AQ,CN=Alice")
    assert apply_subject(subject_rule(), name) is name


def test_a_subject_is_written_anew_in_order_and_string_types() -> None:
    turned = encode_name(
        [Attribute(oids.COMMON_NAME, "Alice", 0x13), Attribute(oids.COUNTRY_NAME, "AQ", 0x13)]
    )
    assert apply_subject(subject_rule(), turned) == parse_rfc4514("C=AQ,CN=Alice")
    assert apply_subject(subject_rule(rewrite=False), turned) is turned
    old = encode_name(
        [Attribute(oids.COUNTRY_NAME, "AQ", 0x0C), Attribute(oids.COMMON_NAME, "Zoë", 0x1E)]
    )
    for rewrite in (True, False):
        assert apply_subject(subject_rule(rewrite=rewrite), old) == parse_rfc4514("C=AQ,CN=Zoë")


def test_a_fixed_value_is_added_and_defended() -> None:
    rule = subject_rule(O={"fixed": "Registry"})
    assert apply_subject(rule, parse_rfc4514("C=AQ")) == encode_name(
        [Attribute(oids.COUNTRY_NAME, "AQ", 0x13), Attribute(oids.ORGANIZATION_NAME, "Registry")]
    )
    with pytest.raises(Rejected, match="always 'Registry'"):
        apply_subject(rule, parse_rfc4514("C=AQ,O=Other"))


def test_ignored_attributes_are_left_out() -> None:
    rule = subject_rule(ignore=["OU"])
    assert apply_subject(rule, parse_rfc4514("C=AQ,OU=x,CN=y")) == parse_rfc4514("C=AQ,CN=y")


PERSON = {
    "one_of": [["givenName", "surname"], ["pseudonym"]],
    "never_together": [["givenName", "pseudonym"]],
    "givenName": {},
    "surname": {},
    "pseudonym": {},
    "serialNumber": {"semantics": "natural-person"},
    "organizationIdentifier": {"semantics": "legal-person"},
}


@pytest.mark.parametrize(
    ("subject", "text", "code"),
    [
        ({}, "CN=Alice", "subject-attribute-missing"),
        ({}, "C=AQ,O=x", "subject-attribute-not-allowed"),
        ({}, "C=AQ,CN=a,CN=b", "subject-attribute-not-allowed"),
        ({}, "C=aq", "subject-attribute-not-allowed"),
        ({}, "C=AQ,CN=a+UID=b", "subject-attribute-not-allowed"),
        ({"CN": {"maximum_length": 3}}, "C=AQ,CN=abcd", "name-too-long"),
        ({"CN": {"minimum_length": 3}}, "C=AQ,CN=ab", "subject-attribute-not-allowed"),
        ({"CN": {"pattern": "[a-z]+"}}, "C=AQ,CN=ab1", "subject-attribute-not-allowed"),
        (PERSON, "C=AQ", "subject-attribute-missing"),
        (PERSON, "C=AQ,givenName=a", "subject-attribute-missing"),
        (PERSON, "C=AQ,givenName=a,pseudonym=b", "subject-attribute-not-allowed"),
        (PERSON, "C=AQ,pseudonym=b,serialNumber=12", "bad-semantics-identifier"),
        (PERSON, "C=AQ,pseudonym=b,serialNumber=ABCAQ-12", "bad-semantics-identifier"),
        (PERSON, "C=AQ,pseudonym=b,serialNumber=PNOAQ-", "bad-semantics-identifier"),
        (PERSON, "C=AQ,pseudonym=b,organizationIdentifier=XXXAQ-1", "bad-semantics-identifier"),
        (PERSON, "C=AQ,pseudonym=b,organizationIdentifier=LEIXG-529900T8BM49AURSDO56",
         "bad-semantics-identifier"),
    ],
)  # fmt: skip
def test_a_subject_beyond_the_profile_is_refused(
    subject: dict[str, Any], text: str, code: str
) -> None:
    with pytest.raises(Rejected) as refused:
        apply_subject(subject_rule(**subject), parse_rfc4514(text))
    assert refused.value.code == code


@pytest.mark.parametrize(
    "text",
    [
        "C=AQ,givenName=a,surname=b,serialNumber=PNOAQ-12",
        "C=AQ,pseudonym=b,serialNumber=PASAQ-P3000180",
        "C=AQ,pseudonym=b,serialNumber=IDCAQ-590082394654",
        "C=AQ,pseudonym=b,serialNumber=TINAQ-1",
        "C=AQ,pseudonym=b,organizationIdentifier=VATAQ-0876866142",
        "C=AQ,pseudonym=b,organizationIdentifier=NTRAQ-1",
        "C=AQ,pseudonym=b,organizationIdentifier=LEIXG-529900T8BM49AURSDO55",
    ],
)
def test_semantics_identifiers_that_are_right_pass(text: str) -> None:
    assert apply_subject(subject_rule(**PERSON), parse_rfc4514(text)).rdns


def test_a_national_scheme_needs_somebody_who_registers_it() -> None:
    name = parse_rfc4514("C=AQ,pseudonym=b,serialNumber=EI:AQ-200007292386")
    with pytest.raises(Rejected, match="registration_authorities"):
        apply_subject(subject_rule(**PERSON), name)
    registered = changed(
        subject=PERSON | PLAIN["subject"],
        qc_statements={
            "semantics": "natural-person",
            "registration_authorities": ["https://registry.example.org"],
        },
    )
    assert apply_subject(parse_profile("x", registered).subject, name).rdns


def test_a_value_that_the_string_type_cannot_hold_is_refused() -> None:
    rule = subject_rule(serialNumber={})
    name = encode_name(
        [Attribute(oids.COUNTRY_NAME, "AQ", 0x13), Attribute(oids.SERIAL_NUMBER, "a_b")]
    )
    with pytest.raises(Rejected) as refused:
        apply_subject(rule, name)
    assert refused.value.code == "bad-character"


def test_the_order_among_equals_stays() -> None:
    rule = subject_rule(OU={"count": 2})
    name = parse_rfc4514("OU=first,C=AQ") and encode_rdns(
        [[Attribute(oids.ORGANIZATIONAL_UNIT_NAME, v)] for v in ("b", "a")]
        + [[Attribute(oids.COUNTRY_NAME, "AQ", 0x13)]]
    )
    assert [a.value for a in apply_subject(rule, name).attributes] == ["AQ", "b", "a"]


# ── Alternative names ────────────────────────────────────────────────────────────────────────────


def names_rule(**kinds: Any) -> AlternativeNamesRule:
    return parse_profile("x", changed(alternative_names=kinds)).alternative_names


@pytest.mark.parametrize(
    ("kinds", "names", "code"),
    [
        ({}, ["dns:a.example"], "san-not-allowed"),
        ({"dns": {}}, ["dns:a.example", "dns:b.example"], "san-not-allowed"),
        ({"dns": {"minimum": 1}}, [], "san-missing"),
        ({"minimum": 1, "dns": {}, "ip": {}}, [], "san-missing"),
        ({"dns": {"pattern": "a.*"}}, ["dns:b.example"], "san-not-allowed"),
        ({"dns": {"suffixes": ["example"]}}, ["dns:badexample"], "san-not-allowed"),
        ({"dns": {}}, ["dns:*.example.org"], "san-not-allowed"),
        ({"email": {"suffixes": ["example.org"]}}, ["email:a@example.com"], "san-not-allowed"),
        ({"uri": {"schemes": ["did"]}}, ["uri:https://example.org"], "san-not-allowed"),
        ({"uri": {"schemes": ["did:web"]}}, ["uri:did:key:abc"], "san-not-allowed"),
        ({"ip": {"networks": ["192.0.2.0/24"]}}, ["ip:198.51.100.1"], "san-not-allowed"),
        ({"ip": {"networks": ["192.0.2.0/24"]}}, ["ip:2001:db8::1"], "san-not-allowed"),
    ],
)
def test_alternative_names_beyond_the_profile_are_refused(
    kinds: dict[str, Any], names: list[str], code: str
) -> None:
    with pytest.raises(Rejected) as refused:
        apply_alternative_names(names_rule(**kinds), map(parse_general_name, names))
    assert refused.value.code == code


def test_alternative_names_within_the_profile_pass_once_each() -> None:
    rule = names_rule(
        minimum=1,
        ignore=["email"],
        dns={"suffixes": ["Example.org"], "wildcard": True, "maximum": 2},
        uri={"schemes": ["did:web", "https"]},
    )
    asked = ["dns:www.example.org", "email:a@b.c", "dns:*.EXAMPLE.org", "uri:did:web:x"]
    kept = apply_alternative_names(rule, map(parse_general_name, [*asked, *asked]))
    assert [str(name) for name in kept] == [asked[0], asked[2], asked[3]]


# ── Validity ─────────────────────────────────────────────────────────────────────────────────────

VALIDITY = PROFILES["citizen-authentication"].validity
SECOND = timedelta(seconds=1)
CLOCK = NOW.replace(microsecond=0)


def test_both_ends_count_and_years_are_those_of_the_calendar() -> None:
    start, end = decide_validity(VALIDITY, None, Order(), NOW)
    assert start == CLOCK - timedelta(minutes=5)
    assert end + SECOND == start.replace(year=start.year + 3)
    leap = datetime(2028, 2, 29, tzinfo=UTC)
    assert Lifetime(1, timedelta()).after(leap) == datetime(2029, 2, 28, tzinfo=UTC)
    assert Lifetime(4, timedelta()).after(leap) == datetime(2032, 2, 29, tzinfo=UTC)


def test_another_time_zone_makes_no_difference() -> None:
    from datetime import timezone

    there = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert decide_validity(VALIDITY, ISSUING, Order(), there) == decide_validity(
        VALIDITY, ISSUING, Order(), NOW
    )


def test_a_certificate_ends_with_its_issuer_at_the_latest() -> None:
    late = ISSUING.not_after - timedelta(days=10)
    assert decide_validity(VALIDITY, ISSUING, Order(), late)[1] == ISSUING.not_after
    refusing = parse_profile("x", PLAIN).validity
    with pytest.raises(Rejected) as refused:
        decide_validity(refusing, ISSUING, Order(), late)
    assert refused.value.code == "outlasts-issuer"
    short = Order(lifetime=timedelta(days=1))
    assert decide_validity(refusing, ISSUING, short, late)[1] < ISSUING.not_after


def test_a_certificate_starts_with_its_issuer_at_the_earliest() -> None:
    assert decide_validity(VALIDITY, ISSUING, Order(), ISSUING.not_before)[0] == ISSUING.not_before


@pytest.mark.parametrize(
    ("now", "order", "code"),
    [
        (ISSUING.not_after + SECOND, Order(), "ca-expired"),
        (ISSUING.not_before - SECOND, Order(), "ca-not-yet-valid"),
        (NOW, Order(lifetime=timedelta(days=365 * 3 + 2)), "lifetime-too-long"),
        (NOW, Order(lifetime=timedelta.max), "bad-validity"),
        (NOW, Order(lifetime=timedelta(0)), "bad-validity"),
        (NOW, Order(not_before=NOW + timedelta(hours=1)), "bad-validity"),
        (NOW, Order(not_before=NOW - timedelta(hours=1)), "bad-validity"),
    ],
)
def test_times_out_of_bounds_are_refused(now: datetime, order: Order, code: str) -> None:
    with pytest.raises(Rejected) as refused:
        decide_validity(VALIDITY, ISSUING, order, now)
    assert refused.value.code == code


def test_an_order_shortens_and_moves_within_bounds() -> None:
    ahead = replace(VALIDITY, postdate=timedelta(days=30))
    later = NOW + timedelta(days=7)
    start, end = decide_validity(
        ahead, ISSUING, Order(not_before=later, lifetime=timedelta(days=1)), NOW
    )
    assert start == later.replace(microsecond=0)
    assert end - start == timedelta(days=1) - SECOND


def test_the_year_9999_is_the_last() -> None:
    with pytest.raises(Rejected) as refused:
        decide_validity(VALIDITY, None, Order(), datetime(9998, 1, 1, tzinfo=UTC))
    assert refused.value.code == "bad-validity"
    after: Callable[[datetime], datetime] = Lifetime(0, timedelta(days=99999)).after
    with pytest.raises(Rejected):
        after(datetime(9990, 1, 1, tzinfo=UTC))
