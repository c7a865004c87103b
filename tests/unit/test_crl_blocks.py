"""Blocks of entries: cut, joined and copied; and a CRL file around them."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from crl import blocks
from crl.assembly import Unsigned, close_with, write_tbs
from crl.blocks import Damaged, Key, Placed, Plan, Spill, merge, name_issuer, unname_issuer
from crl.check import Expected, check
from crl.encode import frame, parse_crl, parse_entry
from crl.scope import Scope, extensions
from crl.source import Part
from infra.errors import Broken
from pki.algorithms import KeyType
from pki.crl_entry import Entry, encode_entry
from pki.status import RevocationReason
from tests.contract.crl_fixtures import NOW, Authority, authority

SUBJECTS = [
    x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]).public_bytes()
    for name in ("One", "Two")
]
PARTS = [Part(str(number), subject) for number, subject in enumerate(SUBJECTS)]


def octets_of(serial: int) -> bytes:
    return serial.to_bytes(serial.bit_length() // 8 + 1, "big")


def entry(serial: int, reason: RevocationReason = RevocationReason.unspecified) -> bytes:
    return encode_entry(Entry(serial, NOW, reason))


def listed(plan: Plan, spill: Spill) -> list[tuple[Key, bytes]]:
    found = []
    for placed in plan.blocks:
        serials, entries = blocks.split(spill.read(placed))
        assert len(entries) == placed.block.count
        assert serials[0] == placed.block.first
        found += [
            ((placed.block.part, serial), one) for serial, one in zip(serials, entries, strict=True)
        ]
    return found


rounds = st.lists(
    st.dictionaries(
        st.tuples(st.integers(0, 1), st.integers(1, 40).map(octets_of)),
        st.sampled_from([None, RevocationReason.unspecified, RevocationReason.superseded]),
        max_size=25,
    ),
    max_size=6,
)


@settings(max_examples=150, deadline=None)
@given(rounds, st.booleans())
def test_blocks_hold_what_a_dictionary_holds(
    script: list[dict[Key, RevocationReason | None]], indirect: bool
) -> None:
    model: dict[Key, bytes] = {}
    with patch.object(blocks, "BLOCK", 4), tempfile.TemporaryFile() as file:
        spill = Spill(file, PARTS, indirect=indirect)
        placed: list[Placed] = []
        for changes in script:
            wanted = {
                key: None if reason is None else entry(int.from_bytes(key[1], "big"), reason)
                for key, reason in changes.items()
            }
            placed = merge(placed, wanted, spill)
            for key, one in wanted.items():
                if one is None:
                    model.pop(key, None)
                else:
                    model[key] = one
            plan = Plan(placed)
            assert listed(plan, spill) == sorted(model.items())
            assert plan.count == len(model)
            assert all(block.block.count <= 8 for block in placed)
            octets = b"".join(blocks.pread(f, size, at) for f, at, size in plan.runs())
            assert len(octets) == plan.size


def test_few_changes_leave_most_blocks_where_they_are() -> None:
    with tempfile.TemporaryFile() as file:
        spill = Spill(file, PARTS, indirect=False)
        first: dict[Key, bytes | None] = {
            (0, octets_of(serial)): entry(serial) for serial in range(10_000, 20_000)
        }
        before = merge([], first, spill)
        after = merge(before, {(0, octets_of(15_000)): None}, spill)
        assert len(set(before) & set(after)) == len(before) - 1


def test_a_block_that_was_altered_is_not_used() -> None:
    with tempfile.TemporaryFile() as file:
        spill = Spill(file, PARTS, indirect=False)
        [placed] = merge([], {(0, b"\x05"): entry(5)}, spill)
        file.seek(0)
        file.write(b"\x31")
        with pytest.raises(Damaged):
            merge([placed], {(0, b"\x06"): entry(6)}, spill)


@pytest.mark.parametrize("reason", [RevocationReason.unspecified, RevocationReason.keyCompromise])
def test_5_3_3_an_issuer_is_named_and_unnamed(reason: RevocationReason) -> None:
    plain = encode_entry(Entry(5, NOW, reason)) + entry(6)
    named = name_issuer(plain, SUBJECTS[0])
    assert unname_issuer(named) == plain
    assert named.endswith(entry(6))
    assert SUBJECTS[0] in named


def test_entries_read_back() -> None:
    one = Entry(2**158, NOW, RevocationReason.superseded, NOW - timedelta(days=1))
    assert parse_entry(encode_entry(one)) == one


# The file around them


@pytest.fixture
def ca() -> Authority:
    with ThreadPoolExecutor(1) as threads:
        return authority(threads)


def made(ca: Authority, path: Path, count: int, padding: int = 0) -> tuple[Unsigned, Expected]:
    """A finished CRL of so many entries and what is expected of it."""
    scope = Scope("issuing", (PARTS[0],), url="http://crl.test/" + "x" * padding)
    with tempfile.TemporaryFile() as file:
        spill = Spill(file, PARTS, indirect=False)
        changes: dict[Key, bytes | None] = {
            (0, octets_of(serial)): entry(serial) for serial in range(1, count + 1)
        }
        plan = Plan(merge([], changes, spill))
        later = NOW + timedelta(days=1)
        head, tail = frame(
            issuer=ca.issuer.subject,
            algorithm=ca.signer.algorithm.identifier,
            this_update=NOW,
            next_update=later,
            entries_size=plan.size,
            extensions=extensions(scope, key_identifier=ca.issuer.key_identifier, number=7),
        )
        unsigned = write_tbs(path, head, plan, tail, ca.signer.algorithm)
    signature = asyncio.run(ca.signer.sign_digest(unsigned.digest))
    fresh = [(placed.block, True) for placed in plan.blocks]
    return close_with(unsigned, ca.signer.algorithm, signature), Expected(
        scope, ca.issuer, ca.signer.algorithm, 7, None, NOW, later, count, fresh, changes
    )


@pytest.mark.parametrize("padding", range(0, 40))
def test_the_length_may_need_an_octet_more_or_fewer(
    ca: Authority, tmp_path: Path, padding: int
) -> None:
    # From below 256 octets to above, in single steps: the guess is wrong for some of them.
    with patch.dict("crl.assembly._ROOM", {ca.signer.algorithm.family: 20}):
        unsigned, expected = made(ca, tmp_path / "x.crl", 0, padding)
    octets = (tmp_path / "x.crl").read_bytes()
    read = parse_crl(octets)
    assert read.tbs.der == octets[unsigned.tbs_start : unsigned.tbs_start + unsigned.tbs_size]
    assert check(tmp_path / "x.crl", expected).sha256 == hashlib.sha256(octets).digest()


def test_a_file_that_is_altered_anywhere_is_refused(ca: Authority, tmp_path: Path) -> None:
    path = tmp_path / "x.crl"
    _, expected = made(ca, path, 5)
    octets = path.read_bytes()
    check(path, expected)
    for at in range(len(octets)):
        path.write_bytes(octets[:at] + bytes((octets[at] ^ 1,)) + octets[at + 1 :])
        with pytest.raises(Broken, match="crl-check"):
            check(path, expected)
    for short in (0, 1, 40, len(octets) - 1):
        path.write_bytes(octets[:short])
        with pytest.raises((Broken, Damaged)):
            check(path, expected)


def test_a_crl_that_says_something_else_is_refused(ca: Authority, tmp_path: Path) -> None:
    path = tmp_path / "x.crl"
    _, expected = made(ca, path, 5)
    other_key = authority(ThreadPoolExecutor(1), KeyType.P_384).issuer
    hour = timedelta(hours=1)
    for wrong in (
        replace(expected, number=8),
        replace(expected, base=6),
        replace(expected, count=6),
        replace(expected, this_update=NOW + hour),
        replace(expected, next_update=NOW + hour),
        replace(expected, issuer=other_key),
        replace(expected, scope=replace(expected.scope, url="http://crl.test/other")),
        replace(expected, scope=replace(expected.scope, delta_url="http://crl.test/delta")),
        replace(expected, changes={(0, b"\x05"): None}),
        replace(expected, changes={(0, b"\x09"): entry(9)}),
        replace(expected, changes={(1, b"\x05"): entry(5)}),
        replace(expected, changes={(0, b"\x05"): entry(5, RevocationReason.keyCompromise)}),
    ):
        with pytest.raises(Broken, match="crl-check"):
            check(path, wrong)
