"""LDAP messages (RFC 4511 §4.1.1) of the few operations that go out by the thousand.

ldap3 logs in and searches; it takes 0.7 ms to encode a message, which would be most of an entry's
time, so these few are encoded here. What comes back is read by ldap3's decoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ldap3.utils.asn1 import compute_ber_size, decode_message_fast

from infra.errors import Unavailable
from pki import der

MAX_MESSAGE: Final = 64 * 1024 * 1024
"""Octets of a message of the directory's."""

_ADD: Final = 0x68
_MODIFY: Final = 0x66
_DELETE: Final = 0x4A
_SEARCH: Final = 0x63
_PRESENT: Final = 0x87
_REPLACE: Final = 2
_FALSE: Final = b"\x01\x01\x00"
_ENTRY, _REFERENCE = 4, 19
_HEADER: Final = 10


@dataclass(frozen=True, slots=True)
class Result:
    """LDAPResult (§4.1.9), and for a search the attributes of the one entry that it read, None
    when it read none. ``code``: resultCode; ``detail``: diagnosticMessage; ``referrals``: URLs."""

    code: int
    detail: str
    referrals: tuple[str, ...] = ()
    found: Mapping[str, tuple[bytes, ...]] | None = None


def message(id: int, operation: bytes) -> bytes:
    """LDAPMessage without controls."""
    return der.sequence(der.integer(id), operation)


def add(dn: str, attributes: Mapping[str, Sequence[bytes]]) -> bytes:
    """AddRequest (§4.7); an attribute without values is not there."""
    there = [item for item in attributes.items() if item[1]]
    return der.tlv(_ADD, _text(dn) + der.sequence(*map(_attribute, there)))


def replace(dn: str, attributes: Mapping[str, Sequence[bytes]]) -> bytes:
    """ModifyRequest (§4.6): each attribute has these values from then on, or is gone."""
    changes = (
        der.sequence(der.enumerated(_REPLACE), _attribute(item)) for item in attributes.items()
    )
    return der.tlv(_MODIFY, _text(dn) + der.sequence(*changes))


def delete(dn: str) -> bytes:
    """DelRequest (§4.8)."""
    return der.tlv(_DELETE, dn.encode())


def read(dn: str, types: Iterable[str], *, seconds: int) -> bytes:
    """SearchRequest (§4.5.1) for one entry; ``types``: the attributes that are wanted."""
    return der.tlv(
        _SEARCH,
        _text(dn)
        + der.enumerated(0)  # baseObject
        + der.enumerated(0)  # neverDerefAliases
        + der.integer(1)
        + der.integer(seconds)
        + _FALSE
        + der.tlv(_PRESENT, b"objectClass")
        + der.sequence(*map(_text, types)),
    )


def _attribute(item: tuple[str, Sequence[bytes]]) -> bytes:
    type, values = item
    return der.sequence(_text(type), der.tlv(der.SET, b"".join(map(der.octet_string, values))))


def _text(text: str) -> bytes:
    return der.octet_string(text.encode())


class Incoming:
    """Messages of the directory's, put together from what arrives."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._found: dict[int, Mapping[str, tuple[bytes, ...]]] = {}

    def feed(self, data: bytes) -> list[tuple[int, Result]]:
        """The operations that ended with ``data``, by their message ids.

        Errors: ``Unavailable("directory-unavailable")`` for what is no LDAP.
        """
        self._data += data
        ended = []
        while (size := self._size()) is not None and len(self._data) >= size:
            octets = bytes(self._data[:size])
            del self._data[:size]
            try:
                if (one := self._read(decode_message_fast(octets))) is not None:
                    ended.append(one)
            except Exception as error:  # whatever its decoder trips over
                raise _no_ldap() from error
        return ended

    def _size(self) -> int | None:
        data = self._data
        if not data:
            return None
        if data[0] != der.SEQUENCE:
            raise _no_ldap()
        if len(data) < 2 or (data[1] > 0x7F and len(data) < 2 + (data[1] & 0x7F)):
            return None
        if data[1] == 0x80 or data[1] > 0x88:
            raise _no_ldap()
        length, offset = compute_ber_size(bytes(data[:_HEADER]))
        if length > MAX_MESSAGE:
            raise _no_ldap()
        return int(length + offset)

    def _read(self, decoded: Mapping[str, Any]) -> tuple[int, Result] | None:
        id, payload = int(decoded["messageID"]), decoded["payload"]
        if id == 0:  # a notice of disconnection (§4.4.1)
            raise Unavailable("directory-unavailable", "the directory ends the connection")
        if decoded["protocolOp"] == _ENTRY:
            self._found[id] = attributes_of(payload)
            return None
        if decoded["protocolOp"] == _REFERENCE:
            return None
        referrals: tuple[str, ...] = ()
        if len(payload) > 3 and isinstance(payload[3][3], list):
            referrals = tuple(_plain(one[3]) for one in payload[3][3])
        result = Result(
            int(payload[0][3]), _plain(payload[2][3]), referrals, self._found.pop(id, None)
        )
        return id, result


def attributes_of(payload: Sequence[Any]) -> dict[str, tuple[bytes, ...]]:
    """The attributes of a SearchResultEntry as ldap3's decoder leaves it."""
    return {
        bytes(type[3]).decode(): tuple(sorted(bytes(value[3]) for value in values[3]))
        for _, _, _, (type, values) in payload[1][3]
    }


def _plain(octets: object) -> str:
    return octets.decode("utf-8", "replace") if isinstance(octets, bytes | bytearray) else ""


def _no_ldap() -> Unavailable:
    return Unavailable("directory-unavailable", "what answers there does not speak LDAP (RFC 4511)")
