"""Whatever happens to certificates, the CRL says what a model of RFC 5280 §5.3.1 says."""

from __future__ import annotations

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from crl.encode import (
    Entry,
    assemble,
    authority_key_identifier,
    build_tbs,
    crl_number,
    encode_entry,
    parse_crl,
)
from infra.errors import Rejected
from pki.algorithms import SIGNATURE_ALGORITHMS
from pki.status import REVOCATION_REASONS, RevocationReason
from tests.contract.crl_fixtures import NOW, World, authority, open_store

Meaning: TypeAlias = dict[int, tuple[datetime, str, datetime | None]]
Step: TypeAlias = tuple[str, int, RevocationReason, bool]

steps = st.lists(
    st.tuples(
        st.sampled_from(["revoke", "hold", "release", "issue", "restart"]),
        st.integers(1, 5),
        st.sampled_from(REVOCATION_REASONS),
        st.booleans(),
    ),
    max_size=25,
)


def predict(model: Meaning, step: Step, at: datetime) -> bool:
    """What a change does to the meaning, and whether it is allowed: its own account of it."""
    act, serial, reason, dated = step
    before = model.get(serial)
    held = before is not None and before[1] == "certificateHold"
    if act == "revoke" and (before is None or held):
        since = at - timedelta(days=1) if dated else None
        model[serial] = (before[0] if before else at, reason.name, since)
        return True
    if act == "hold" and before is None:
        model[serial] = (at, "certificateHold", None)
        return True
    if act == "release" and held:
        del model[serial]
        return True
    return False


def meaning(der: bytes) -> Meaning:
    """What cryptography, which knows nothing of our encoder, makes of a CRL."""
    found: Meaning = {}
    for entry in x509.load_der_x509_crl(der):
        reason, since = "unspecified", None
        for extension in entry.extensions:
            if isinstance(extension.value, x509.CRLReason):
                reason = extension.value.reason.value
            elif isinstance(extension.value, x509.InvalidityDate):
                since = extension.value.invalidity_date_utc
        assert entry.serial_number not in found
        found[entry.serial_number] = (entry.revocation_date_utc, reason, since)
    return found


async def play(script: list[Step], folder: Path, threads: ThreadPoolExecutor) -> None:
    world = World(authority(threads), await open_store(folder))
    model: Meaning = {}
    issuer = world.issuer()
    numbers: list[int] = []
    for minute, step in enumerate([*script, ("issue", 1, RevocationReason.unspecified, False)]):
        at = world.clock.at = NOW + timedelta(minutes=minute)
        act, serial, reason, dated = step
        if act == "restart":
            issuer = world.issuer()
            assert await issuer.recover() == []
        elif act == "issue":
            made = await issuer.issue()
            numbers.append(made.number)
            assert meaning(made.der) == model
            assert made.count == len(model)
        else:
            allowed = predict(model, step, at)
            try:
                if act == "revoke":
                    since = at - timedelta(days=1) if dated else None
                    world.statuses.revoke(serial, at, reason, since)
                elif act == "hold":
                    world.statuses.hold(serial, at)
                else:
                    world.statuses.release(serial)
            except Rejected:
                assert not allowed
            else:
                assert allowed
    assert numbers == sorted(set(numbers))
    await world.store.close()


@settings(max_examples=40, deadline=None)
@given(steps)
def test_a_crl_means_what_the_model_means(script: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as threads:
        asyncio.run(play(script, Path(folder), threads))


moments = st.datetimes(datetime(1950, 1, 1), datetime(2099, 12, 31)).map(
    lambda at: at.replace(tzinfo=UTC, microsecond=0)
)
entries = st.lists(
    st.builds(
        Entry,
        serial=st.integers(1, 2**159 - 1),
        at=moments,
        reason=st.sampled_from([*REVOCATION_REASONS, RevocationReason.certificateHold]),
        invalidity_date=st.none() | moments,
    ),
    max_size=30,
    unique_by=lambda entry: entry.serial,
)


@settings(deadline=None)
@given(entries, st.integers(0, 2**159 - 1), moments, st.binary(min_size=1, max_size=40))
def test_what_is_written_is_read(
    written: list[Entry], number: int, now: datetime, identifier: bytes
) -> None:
    algorithm = SIGNATURE_ALGORITHMS["ecdsa-with-sha256"].identifier
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA")]).public_bytes()
    tbs = build_tbs(
        issuer=name,
        algorithm=algorithm,
        this_update=now,
        next_update=now,
        entries=map(encode_entry, written),
        extensions=(authority_key_identifier(identifier), crl_number(number)),
    )
    crl = assemble(tbs, algorithm, b"signature")
    read = parse_crl(crl)
    assert list(read.tbs.entries()) == written
    assert (read.tbs.number, read.tbs.key_identifier) == (number, identifier)
    assert (read.tbs.this_update, read.tbs.next_update) == (now, now)
    assert read.tbs.der == tbs
    assert meaning(crl) == {
        entry.serial: (entry.at, entry.reason.name, entry.invalidity_date) for entry in written
    }
