"""Host names of the Internet, as a CA certifies them: no addresses, and none that nobody owns.

The syntax (RFC 1034 §3.5, in A-labels) is ``pki.general_name``'s; this is what lies beyond it.
"""

from __future__ import annotations

import re
from typing import Final

import idna

from infra.errors import Rejected

# What resolvers and browsers take for the end of an IPv4 address (RFC 1123 §2.1, inet_aton(3)).
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


def check_host_name(name: str) -> None:
    """Refuse what only looks like a host name; ``name``: as ``general_name`` lets it be, perhaps
    with a wildcard.

    Errors: ``bad-general-name`` for a last label that is a number, an A-label that is none
    (RFC 5890 §2.3.2.1) and other labels with two hyphens in the third and fourth place (§2.3.1).
    """
    labels = name.lower().removeprefix("*.").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        raise Rejected(
            "bad-general-name",
            f"{name} ends in a number, as an address does; ask for an ip name (ip:192.0.2.1)",
        )
    for label in labels:
        if label.startswith("xn--"):
            if not _is_a_label(label):
                raise Rejected("bad-general-name", f"{label} is no A-label of IDNA 2008 (RFC 5891)")
        elif label[2:4] == "--":
            raise Rejected(
                "bad-general-name",
                f"{label} is reserved: it has hyphens in its third and fourth place (RFC 5890)",
            )


def has_one_label(name: str) -> bool:
    """Whether a name is of one label, perhaps with a wildcard before it: a name of no domain, which
    is another host on each network, or of a whole top-level domain."""
    return "." not in name.removeprefix("*.")


def _is_a_label(label: str) -> bool:
    try:
        return idna.alabel(idna.ulabel(label)).decode() == label
    except (ValueError, OverflowError, IndexError):  # UnicodeError is the first
        return False
