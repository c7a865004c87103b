"""Names, filters and URLs of the directory: whatever a value holds, it stays a value."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ldap3.operation.search import compile_filter, parse_filter
from ldap3.utils.dn import parse_dn

from pki.directory.naming import (
    branch_url,
    ca_url,
    crl_url,
    escape_filter,
    escape_value,
    rdn,
    same_name,
)

HOSTILE = [
    "Alice,ou=admins,o=Registry", "Alice+uid=root", 'say "yes"', "#04024869", " leading",
    "trailing ", " ", "a\\", "a\\2c", "<tag>;=", "*)(uid=*", "(|(cn=*))", "nul\0nul", "\n\r\t",
    "Ćirić Žаба", "\u202edlrow", "\ud800", "é" * 32768, "x" * 65536, "\x7f", "=",
]  # fmt: skip
TEXT = st.text(min_size=1, max_size=200)


def read_back(name: str) -> str:
    """The value of the first RDN, as ldap3 reads it."""
    _, value, _ = parse_dn(name)[0]
    octets, place = bytearray(), 0
    while place < len(value):
        if value[place] == "\\":
            if value[place + 1] in ' "#+,;<=>\\':
                octets += value[place + 1].encode()
                place += 2
            else:
                octets.append(int(value[place + 1 : place + 3], 16))
                place += 3
        else:
            octets += value[place].encode("utf-8", "surrogatepass")
            place += 1
    return octets.decode("utf-8", "surrogatepass")


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_is_one_value_whatever_it_holds(value: str) -> None:
    name = f"{rdn([('cn', value)])},o=Registry"
    assert len(parse_dn(name)) == 2
    assert read_back(name) == value
    assert same_name(name, f"{rdn([('CN', value)])},O=registry")


@settings(max_examples=300, deadline=None)
@given(TEXT, TEXT)
@example("a", "a ")
@example("a", "A")
@example("\\", "\\\\")
def test_two_values_are_two_names(one: str, other: str) -> None:
    names = [f"{rdn([('cn', value)])},o=x" for value in (one, other)]
    # Case and spaces around a value do not tell names apart (RFC 4518 §2.6).
    told_apart = one.strip(" ").casefold() != other.strip(" ").casefold()
    assert same_name(*names) is not told_apart


def test_a_name_is_the_same_in_another_form() -> None:
    assert same_name(r"cn=Alice\2C B+uid=1,ou=people,o=x", r"UID=1+CN=alice\, b, OU=People,o=x")
    assert same_name("cn=\u00e9,o=x", r"cn=\c3\a9,o=x")
    assert not same_name("cn=Alice,ou=people,o=x", r"cn=Alice\,ou=people,o=x")
    assert not same_name("cn=Alice,o=x", "cn=Alice,ou=people,o=x")


@pytest.mark.parametrize("value", HOSTILE)
def test_a_filter_finds_a_value_and_nothing_else(value: str) -> None:
    written = f"(cn={escape_filter(value)})"
    parsed = compile_filter(parse_filter(written, None, False, False, None, False).elements[0])
    assert parsed.getName() == "equalityMatch"
    found = parsed.getComponent()
    assert bytes(found["attributeDesc"]) == b"cn"
    assert bytes(found["assertionValue"]) == value.encode("utf-8", "surrogatepass")


def test_urls_say_which_attribute_of_which_entry() -> None:
    branch = branch_url("ldap://directory.example.org", "ou=CAs and CRLs,o=Régistre?,c=AQ")
    assert branch.isascii()
    url = urlsplit(crl_url(branch, "issuing.17", "issuing"))
    assert (url.scheme, url.netloc) == ("ldap", "directory.example.org")
    assert unquote(url.path) == "/cn=issuing.17,ou=CAs and CRLs,o=Régistre?,c=AQ"
    assert url.query == "certificateRevocationList;binary?base?objectClass=cRLDistributionPoint"
    assert crl_url(branch, "issuing", "issuing").endswith("?base?objectClass=pkiCA")
    assert "?authorityRevocationList;binary?" in crl_url(branch, "issuing.ca", "issuing")
    assert ca_url(branch, "issuing").endswith("?cACertificate;binary?base?objectClass=pkiCA")


def test_an_edge_needs_its_escape() -> None:
    assert escape_value("# a # ") == r"\# a \#\ "
    assert escape_value("a=b") == r"a\=b"
    assert escape_value("\0") == r"\00"
