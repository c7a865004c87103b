"""Names in the directory as text: RFC 4514 (names), RFC 4515 (filters), RFC 4516 (URLs).

Whatever a value holds, it stays a value: nothing in it can end it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from pki.partition import CA_CERTIFICATES

_ESCAPED: Final = frozenset('"#+,;<>\\=')


def escape_value(value: str) -> str:
    """An attribute's value within a name (RFC 4514 §2.4). Control characters become octets."""
    if value.isalnum():
        return value
    out = []
    last = len(value) - 1
    for place, character in enumerate(value):
        at_the_edge = character == " " and place in (0, last)
        if character in _ESCAPED or at_the_edge:
            out.append(f"\\{character}")
        elif not character.isprintable() and character != " ":
            octets = character.encode("utf-8", "surrogatepass")
            out.append("".join(f"\\{octet:02x}" for octet in octets))
        else:
            out.append(character)
    return "".join(out)


def rdn(attributes: Sequence[tuple[str, str]]) -> str:
    """A relative name of one or several attributes."""
    return "+".join(f"{type}={escape_value(value)}" for type, value in attributes)


def escape_filter(value: str) -> str:
    """A value within a filter (RFC 4515 §3): all but letters, digits and a few marks as octets."""
    return "".join(
        chr(octet) if chr(octet).isascii() and (chr(octet).isalnum() or chr(octet) in "@._:/-+,=")
        else f"\\{octet:02x}"
        for octet in value.encode("utf-8", "surrogatepass")
    )  # fmt: skip


def branch_url(server: str, dn: str) -> str:
    """Where a branch is (RFC 4516 §2); ``server``: ``ldap://host``."""
    return f"{server}/{quote(dn, safe='=,+-._~')}"


def crl_url(branch: str, scope: str, ca: str) -> str:
    """Where the CRL of a scope is found, below the URL of its branch.

    ``ca``: the name of the CA, whose entry holds the CRL of the same name.
    """
    held_by = "pkiCA" if scope == ca else "cRLDistributionPoint"
    of_authorities = scope == f"{ca}.{CA_CERTIFICATES}"
    attribute = "authorityRevocationList" if of_authorities else "certificateRevocationList"
    return _attribute_url(branch, scope, attribute, held_by)


def ca_url(branch: str, ca: str) -> str:
    """Where the certificates of a CA are found, below the URL of its branch."""
    return _attribute_url(branch, ca, "cACertificate", "pkiCA")


def _attribute_url(branch: str, name: str, attribute: str, object_class: str) -> str:
    server, _, dn = branch.rpartition("/")
    entry = quote(rdn([("cn", name)]), safe="=,+-._~")
    return f"{server}/{entry},{dn}?{attribute};binary?base?objectClass={object_class}"


_PAIR: Final = re.compile(r'\\(?:([ "#+,;<=>\\])|([0-9a-fA-F]{2}))')


def same_name(one: str, other: str) -> bool:
    """Whether two names are of one entry, however a server writes them: the case of letters, the
    order within an RDN and the form of escapes do not matter."""
    return _rdns(one) == _rdns(other)


def _rdns(text: str) -> list[frozenset[tuple[str, str]]]:
    found, pairs = [], list[tuple[str, str]]()
    start = 0
    escaped = False
    for place, character in enumerate(f"{text},"):
        if escaped or character == "\\":
            escaped = not escaped
            continue
        if character not in ",+":
            continue
        type, _, value = text[start:place].partition("=")
        pairs.append((type.strip().lower(), _plain(value).casefold()))
        start = place + 1
        if character == ",":
            found.append(frozenset(pairs))
            pairs = []
    return found


def _plain(value: str) -> str:
    """A value without its escapes; what is no UTF-8 is the same as nothing else."""
    out = bytearray()
    place = 0
    while place < len(value):
        pair = _PAIR.match(value, place)
        if pair is None:
            out += value[place].encode("utf-8", "surrogatepass")
            place += 1
        else:
            out += pair[1].encode() if pair[1] else bytes.fromhex(pair[2])
            place = pair.end()
    return out.decode("utf-8", "surrogateescape").strip(" ")
