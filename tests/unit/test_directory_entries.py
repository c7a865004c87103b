"""What the directory is to show: of whom, with what, for how long."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from infra.store.port import Stored
from pki import der
from pki.directory.authorities import (
    AUTHORITY_CRL,
    CA_CERTIFICATE,
    CROSS_PAIR,
    DELTA_CRL,
    FULL_CRL,
    Crls,
    authority_entry,
    container_entries,
    crl_entry,
)
from pki.directory.entries import (
    CERTIFICATE,
    IDENTIFIER_HASH,
    NOT_AFTER,
    SERIAL_NUMBER,
    WEB3_ID,
    Entry,
    Retention,
    Rules,
    Tree,
    wanted,
)
from pki.record import Record, micros
from pki.serial import format_serial
from tests.contract.directory_fixtures import CLOSED, KEY, OPEN, PROFILES, TREE, certificate
from tests.unit.certificate_fixtures import ISSUING, NOW, ROOT

ALICE = "CN=Alice Example,C=AQ"
DID = "did:key:z6MkpTHR8VNs"
KEEP = Retention(replaced=True, expired=True, revoked=True)
REMOVE = Retention(replaced=False, expired=False, revoked=False)


def record(
    serial: int = 1,
    subject: str = ALICE,
    profile: str = OPEN,
    *,
    consent: bool = True,
    days: float = 300,
    issued: datetime = NOW,
    names: Sequence[x509.GeneralName] = (),
    **more: Any,
) -> Record:
    text = format_serial(serial)
    body = {
        "ca": "issuing",
        "serial": text,
        "state": "issued",
        "profile": profile,
        "subject": subject,
        "der": certificate(serial, subject, days=days, names=names),
        "not_after": micros(NOW + timedelta(days=days)),
        "issued_at": micros(issued),
        "sequence": serial,
        **({"consent": True} if consent else {}),
        **more,
    }
    return Record(Stored(f"issuing/{text}", 1, body))


def revoked() -> dict[str, Any]:
    kept = {"at": micros(NOW), "reason": 4, "invalidity_date": None, "sequence": 9}
    return {"revocation": kept}


def rules(retention: Retention = REMOVE, **tree: Any) -> Rules:
    fields = {name: getattr(TREE, name) for name in TREE.__slots__}
    return Rules(Tree(**(fields | tree)), retention, KEY, PROFILES)


RULES = rules()


def entry_of(*records: Record, rules: Rules | None = None, **more: Any) -> Entry | None:
    subject = records[0].subject or records[0].stored.id
    return wanted(rules or RULES, subject, records, NOW, **more).entry


def texts(entry: Entry | None) -> dict[str, list[str]]:
    assert entry is not None
    return {
        type: [value.decode() for value in values]
        for type, values in entry.attributes.items()
        if type != CERTIFICATE
    }


def test_an_open_profile_shows_what_people_are_looked_up_by() -> None:
    names = [x509.RFC822Name("alice@example.org"), x509.UniformResourceIdentifier(DID)]
    one = record(names=names)
    entry = entry_of(one)
    assert entry is not None
    assert entry.attributes[CERTIFICATE] == (one.certificate,)
    found = texts(entry)
    assert found["mail"] == ["alice@example.org"]
    assert found[WEB3_ID] == [DID]
    assert found[SERIAL_NUMBER] == ["01"]
    assert found[NOT_AFTER] == [f"{NOW + timedelta(days=300):%Y%m%d%H%M%SZ}"]
    assert (found["cn"], found["sn"]) == (["Alice Example"], ["Alice Example"])
    assert found["objectClass"] == ["digitalidHolder", "inetOrgPerson", "pkiUser"]


def test_a_closed_profile_shows_the_certificate_and_nothing_of_its_holder() -> None:
    names = [x509.RFC822Name("alice@example.org"), x509.UniformResourceIdentifier(DID)]
    entry = entry_of(record(profile=CLOSED, names=names))
    assert entry is not None
    assert set(entry.attributes) == {"objectClass", "uid", CERTIFICATE, SERIAL_NUMBER, NOT_AFTER}
    assert "alice" not in entry.dn.lower()
    assert entry.dn == f"uid={texts(entry)['uid'][0]},{TREE.people},{TREE.base}"


@pytest.mark.parametrize("profile", [OPEN, CLOSED])
def test_without_consent_on_record_there_is_nothing(profile: str) -> None:
    assert entry_of(record(profile=profile, consent=False)) is None


def test_a_profile_that_publishes_nothing_publishes_nothing() -> None:
    assert entry_of(record(profile="tls-server")) is None
    assert entry_of(record(profile="a profile that is gone")) is None


def test_an_enterprise_needs_no_consent() -> None:
    subject = "CN=Penguin Ltd,organizationIdentifier=NTRAQ-12345678,O=Penguin Ltd,C=AQ"
    entry = entry_of(record(1, subject, "enterprise-seal", consent=False))
    assert entry is not None
    assert entry.dn.endswith(f",{TREE.enterprises},{TREE.base}")
    found = texts(entry)
    assert found["o"] == ["Penguin Ltd"]
    assert found["objectClass"] == ["digitalidHolder", "organization", "pkiUser", "uidObject"]
    assert found[IDENTIFIER_HASH] == [rules().identifier_hash("NTRAQ-12345678")]


def test_a_national_identifier_is_never_there_in_clear() -> None:
    subject = "serialNumber=PNOAQ-12345678,SN=Example,GN=Alice,CN=Alice Example,C=AQ"
    entry = entry_of(record(1, subject))
    assert entry is not None
    others = [v for type, vs in entry.attributes.items() if type != CERTIFICATE for v in vs]
    assert not any(b"12345678" in value for value in [*others, entry.dn.encode()])
    [hash] = texts(entry)[IDENTIFIER_HASH]
    # Without the key, nobody can try all numbers through.
    assert hash != hashlib.sha256(b"PNOAQ-12345678").hexdigest()
    assert hash == rules().identifier_hash(" pnoaq-1234 5678 ")
    other = Rules(TREE, REMOVE, b"another key", PROFILES)
    assert other.identifier_hash("PNOAQ-12345678") != hash
    assert other.id(subject) != rules().id(subject)


def test_a_pseudonym_has_the_names_that_its_class_needs() -> None:
    found = texts(entry_of(record(1, "pseudonym=Nobody,C=AQ")))
    assert (found["cn"], found["sn"]) == (["Nobody"], ["Nobody"])


@pytest.mark.parametrize(
    ("what", "retention"),
    [
        (revoked(), Retention(replaced=True, expired=True, revoked=False)),
        ({"days": -0.01}, Retention(replaced=True, expired=False, revoked=True)),
    ],
)
def test_what_is_over_goes_or_stays_as_the_settings_say(
    what: dict[str, Any], retention: Retention
) -> None:
    over, good = record(1, **what), record(2)
    both = entry_of(over, good, rules=rules(KEEP))
    assert both is not None and len(both.attributes[CERTIFICATE]) == 2
    one = entry_of(over, good, rules=rules(retention))
    assert one is not None and one.attributes[CERTIFICATE] == (good.certificate,)
    assert entry_of(over, rules=rules(retention)) is None


def test_a_replaced_certificate_goes_or_stays_as_the_settings_say() -> None:
    old, new = record(1), record(2, issued=NOW + timedelta(minutes=1))
    other = record(3, profile=CLOSED)
    kept = entry_of(old, new, other, rules=rules(REMOVE))
    assert kept is not None
    assert set(kept.attributes[CERTIFICATE]) == {new.certificate, other.certificate}
    # One that is revoked replaces nothing.
    gone = record(2, issued=NOW + timedelta(minutes=1), **revoked())
    left = entry_of(old, gone, rules=rules(REMOVE))
    assert left is not None and left.attributes[CERTIFICATE] == (old.certificate,)


def test_who_was_erased_is_shown_again_only_with_what_is_issued_later() -> None:
    before, after = record(1), record(2, issued=NOW + timedelta(minutes=2))
    erased = NOW + timedelta(minutes=1)
    assert entry_of(before, erased=erased) is None
    later = entry_of(before, after, erased=erased)
    assert later is not None and later.attributes[CERTIFICATE] == (after.certificate,)


def test_an_entry_is_never_under_two_names() -> None:
    named = rules(person_rdn=("cn", "uid"))
    id = named.id(ALICE)
    plain, called = f"uid={id},ou=people,{TREE.base}", f"cn=Alice Example+uid={id},ou=people"
    both = wanted(named, ALICE, [record(1), record(2, profile=CLOSED)], NOW)
    assert both.entry is not None
    assert both.entry.dn == f"{called},{TREE.base}"
    assert both.elsewhere == (plain,)
    closed = wanted(named, ALICE, [record(1, **revoked()), record(2, profile=CLOSED)], NOW)
    assert closed.entry is not None and closed.entry.dn == plain
    assert closed.elsewhere == (f"{called},{TREE.base}",)


def test_values_that_a_directory_takes_for_one_are_there_once() -> None:
    one = record(1, names=[x509.RFC822Name("Alice@Example.org")])
    other = record(2, names=[x509.RFC822Name("alice@example.org")])
    assert texts(entry_of(one, other, rules=rules(KEEP)))["mail"] == ["Alice@Example.org"]
    found = texts(entry_of(record(3, "OU=Fish  Dept,OU=fish dept,OU=Ｆish dept,CN=A,C=AQ")))
    assert len(found["ou"]) == 1


def test_one_without_a_subject_is_found_by_its_certificate() -> None:
    one, other = record(1, ""), record(2, "")
    first, second = entry_of(one), entry_of(other)
    assert first is not None and second is not None
    assert first.dn != second.dn


def test_a_ca_has_its_certificates_and_crls() -> None:
    entry = authority_entry(
        TREE,
        "issuing",
        [ISSUING.certificate],
        Crls(b"full", b"delta"),
        [Crls(b"no", of_users=True)],
    )
    assert entry.dn == f"cn=issuing,{TREE.authorities},{TREE.base}"
    assert entry.attributes[CA_CERTIFICATE] == (ISSUING.certificate,)
    pair = der.sequence(der.explicit(0, ISSUING.certificate))
    assert entry.attributes[CROSS_PAIR] == (pair,)
    assert entry.attributes[FULL_CRL] == (b"full",)
    assert entry.attributes[DELTA_CRL] == (b"delta",)
    assert AUTHORITY_CRL not in entry.attributes
    assert b"deltaCRL" in entry.attributes["objectClass"]
    # A self-signed one is in no pair (RFC 4523 §2.3).
    root = authority_entry(TREE, "root", [ROOT.certificate], Crls(b"x", of_authorities=True))
    assert CROSS_PAIR not in root.attributes
    assert root.attributes[FULL_CRL] == root.attributes[AUTHORITY_CRL] == (b"x",)


def test_a_crl_of_a_partition_has_an_entry_of_its_own() -> None:
    entry = crl_entry(TREE, "issuing.ca", Crls(b"x", of_users=False, of_authorities=True))
    assert entry.dn == f"cn=issuing.ca,{TREE.authorities},{TREE.base}"
    assert entry.attributes[AUTHORITY_CRL] == (b"x",)
    assert FULL_CRL not in entry.attributes
    assert entry.attributes["objectClass"] == (b"cRLDistributionPoint",)


def test_the_branches_stand_below_the_root_of_the_tree() -> None:
    names = [entry.dn for entry in container_entries(TREE)]
    assert names[0] == TREE.base
    assert all(name.endswith(f",{TREE.base}") for name in names[1:])
    assert len(names) == 4
