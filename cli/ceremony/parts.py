"""What a ceremony works with, made of the settings and this machine."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from cli.service.from_settings import all_profiles
from conf.schema import Settings
from crl.encode import authority_key_identifier, build_tbs, crl_number, encode_entry
from infra.clock import SystemClock
from pki.ceremony.desk import Tools
from pki.ceremony.state import Listed
from pki.crl_entry import Entry
from pki.findings import Severity
from pki.issuer import Issuer
from pki.lint import Linter
from pki.profile import Profile
from pki.serial import parse_serial
from pki.status import RevocationReason

_PACKAGES: Final = ("cli", "conf", "crl", "infra", "ocsp", "pki")
_SYNCHRONISED: Final = Path("/run/systemd/timesync/synchronized")


def tools(settings: Settings) -> Tools:
    """The tools of every step."""
    return Tools(SystemClock(), os.urandom, all_profiles(settings), build_crl, lint, facts)


def build_crl(
    issuer: Issuer,
    algorithm: bytes,
    *,
    number: int,
    this_update: datetime,
    next_update: datetime,
    listed: Sequence[Listed],
) -> bytes:
    """See ``pki.ceremony.desk.CrlBuilder``."""
    return build_tbs(
        issuer=issuer.subject,
        algorithm=algorithm,
        this_update=this_update,
        next_update=next_update,
        entries=[
            encode_entry(
                Entry(
                    parse_serial(each.serial),
                    datetime.fromtimestamp(each.at, UTC),
                    RevocationReason[each.reason],
                )
            )
            for each in listed
        ],
        extensions=[authority_key_identifier(issuer.key_identifier), crl_number(number)],
    )


def lint(certificate: bytes, profile: Profile) -> Sequence[str]:
    """The errors that pkilint finds, but for those that the profile waives."""

    async def ask() -> Sequence[str]:
        linter = Linter()
        try:
            findings = await linter.certificate(certificate, profile.rulebook)
        finally:
            await linter.close()
        return [
            f"{found.code}: {found.detail}"
            for found in findings
            if found.severity is Severity.ERROR and found.code not in profile.waived_findings
        ]

    return asyncio.run(ask())


def facts() -> Mapping[str, str]:
    """What this machine says of itself: software with its hash, system, time and its source."""
    source = "systemd-timesyncd" if _SYNCHRONISED.exists() else "the machine's own clock"
    return {
        "software": f"digitalid {version('digitalid')}",
        "package": package_hash(),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "time source": source,
    }


def package_hash() -> str:
    """SHA-256 over the installed files of this product: their paths, sorted, and their hashes."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".toml") and path.is_file():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                digest.update(f"{content}  {path.relative_to(root).as_posix()}\n".encode())
    return digest.hexdigest()


def interactive() -> bool:
    """Whether there are people at a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()
