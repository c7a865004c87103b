"""Frames of the status feed as they go over the wire: found, and believed when they are signed.

After the length and the body comes the signature over both: its length (2 octets), then itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from infra.errors import Rejected
from ocsp.feed import LENGTH, MAX_FRAME, Frame, parse
from pki.algorithms import KeyType, SignatureAlgorithm, key_type_of, usual_algorithm, verify

FEED_PATH: Final = "/api/v1/status-feed"
RESPONDER_PATH: Final = "/api/v1/authorities/{ca}/responder"
"""Where a follower gets the certificate of its OCSP responder."""

MEDIA_TYPE: Final = "application/vnd.digitalid.status-feed"

_SIGNATURE: Final = struct.Struct(">H")
_MAX_SIGNATURE: Final = 128  # octets; P-256 takes 72, Ed25519 64
_KEY_TYPES: Final = (KeyType.P_256, KeyType.ED25519)


@dataclass(frozen=True, slots=True)
class FeedKey:
    """The key by which a feed is known."""

    public_key_info: bytes
    algorithm: SignatureAlgorithm

    @classmethod
    def of(cls, public_key_info: bytes) -> Self:
        """``public_key_info``: SubjectPublicKeyInfo in DER, P-256 or Ed25519.
        Errors: ``feed-key``."""
        try:
            key_type = key_type_of(public_key_info)
        except Rejected as rejected:
            raise Rejected("feed-key", f"this is no key of a feed: {rejected.detail}") from rejected
        if key_type not in _KEY_TYPES:
            raise Rejected("feed-key", f"a feed is signed by p-256 or ed25519, not by {key_type}")
        return cls(public_key_info, usual_algorithm(key_type))


@dataclass(frozen=True, slots=True)
class Signed:
    """A frame as it came, not yet believed; ``message``: what the signature is over."""

    message: bytes
    signature: bytes


def seal(message: bytes, signature: bytes) -> bytes:
    """A frame as it is sent; ``message``: from ``encode``, and ``signature`` over it."""
    return message + _SIGNATURE.pack(len(signature)) + signature


class Frames:
    """Takes octets as they come and gives whole frames, unverified; holds at most one in part."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Signed]:
        """The frames that are whole with ``data``. Errors: ``feed-too-large``."""
        buffer = self._buffer
        buffer += data
        position, end = 0, len(buffer)
        while end - position >= LENGTH.size:
            [size] = LENGTH.unpack_from(buffer, position)
            if size > MAX_FRAME:
                raise Rejected("feed-too-large", f"a frame takes at most {MAX_FRAME} octets")
            message_end = position + LENGTH.size + size
            if message_end + _SIGNATURE.size > end:
                break
            [signature_size] = _SIGNATURE.unpack_from(buffer, message_end)
            if signature_size > _MAX_SIGNATURE:
                raise Rejected(
                    "feed-too-large", f"a signature takes at most {_MAX_SIGNATURE} octets"
                )
            start = message_end + _SIGNATURE.size
            if start + signature_size > end:
                break
            yield Signed(
                bytes(buffer[position:message_end]), bytes(buffer[start : start + signature_size])
            )
            position = start + signature_size
        del buffer[:position]


def open_frame(signed: Signed, key: FeedKey, name: str) -> Frame:
    """The frame, once its signature was found to be the feed's.

    Errors: ``bad-signature``, ``feed-name`` for a frame of another feed, ``feed-malformed``.
    """
    verify(key.algorithm, key.public_key_info, signed.signature, signed.message)
    return parse(signed.message, name)
