"""Host names beyond their syntax: what is an address, reserved, or nobody's."""

from __future__ import annotations

import pytest

from infra.errors import Rejected
from pki.general_name import host_of, parse_general_name
from pki.host_name import check_host_name, has_one_label


@pytest.mark.parametrize(
    "name",
    [
        "www.example.org",
        "WWW.Example.ORG",
        "*.example.org",
        "a." + "b" * 63 + ".c",
        "1.example",
        "0x7f.example",
        "3com.example",
        "xn--mnchen-3ya.example",
        "XN--Mnchen-3YA.example",
        "xn--bcher-kva.xn--p1ai",
        "xn--mgbh0fb.xn--kgbechtv",
        "xn--fiqs8s.xn--55qx5d",
        "a--b.example",
        "localhost",
    ],
)
def test_host_names_pass(name: str) -> None:
    check_host_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "127.0.0.1", "1.2.3.4", "1.2.3", "127.1", "2130706433", "0x7f.1", "0x7f", "1.0x7f",
        "a.0X1F", "a.0x", "www.example.1", "*.1", "017700000001",
        "xn--0.example", "xn--a.example", "xn--.example", "xn--zzzzzzzz99999.example",
        "xn--example-.example", "www.xn--0", "*.xn--0.example",
        "xn--www-5e7a.example",  # a ZERO WIDTH JOINER inside
        "xn--strae-oqa.example.xn--ls8h",  # an emoji, of IDNA 2003 only
        "xn--MNCHEN-3ya--.example",
        "ab--cd.example", "AB--cd.example", "www.12--3.example", "*.ab--cd.example",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_host_name_is_refused(name: str) -> None:
    with pytest.raises(Rejected) as refused:
        check_host_name(name)
    assert refused.value.code == "bad-general-name"


def test_names_of_one_label_are_known() -> None:
    assert all(map(has_one_label, ("localhost", "com", "*.com", "a")))
    assert not any(map(has_one_label, ("example.org", "*.example.org")))


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("dns:www.example.org", "www.example.org"),
        ("email:alice@example.org", "example.org"),
        ("uri:https://alice@example.org:8443/a?b#c", "example.org"),
        ("uri:https://192.0.2.1/", ""),
        ("uri:https://192.0.2.1:80", ""),
        ("uri:https://1.2.3/", "1.2.3"),
        ("uri:https://[2001:db8::1]:80/", ""),
        ("uri:did:web:example.org", ""),
        ("uri:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6", ""),
        ("ip:192.0.2.1", ""),
        ("upn:alice@example.org", ""),
    ],
)
def test_the_host_of_a_name(name: str, host: str) -> None:
    assert host_of(parse_general_name(name)) == host
