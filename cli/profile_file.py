"""A profile that is not in use yet, tried out as the instance would try it."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cli import files
from infra.errors import Rejected
from pki.lint import Linter
from pki.profile import Profile, parse_profile
from pki.profile_check import check

MAX_PROFILE: Final = 256 * 1024


async def check_file(path: Path) -> list[dict[str, Any]]:
    """The findings on a certificate of the profile in ``path``, in the shape that the API gives.
    Errors: ``cannot-read``, ``too-large``, ``bad-profile`` with file, key and reason."""
    profile = read_profile(path)
    linter = Linter()
    try:
        findings = await check(profile, linter, datetime.now(UTC))
    finally:
        await linter.close()
    return [
        {
            "code": finding.code,
            "severity": finding.severity.value,
            "detail": finding.detail,
            "rulebook": finding.rulebook,
        }
        for finding in findings
    ]


def read_profile(path: Path) -> Profile:
    """The profile in ``path``, named as the file. Errors: those of ``check_file``."""
    content = files.read(path, limit=MAX_PROFILE)
    try:
        data = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise Rejected("bad-profile", f"{path}: is no TOML: {error}") from error
    return parse_profile(path.stem, data, source=str(path))
