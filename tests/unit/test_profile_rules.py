"""What a profile lets in: subjects, alternative names, times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
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
    check_in_alternative_names,
    decide_validity,
    parse_profile,
)
from pki.profile.model import AlternativeNamesRule, Lifetime, SubjectRule
from pki.subject_check import check_subject
from tests.unit.certificate_fixtures import ISSUING, NOW, PROFILES
from tests.unit.test_profile import PLAIN, changed

# ── Both ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("subject", "names"),
    [
        ("CN=www.example.org", ["dns:a.example.org", "dns:www.example.org"]),
        ("CN=WWW.Example.ORG", ["dns:www.example.org"]),
        ("CN=www.example.org", ["dns:WWW.EXAMPLE.ORG"]),
        ("CN=*.example.org", ["dns:*.example.org"]),
        ("CN=192.0.2.1", ["dns:www.example.org", "ip:192.0.2.1"]),
        ("CN=2001:0DB8:0:0:0:0:0:1", ["ip:2001:db8::1"]),
        ("CN=alice@example.org", ["email:alice@example.org"]),
        ("C=AQ", ["dns:www.example.org"]),
        ("C=AQ", []),
    ],
)
def test_a_common_name_that_is_an_alternative_name_passes(subject: str, names: list[str]) -> None:
    said(subject, names)


@pytest.mark.parametrize(
    ("subject", "names"),
    [
        ("CN=www.example.org", []),
        ("CN=www.example.com", ["dns:www.example.org"]),
        ("CN=example.org", ["dns:www.example.org"]),
        ("CN=www.example.org.", ["dns:www.example.org"]),
        ("CN=www.example.org", ["dns:*.example.org"]),
        ("CN=Registry of Antarctica", ["dns:www.example.org"]),
        ("CN=\u212aing.example.org", ["dns:king.example.org"]),  # KELVIN SIGN, whose small is k
        ("CN=bücher.example", ["dns:xn--bcher-kva.example"]),  # BR 7.1.4.3: as the name has it
        ("CN=192.0.2.1", ["ip:192.0.2.2"]),
        ("CN=::ffff:192.0.2.1", ["ip:192.0.2.1"]),
        ("CN=fe80::1%25eth0", ["ip:fe80::1"]),
        ("CN=192.0.2.01", ["ip:192.0.2.1"]),
        ("CN=3221225985", ["ip:192.0.2.1"]),
        ("CN=Alice@example.org", ["email:alice@example.org"]),
        ("CN=CN\\=a", ["directoryName:CN=a"]),
        ("CN=www.example.org,CN=other.example.org", ["dns:www.example.org"]),
    ],
)
def test_one_that_is_none_is_refused(subject: str, names: list[str]) -> None:
    with pytest.raises(Rejected) as refused:
        said(subject, names)
    assert refused.value.code == "subject-attribute-not-in-san"
    assert "leave CN out" in refused.value.detail


def said(subject: str, names: list[str]) -> None:
    rule = parse_profile(
        "x",
        changed(subject__CN={"in_alternative_names": True, "count": 2}, alternative_names__dns={}),
    ).subject
    check_in_alternative_names(rule, parse_rfc4514(subject), map(parse_general_name, names))


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


@pytest.mark.parametrize(
    "value",
    ["Al\u061cice", "\u3164", "Al\U000e0041ice", "\u00a0", " Alice", "Alice ", "Al\u200cice"],
    ids=ascii,
)
def test_what_nobody_sees_does_not_get_into_a_subject(value: str) -> None:
    rule = subject_rule(CN={})
    country = Attribute(oids.COUNTRY_NAME, "AQ", 0x13)
    name = encode_name([country, Attribute(oids.COMMON_NAME, value)])
    with pytest.raises(Rejected) as refused:
        apply_subject(rule, name)
    assert refused.value.code == "bad-character"
    with pytest.raises(Rejected, match="bad-profile"):
        subject_rule(CN={"fixed": value})
    found = [code for code, _ in check_subject(name.der, rule, name.der)]
    assert found == ["subject-attribute"], "nor past the check before signing"


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
        ({"dns": {}}, ["dns:localhost"], "san-not-allowed"),
        ({"dns": {}}, ["dns:com"], "san-not-allowed"),
        ({"dns": {"wildcard": True}}, ["dns:*.com"], "san-not-allowed"),
        ({"dns": {"single_label": True}}, ["dns:127"], "bad-general-name"),
        ({"dns": {}}, ["dns:127.0.0.1"], "bad-general-name"),
        ({"dns": {}}, ["dns:1.2.3"], "bad-general-name"),
        ({"dns": {}}, ["dns:0x7f.1"], "bad-general-name"),
        ({"dns": {}}, ["dns:xn--0.example"], "bad-general-name"),
        ({"dns": {}}, ["dns:ab--cd.example"], "bad-general-name"),
        ({"email": {}}, ["email:a@127.0.0.1"], "bad-general-name"),
        ({"email": {}}, ["email:a@xn--0.example"], "bad-general-name"),
        ({"uri": {}}, ["uri:https://1.2.3/"], "bad-general-name"),
        ({"uri": {}}, ["uri:https://ab--cd.example/"], "bad-general-name"),
        ({"upn": {}}, ["upn:a\u061cdmin@example.org"], "bad-character"),
        ({"smtpUTF8Mailbox": {}}, ["smtpUTF8Mailbox:z\U000e0041@example.org"], "bad-character"),
        ({"xmppAddr": {}}, ["xmppAddr:a\u3164@example.org"], "bad-character"),
        ({"directoryName": {}}, ["directoryName:CN=\u3164,C=AQ"], "bad-character"),
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


def test_names_of_one_label_need_the_profile_and_addresses_in_uris_do_not() -> None:
    rule = names_rule(dns={"single_label": True}, uri={}, upn={}, directoryName={})
    for one in (
        "dns:localhost",
        "uri:https://192.0.2.1/",
        "upn:علی‌رضا@corp",
        "directoryName:CN=山田\u3000太郎",
    ):
        assert apply_alternative_names(rule, [parse_general_name(one)])


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
