"""Profiles: every mistake in a file names file, key and reason; what a profile lets in."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from infra.errors import Rejected
from pki import oids
from pki.profile import (
    load_profiles,
    parse_profile,
)
from tests.unit.certificate_fixtures import PROFILES

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
        "crl-issuer",
        "cross-certificate",
        "document-signer",
        "enterprise-seal",
        "link",
        "log-signer",
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
    ({"cas": []}, "cas", "at least one CA"),
    ({"cas": "issuing"}, "cas", "list"),
    ({"cas": [7]}, "cas", "list"),
    ({"cas": ["issuing", "issuing"]}, "cas", "twice"),
    ({"cas": ["CN=Issuing CA"]}, "cas", "'CN=Issuing CA' is no name of a CA"),
    ({"cas": ["issuing "]}, "cas", "no name of a CA"),
    (
        {"cas": ["root"], "self_signed": True, "key_usage__usages": ["keyCertSign"],
         "basic_constraints": {"ca": True}},
        "cas", "signs its own",
    ),
    (
        {"cas": ["issuing"], "extended_key_usage": {"purposes": ["OCSPSigning"]}},
        "cas", "each CA has one",
    ),
    (
        {"subject__CN": {"in_alternative_names": 1}},
        "subject.CN.in_alternative_names", "true or false",
    ),
    (
        {"subject__CN": {"in_alternative_names": True}},
        "subject.CN.in_alternative_names", "needs one of dns",
    ),
    (
        {"subject__CN": {"in_alternative_names": True}, "alternative_names__directoryName": {}},
        "subject.CN.in_alternative_names", "needs one of dns",
    ),
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
