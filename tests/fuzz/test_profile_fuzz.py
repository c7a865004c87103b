"""Profiles, names and certificates from bytes that nobody vouches for: ``Rejected`` or a value."""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import Rejected
from pki import oids
from pki.certificate import Order, build, parse_certificate, parse_tbs
from pki.conformance import check
from pki.general_name import parse_general_name, parse_general_names
from pki.names import Attribute, encode_name, encode_rdns, parse_name, parse_rfc4514
from pki.profile import load_profiles, parse_profile
from pki.request import RequestedExtension
from pki.serial import parse_serial
from tests.unit.certificate_fixtures import (
    ALGORITHM,
    NOW,
    PROFILES,
    REQUESTS,
    SERIAL,
    build_one,
    certificate,
    issuer_of,
    request,
    san,
)

SECONDS = float(os.environ.get("DIGITALID_FUZZ_SECONDS", "0"))
DATA = {name: tomllib.loads(Path(f"conf/profiles/{name}.toml").read_text()) for name in PROFILES}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["5y", "1.2.3", "dns", "p-256", "keyCertSign", "ocsp", "AQ", "(", "https://a"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["C", "CN", "dns", "oid", "ca", "usages", "minimum", "url", "x",
                         "in_alternative_names"]),
        inner,
        max_size=3,
    ),
    max_leaves=8,
)  # fmt: skip


@given(st.sampled_from(sorted(DATA)), st.data())
def test_a_profile_with_any_key_set_to_anything(name: str, data: st.DataObject) -> None:
    changed: dict[str, Any] = dict(DATA[name])
    key = data.draw(st.sampled_from(sorted({*changed, "cas"})) | st.text(max_size=5))
    if isinstance(changed.get(key), dict) and data.draw(st.booleans()):
        inner = data.draw(st.sampled_from(sorted(changed[key])) | st.text(max_size=5))
        changed[key] = changed[key] | {inner: data.draw(values)}
    else:
        changed[key] = data.draw(values)
    refused: Rejected | None = None
    try:
        parse_profile(name, changed, source="x.toml")
    except Rejected as rejected:
        refused = rejected
    if refused is not None:
        assert refused.code == "bad-profile"
        assert refused.detail.startswith("x.toml: ")


@given(st.binary(max_size=400))
def test_a_file_of_any_octets(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("profiles")
    (folder / "x.toml").write_bytes(content)
    with pytest.raises(Rejected) as refused:
        load_profiles(folder)
    assert refused.value.code == "bad-profile"


@given(st.binary(max_size=300))
def test_any_octets_as_a_name(content: bytes) -> None:
    for read in (parse_name, parse_general_names, parse_certificate, parse_tbs):
        with suppress(Rejected):
            read(content)  # type: ignore[operator]


@given(st.text(max_size=60) | st.text('CNO=,+\\#"; 0aF.', max_size=30))
def test_any_text_as_a_name(content: str) -> None:
    with suppress(Rejected):
        name = parse_rfc4514(content)
        assert encode_rdns(name.rdns).der == name.der
        assert parse_name(name.der) == name
    with suppress(Rejected):
        parse_serial(content)
    for kind in ("", "dns:", "email:", "uri:", "uri:did:", "ip:", "directoryName:", "upn:"):
        with suppress(Rejected):
            name_ = parse_general_name(kind + content)
            assert parse_general_name(str(name_)) == name_


CALLED = (
    "www.example.org",
    "WWW.Example.org",
    "192.0.2.1",
    "2001:db8::1",
    "2001:DB8:0::1",
    "*.a.b",
)
LETTERS = "wW.eE*:0129aAbBdD-%\u212a\u0131\u017f"


@given(
    st.sampled_from(CALLED)
    | st.text(LETTERS, min_size=1, max_size=20)
    | st.text(min_size=1, max_size=9),
    st.lists(st.sampled_from(CALLED[:5]), min_size=1, max_size=3),
)
def test_any_common_name_of_a_server(common_name: str, called: list[str]) -> None:
    """Whoever builds it and whoever checks it decide each for themselves, and alike."""
    names = [f"{'dns' if 'w' in one.lower() else 'ip'}:{one}" for one in called]
    by = replace(
        request("", san(*names)),
        subject=encode_name([Attribute(oids.COMMON_NAME, common_name)]).der,
    )
    try:
        tbs = build_one("tls-server", by=by)
    except Rejected as rejected:
        if rejected.code != "subject-attribute-not-in-san":
            return
        lax = dict(DATA["tls-server"]) | {"subject": {"CN": {}}}
        tbs = build_one("x", profile=parse_profile("x", lax), by=by)
        assert [finding.code for finding in _check("tls-server", tbs, by)] == ["subject-attribute"]
    else:
        assert not _check("tls-server", tbs, by)
        assert common_name.lower() in {one.lower() for one in called} or ":" in common_name


@given(st.binary(max_size=80), st.sampled_from([*oids.EXTENSION_NAMES, "1.2.3"]))
def test_any_octets_as_a_requested_extension(content: bytes, oid: str) -> None:
    by = request("C=AQ,CN=A", RequestedExtension(oid, False, content))
    try:
        tbs = build_one("citizen-authentication", by=by)
    except Rejected:
        return
    assert not _check("citizen-authentication", tbs, by)


def _check(name: str, tbs: bytes, by: Any) -> Any:
    profile = PROFILES[name]
    return check(
        tbs, profile, by, issuer_of(profile), signature_algorithm=ALGORITHM, serial=SERIAL, now=NOW
    )


def damaged(octets: bytes, random: Random) -> bytes:
    """One to four octets changed, or a stretch cut out or doubled."""
    mutant = bytearray(octets)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(mutant))
        match random.randrange(4):
            case 0:
                mutant[place] = random.randrange(256)
            case 1:
                mutant[place] ^= 1 << random.randrange(8)
            case 2:
                del mutant[place : place + random.randint(1, 4)]
            case _:
                mutant[place:place] = mutant[place : place + random.randint(1, 8)]
    return bytes(mutant)


def one_round(random: Random) -> None:
    """Damaged certificates are read or refused; damaged to-be-signed octets never conform."""
    name = random.choice(sorted(PROFILES))
    mutant = damaged(certificate(name), random)
    with suppress(Rejected):
        read = parse_certificate(mutant)
        for say in (lambda: read.basic_constraints, lambda: read.alternative_names,
                    lambda: read.subject_key_identifier):  # fmt: skip
            with suppress(Rejected):
                say()
    tbs = build_one(name)
    mutant = damaged(tbs, random)
    if mutant != tbs:
        assert _check(name, mutant, REQUESTS[name])
    by = REQUESTS[name]
    asked = random.choice([parse_name, parse_general_names])
    with suppress(Rejected):
        asked(damaged(by.subject or b"\x30\x00", random))
    with suppress(Rejected):
        build(
            PROFILES[name], by, issuer_of(PROFILES[name]), signature_algorithm=ALGORITHM,
            serial=SERIAL, now=NOW, order=Order(subject=damaged(by.subject, random)),
        )  # fmt: skip


def rounds(run: Callable[[Random], None], least: int) -> None:
    random = Random(5280)
    end = time.monotonic() + SECONDS
    count = 0
    while count < least or time.monotonic() < end:
        run(random)
        count += 1


@pytest.mark.timeout(600 + 2 * SECONDS)
@pytest.mark.filterwarnings("ignore")
def test_damaged_certificates() -> None:
    rounds(one_round, 400)
