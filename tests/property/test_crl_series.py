"""Whatever happens to certificates, full CRLs and base plus delta say what a model says.

The model keeps a plain dictionary a scope and knows nothing of blocks, layouts or deltas.
"""

from __future__ import annotations

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from crl import blocks
from crl.history import Kind, Publication
from crl.scope import Contents, Scope
from crl.series import Series
from crl.source import Part
from crl.terms import Terms
from infra.errors import Rejected
from pki.status import REVOCATION_REASONS, RevocationReason
from tests.contract.crl_fixtures import NOW, authority
from tests.contract.crl_series_fixtures import House, open_house_store

Entry: TypeAlias = tuple[datetime, str]
Meaning: TypeAlias = dict[tuple[str, int], Entry]

SERIALS = [1, 0x7F, 0x80, 0xFF, 0x100, 2**64, 2**64 + 1, 2**158, 5, 6, 7, 8]
CAS = {"issuing": "CN=Issuing", "other": "CN=Other"}

acts = st.one_of(
    st.tuples(
        st.sampled_from(["revoke", "hold", "release"]),
        st.sampled_from(SERIALS),
        st.sampled_from(list(CAS)),
        st.sampled_from(REVOCATION_REASONS),
    ),
    st.tuples(st.sampled_from(["full", "full", "delta", "restart", "lose-layout", "damage"])),
    st.tuples(st.just("wait"), st.integers(0, 900)),
)


class Model:
    """What RFC 5280 says should be listed: its own account of it."""

    def __init__(self, retention: timedelta) -> None:
        self.revoked: Meaning = {}
        self.changed_since_full: set[tuple[str, int]] = set()
        self.listed: set[tuple[str, int]] = set()  # in the last full CRL
        self.full_at: datetime | None = None
        self.retention = retention

    def full(self, ends: dict[int, datetime]) -> Meaning:
        """An entry leaves once a full CRL was issued after its certificate's end (§3.3)."""
        return {
            key: entry
            for key, entry in self.revoked.items()
            if key in self.changed_since_full
            or self.full_at is None
            or (key in self.listed and ends[key[1]] + self.retention >= self.full_at)
        }

    def issued(self, now: datetime, ends: dict[int, datetime]) -> None:
        self.listed = set(self.full(ends))
        self.changed_since_full = set()
        self.full_at = now


def meaning(made: Publication, house_issuer: str, subjects: dict[str, str]) -> Meaning:
    """What cryptography reads, the issuer of each entry included."""
    found: Meaning = {}
    issuer = house_issuer
    for entry in x509.load_der_x509_crl(made.read()):
        reason = "unspecified"
        for extension in entry.extensions:
            if isinstance(extension.value, x509.CRLReason):
                reason = extension.value.reason.value
            elif isinstance(extension.value, x509.CertificateIssuer):
                [name] = extension.value.get_values_for_type(x509.DirectoryName)
                issuer = subjects[name.rfc4514_string()]
        key = (issuer, entry.serial_number)
        assert key not in found
        found[key] = (entry.revocation_date_utc, reason)
    return found


def combined(full: Meaning, delta: Meaning) -> Meaning:
    """A base and a delta as one (§5.2.4)."""
    both = full | delta
    return {key: entry for key, entry in both.items() if entry[1] != "removeFromCRL"}


def rfc_name(text: str) -> bytes:
    return x509.Name.from_rfc4514_string(text).public_bytes()


async def play(
    script: list[Any], folder: Path, threads: ThreadPoolExecutor, indirect: bool
) -> None:
    store = await open_house_store(folder)
    retention = timedelta(hours=3)
    terms = Terms(retention=retention, delta_lifetime=timedelta(hours=6), keep=2)
    house = House(authority(threads), store, folder / "crl", terms=terms)
    parts = tuple(Part(ca, rfc_name(name)) for ca, name in CAS.items())
    scope: Scope = house.scope(
        parts=parts if indirect else parts[:1],
        indirect=indirect,
        delta_url="http://crl.test/issuing.delta.crl",
        contents=Contents.users,
    )
    ends = {serial: NOW + timedelta(hours=2 * n) for n, serial in enumerate(SERIALS)}
    for ca in CAS:
        for serial in SERIALS:
            house.ledger.issue(serial, ends[serial], ca=ca)
    subjects = {name: ca for ca, name in CAS.items()}
    model = Model(retention)
    series = house.series(scope)
    await series.recover()
    numbers: list[int] = []
    said: Meaning = {}  # by the current full CRL, whose file may be damaged later

    async def full() -> None:
        made = await series.issue_full()
        numbers.append(made.number)
        said.clear()
        said.update(meaning(made, "issuing", subjects))
        assert said == model.full(ends)
        assert made.count == len(said)
        model.issued(house.clock.at, ends)

    async def delta() -> None:
        if model.full_at is None:
            return
        made = await series.issue_delta()
        numbers.append(made.number)
        assert made.base == series._last[Kind.full].number
        assert combined(said, meaning(made, "issuing", subjects)) == model.full(ends)

    for step in [*script, ("full",), ("delta",)]:
        house.clock.at += timedelta(seconds=1)
        match step:
            case ("full",):
                await full()
            case ("delta",):
                await delta()
            case ("wait", minutes):
                house.clock.at += timedelta(minutes=minutes)
            case ("restart",):
                series = house.series(scope)
                assert await series.recover() == []
            case ("lose-layout",):
                for file in folder.glob("crl/*/*.layout"):
                    file.unlink()
            case ("damage",):
                damage(series)
            case (act, serial, ca, reason):
                if indirect or ca == "issuing":
                    change(house, model, act, ca, serial, reason)
    assert numbers == sorted(set(numbers))
    await store.close()


def change(
    house: House, model: Model, act: str, ca: str, serial: int, reason: RevocationReason
) -> None:
    key, at = (ca, serial), house.clock.at
    before = model.revoked.get(key)
    try:
        if act == "revoke":
            house.ledger.revoke(serial, at, reason, ca=ca)
            model.revoked[key] = (before[0] if before else at, reason.name)
        elif act == "hold":
            house.ledger.hold(serial, at, ca=ca)
            model.revoked[key] = (at, "certificateHold")
        else:
            house.ledger.release(serial, at, ca=ca)
            del model.revoked[key]
    except Rejected:
        return
    model.changed_since_full.add(key)


def damage(series: Series) -> None:
    """Alter an octet in the entries of the current full CRL, behind our back."""
    current = series._last.get(Kind.full)
    if current is None or not current.count:
        return
    octets = bytearray(current.path.read_bytes())
    octets[octets.index(b"Z\x30") if b"Z\x30" in octets else len(octets) // 2] ^= 1
    current.path.write_bytes(octets)


@settings(max_examples=60, deadline=None)
@given(st.lists(acts, max_size=30), st.booleans())
def test_crls_mean_what_the_model_means(script: list[Any], indirect: bool) -> None:
    # Blocks of three, so that they are cut, joined and emptied.
    with (
        patch.object(blocks, "BLOCK", 3),
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(1) as threads,
    ):
        asyncio.run(play(script, Path(folder), threads, indirect))
