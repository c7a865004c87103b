"""What a check of an encoded object found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding weighs; an ``error`` stops issuance."""

    ERROR = "error"
    WARNING = "warning"
    NOTICE = "notice"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    ``code``: stable, it names the rule (``pkix.unknown_subject_public_key_algorithm``);
    ``detail``: where in the object and why, for people; ``rulebook``: whose rule it is (``pkix``,
    ``etsi``, ``cabf-serverauth``, ``profile``).
    """

    code: str
    severity: Severity
    detail: str
    rulebook: str


def explain(findings: Iterable[Finding]) -> str:
    """Findings in one line."""
    return "; ".join(f"{finding.code} ({finding.detail})" for finding in findings)
