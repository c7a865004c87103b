"""What a result of LDAP (RFC 4511 §4.1.9) means: of one entry, or of the directory as a whole."""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import urlsplit

import msgspec

from infra.errors import Failure, Rejected, Unavailable
from pki.directory.messages import Result


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What became of one entry; ``code``: why the directory refused it, empty if it did not."""

    code: str = ""
    detail: str = ""


SUCCESS: Final = 0
_SIZE_LIMITS: Final = (4, 11)
_TIME_LIMIT: Final = 3
_REFERRAL: Final = 10
NO_SUCH_OBJECT: Final = 32
_BUSY: Final = (51, 52)
_UNWILLING: Final = 53
_NOT_PERMITTED: Final = (8, 13, 50)
_LOGIN_REFUSED: Final = (7, 14, 48, 49)
EXISTS: Final = 68
OTHER_CLASS: Final = (64, 69)  # namingViolation, objectClassModsProhibited
_FULL: Final = 80  # other: slapd says so when its disk or its map is full
_HAS_CHILDREN: Final = 66
_AGAINST_THE_SCHEMA: Final = frozenset({16, 17, 18, 19, 20, 21, 34, 64, 65, 67, 69})


def outcome(result: Result) -> Outcome:
    """Errors: those of ``failure``, for what is not about this entry."""
    if result.code == SUCCESS:
        return Outcome()
    if result.code == _HAS_CHILDREN:
        return Outcome("directory-entry-has-children", "the directory has entries below this one")
    if result.code not in _AGAINST_THE_SCHEMA:
        raise failure(result)
    # What it says may repeat a value of the entry, so it is not passed on.
    return Outcome(
        "directory-schema", f"the directory refused an entry (LDAP result {result.code})"
    )


def failure(result: Result) -> Failure:
    """What a result means that concerns the directory as a whole."""
    code = result.code
    # What OpenLDAP says of a copy without a referral, and of olcReadOnly.
    unwilling = code == _UNWILLING and ("shadow" in result.detail or "restrict" in result.detail)
    if code == _REFERRAL or unwilling:
        where = urlsplit(result.referrals[0]).netloc if result.referrals else "another one"
        return Rejected(
            "directory-read-only",
            f"this directory is a copy that cannot be written; it refers to {where}, which is not "
            "followed: set directory.url to the one that takes changes",
        )
    if code in _SIZE_LIMITS:
        return Rejected(
            "directory-size-limit",
            "the directory shows only so many entries; let directory.bind_dn read without a limit "
            "(olcLimits in slapd)",
        )
    if code == _TIME_LIMIT:
        return Unavailable(
            "directory-time-limit",
            "the directory gave a search up; index what is searched, or let directory.bind_dn "
            "search for longer",
        )
    if code in _LOGIN_REFUSED or code in _NOT_PERMITTED:
        return Rejected(
            "directory-not-permitted",
            "the directory does not let directory.bind_dn do this; give it the right to write "
            "below directory.base",
        )
    if code in _BUSY:
        return Unavailable("directory-unavailable", "the directory is busy")
    if code == _FULL:
        return Unavailable(
            "directory-full",
            "the directory could not store an entry; see whether its disk or its database is full",
        )
    return Unavailable("directory-unavailable", f"the directory answered with LDAP result {code}")


def refused(url: str, bind_dn: str, result: Result) -> Failure:
    if result.code in (*_LOGIN_REFUSED, *_NOT_PERMITTED, 34):
        who = bind_dn or "SASL EXTERNAL"
        return Rejected(
            "directory-refused-login",
            f"{url} refuses {who}; mend directory.bind_dn and directory.password, or the "
            "client certificate",
        )
    return failure(result)


def unreachable(url: str, error: Exception) -> Failure:
    said = str(error)
    if isinstance(error, ssl.SSLError) or "ertificate" in said or "CERTIFICATE" in said:
        return Rejected(
            "directory-certificate",
            f"the certificate of {url} is not one that directory.ca vouches for, or is for "
            "another name",
        )
    return Unavailable("directory-unavailable", f"{url} cannot be reached")
