"""Which CAs issue under a profile."""

from __future__ import annotations

from collections.abc import Collection

from infra.errors import Rejected
from pki.findings import Finding, Severity
from pki.profile.model import Profile
from pki.profile.table import Table
from pki.signer.uri import check_label


def read_issuers(table: Table) -> tuple[str, ...]:
    """The names of the key ``cas``; empty when it is not there. Whether there are such CAs is not
    known here: one may be made later. Errors: ``bad-profile``."""
    if "cas" not in table:
        return ()
    names = table.texts("cas")
    if not names:
        table.refuse("cas", "names at least one CA; leave it out for every CA that is no root")
    for name in names:
        try:
            check_label(name)
        except Rejected:
            table.refuse("cas", f"{name[:80]!r} is no name of a CA, such as issuing")
    return names


def refusal(profile: Profile, ca: str, *, root: bool) -> Rejected | None:
    """Why the CA of this name issues nothing under a profile, if so: ``profile-not-for-ca``.

    ``root``: whether its certificate is self-issued. Where the profile names no CAs, a root issues
    what speaks for a CA (``Profile.reserved``), and every other CA issues all.
    """
    if profile.cas:
        if ca in profile.cas:
            return None
        return Rejected(
            "profile-not-for-ca",
            f"CA {ca} issues nothing of profile {profile.name}, which is for {_or(profile.cas)} "
            "(its key cas): name one of them",
        )
    if not root or profile.reserved:
        return None
    return Rejected(
        "profile-not-for-ca",
        f"CA {ca} is a root: it issues to CAs, OCSP responders and CRL issuers. Name a CA below "
        f'it; or, in a laboratory, write cas = ["{ca}"] into a profile of your own',
    )


def unknown_issuers(profile: Profile, known: Collection[str]) -> tuple[Finding, ...]:
    """A warning for each CA that a profile names and that is none of those ``known``."""
    return tuple(
        Finding(
            "unknown-ca",
            Severity.WARNING,
            f"cas names {name}, and the CAs here are {', '.join(known) or 'none'}",
            "profile",
        )
        for name in profile.cas
        if name not in known
    )


def _or(names: tuple[str, ...]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
