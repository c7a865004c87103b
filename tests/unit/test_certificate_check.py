"""The check before signing finds every deviation, field by field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from pki import der, oids
from pki.algorithms import KeyType, usual_algorithm
from pki.certificate import Order
from pki.general_name import parse_general_name
from pki.names import parse_rfc4514
from tests.unit.certificate_fixtures import (
    ISSUING,
    NOW,
    ROOT,
    SERIAL,
    Parts,
    altered,
    build_one,
    checked,
    elements,
    key,
    modified,
    public_key_info,
    put,
    put_extension,
    request,
    san,
    times,
    turn_critical,
    twice,
)

# ── The check ────────────────────────────────────────────────────────────────────────────────────


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
    "version 4": (put(version=der.explicit(0, der.integer(3))), "version"),
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
        put(subject=der.sequence(*reversed(elements(name("C=AQ,CN=Alice Example"))))), "subject"),
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


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
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
    for subject, names, found in NAMED:
        by = request(subject, san(*names))
        tbs = build_one("x", profile=modified("tls-server", subject={"CN": {}}), by=by)
        assert checked("tls-server", tbs, by=by) == found, subject
    bare = modified("tls-server", subject={"CN": {}}, alternative_names={"dns": {}})
    strict = modified(
        "tls-server",
        subject={"CN": {"in_alternative_names": True}},
        alternative_names={"dns": {}},
    )
    by = request("CN=a.example.org")
    assert checked("x", build_one("x", profile=bare, by=by), profile=strict, by=by) == [
        "subject-attribute"
    ]
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


NAMED: tuple[tuple[str, tuple[str, ...], list[str]], ...] = (
    ("CN=WWW.Example.org", ("dns:b.example.org", "dns:www.example.ORG"), []),
    ("CN=2001:DB8:0::1", ("ip:2001:db8::1",), []),
    ("CN=192.0.2.1", ("dns:a.example.org", "ip:192.0.2.1"), []),
    ("CN=192.0.2.2", ("dns:a.example.org", "ip:192.0.2.1"), ["subject-attribute"]),
    ("CN=www.example.com", ("dns:www.example.org",), ["subject-attribute"]),
    ("CN=\u212a.example.org", ("dns:k.example.org",), ["subject-attribute"]),
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


def test_the_check_holds_a_crl_issuer_against_the_certificate() -> None:
    signed = altered(ISSUING, crl_issuer=ROOT.subject)
    tbs = build_one("officer", issuer=signed)
    assert checked("officer", tbs, issuer=signed) == []
    assert checked("officer", tbs)
    assert checked("officer", build_one("officer"), issuer=signed)
