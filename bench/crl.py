"""CRLs of up to ten million entries: ours, checked and durable, against openssl and cryptography.

All list the same entries. Ours come from a ledger of so many certificates (cold) or from the CRL
before (next, after one in 1,000 has changed, at most 1,000); the times contain everything up to
the published CRL: reading it back, verifying its signature, the disk's syncs. Ten million come
from a stream in the ledger's place.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from cryptography import x509

from bench.peers.measured import Measured, measured
from bench.peers.openssl_crl import gencrl

NEXT_LIMIT = 0.3
MEMORY_LIMIT = 200


async def run(quick: bool) -> list[dict[str, Any]]:
    """Time full, next and delta CRLs of up to 10 million entries, of half a million when quick."""
    small, large, huge = (100_000, 200_000, 500_000) if quick else (100_000, 1_000_000, 10_000_000)
    number, revoked = (20, 10_000) if quick else (2000, 1_000_000)
    with tempfile.TemporaryDirectory(prefix="digitalid-bench-") as name:
        folder = Path(name)
        openssl = gencrl(folder / "openssl", small)
        first, _ = ours(folder / "small", small, "ledger")
        entries_agree(folder / "openssl" / "crl.pem", Path(first["path"]), small)
        builder, builder_peak = _builder(large)
        second, second_peak = ours(folder / "large", large, "ledger")
        third, third_peak = ours(folder / "huge", huge, "stream")
        sharded = json.loads(_ours("shards", _made(folder / "shards"), revoked, number).printed)
    gencrl_name = "openssl ca -gencrl"
    builder_name = "cryptography CertificateRevocationListBuilder"
    return [
        _faster(f"crl-next-{small}", first["next"], gencrl_name, openssl.seconds, 8.0),
        _faster(f"crl-cold-{small}", first["cold"], gencrl_name, openssl.seconds, 2.0),
        _faster(f"crl-cold-{large}", second["cold"], builder_name, builder, 3.0),
        _within(f"crl-next-{large}", "s", second["next"], "the issue's limit", NEXT_LIMIT),
        _within(f"crl-memory-{large}", "MB", second_peak, builder_name, builder_peak),
        _within(f"crl-memory-{huge}", "MB", third_peak, "the issue's limit", MEMORY_LIMIT),
        # Twice as long at a hundred times the size would still be the disk's mood.
        _within(
            f"crl-delta-{huge}", "s", third["delta"], f"twice that of {small}", 2 * first["delta"]
        ),
        _told(f"crl-stream-{huge}", "s", third["cold"]),
        _told(f"crl-next-{huge}", "s", third["next"]),
        _told(f"crl-size-{huge}", "MB", third["size"] / 1e6),
        _told(f"crl-shards-{number}", "s", sharded["seconds"]),
        _told(f"crl-shard-size-{number}", "kB", sharded["mean"] / 1e3),
    ]


def ours(folder: Path, count: int, source: str) -> tuple[dict[str, Any], int]:
    """Our figures for so many entries, and the peak of memory."""
    _made(folder)
    if source == "ledger":
        _ours("fill", folder, count)
    found = _ours("issue", folder, count, source)
    if count > 1_000_000:
        shutil.rmtree(folder)
    return json.loads(found.printed), found.megabytes


def entries_agree(pem: Path, der: Path, count: int) -> None:
    """Whether openssl lists what we list; else the figures say nothing. Ours has more by now."""

    theirs = {
        (entry.serial_number, entry.revocation_date_utc)
        for entry in x509.load_pem_x509_crl(pem.read_bytes())
    }
    listed = {
        (entry.serial_number, entry.revocation_date_utc)
        for entry in x509.load_der_x509_crl(der.read_bytes())
    }
    if len(theirs) != count or not theirs <= listed:
        raise RuntimeError("openssl and we list different certificates")


def _builder(count: int) -> tuple[float, int]:
    found = measured(sys.executable, "-m", "bench.peers.crl_builder", str(count))
    return float(found.printed.split()[0]), found.megabytes


def _ours(what: str, folder: Path, count: int, *more: object) -> Measured:
    return measured(
        sys.executable, "-m", "bench.peers.crl_ours", what, folder, str(count), *map(str, more)
    )


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _faster(
    name: str, ours: float, reference: str, reference_value: float, goal: float
) -> dict[str, Any]:
    """``ratio`` above 1 means that ours is faster."""
    figure = _told(name, "s", ours)
    ratio = round(reference_value / ours, 2)
    return figure | {
        "reference": reference,
        "reference_value": round(reference_value, 4),
        "ratio": ratio,
        "goal": goal,
    }


def _within(name: str, unit: str, ours: float, reference: str, limit: float) -> dict[str, Any]:
    """``ratio`` below 1 means that ours stays within it."""
    figure = _told(name, unit, ours)
    ratio = round(ours / limit, 3)
    del figure["goal"]
    return figure | {
        "reference": reference,
        "reference_value": round(limit, 4),
        "ratio": ratio,
        "limit": 1.0,
    }


def _told(name: str, unit: str, ours: float) -> dict[str, Any]:
    """A figure without a peer."""
    return {
        "name": name,
        "unit": unit,
        "ours": round(ours, 4),
        "reference": "none",
        "reference_value": 0.0,
        "ratio": 0.0,
        "goal": 0.0,
    }
