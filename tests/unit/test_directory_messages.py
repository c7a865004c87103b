"""LDAP messages as ldap3's own codec reads them (RFC 4511)."""

from __future__ import annotations

from typing import Any

import pytest
from ldap3.protocol.rfc4511 import LDAPMessage
from pyasn1.codec.ber import decoder, encoder

from infra.errors import Unavailable
from pki.directory import messages
from pki.directory.messages import Incoming


def read(octets: bytes) -> tuple[int, str, Any]:
    found, rest = decoder.decode(octets, asn1Spec=LDAPMessage())
    assert not rest
    operation = found["protocolOp"]
    return int(found["messageID"]), operation.getName(), operation.getComponent()


def test_add() -> None:
    values = {"cn": (b"a", b"\xff\0"), "userCertificate;binary": (b"x" * 70_000,)}
    id, name, said = read(messages.message(70_000, messages.add("cn=a,o=é", values)))
    assert (id, name) == (70_000, "addRequest")
    assert bytes(said["entry"]) == "cn=a,o=é".encode()
    found = {
        bytes(one["type"]).decode(): {bytes(v) for v in one["vals"]} for one in said["attributes"]
    }
    assert found == {type: set(octets) for type, octets in values.items()}


def test_replace() -> None:
    _, name, said = read(messages.message(1, messages.replace("o=x", {"mail": (b"m",), "sn": ()})))
    assert name == "modifyRequest"
    assert [int(change["operation"]) for change in said["changes"]] == [2, 2]
    changed = [change["modification"] for change in said["changes"]]
    assert [bytes(one["type"]) for one in changed] == [b"mail", b"sn"]
    assert [len(one["vals"]) for one in changed] == [1, 0]


def test_delete_and_read() -> None:
    _, name, said = read(messages.message(1, messages.delete("o=x")))
    assert (name, bytes(said)) == ("delRequest", b"o=x")
    _, name, said = read(messages.message(1, messages.read("o=x", ("cn", "mail"), seconds=5)))
    assert name == "searchRequest"
    assert bytes(said["baseObject"]) == b"o=x"
    assert (int(said["scope"]), int(said["derefAliases"]), int(said["timeLimit"])) == (0, 0, 5)
    assert said["filter"].getName() == "present"
    assert [bytes(type) for type in said["attributes"]] == [b"cn", b"mail"]


def answer(id: int, name: str, code: int, *, referral: str = "", detail: str = "") -> bytes:
    message = LDAPMessage()
    message["messageID"] = id
    result = message["protocolOp"][name]
    result["resultCode"] = code
    result["matchedDN"] = ""
    result["diagnosticMessage"] = detail
    if referral:
        result["referral"][0] = referral
    return bytes(encoder.encode(message))


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_answers_come_in_any_pieces(piece: int) -> None:
    octets = answer(7, "addResponse", 68, detail="there") + answer(
        9, "modifyResponse", 10, referral="ldap://master.example.org/o=x"
    )
    incoming, found = Incoming(), []
    for start in range(0, len(octets), piece):
        found += incoming.feed(octets[start : start + piece])
    assert [(id, result.code, result.detail) for id, result in found] == [
        (7, 68, "there"),
        (9, 10, ""),
    ]
    assert found[1][1].referrals == ("ldap://master.example.org/o=x",)


def test_what_is_no_ldap_is_refused() -> None:
    for octets in (
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x30\x80\x00\x00",
        b"\x30\x84\xff\xff\xff\xff",
    ):
        with pytest.raises(Unavailable) as refused:
            Incoming().feed(octets + bytes(20))
        assert refused.value.code == "directory-unavailable"


def test_a_directory_may_end_the_connection_and_say_so() -> None:
    with pytest.raises(Unavailable):
        Incoming().feed(answer(0, "extendedResp", 52))
