"""What goes between a ``Pkcs11KeyStore`` and its token process: MessagePack arrays."""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from infra import framing


class Start(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Load ``module``, find the token that a ``pkcs11:`` URI names and log in.

    ``sessions``: how many may sign at the same time.
    """

    id: int
    module: str
    token: str
    pin: bytes
    sessions: int

    def __repr__(self) -> str:
        return f"Start({self.module!r}, {self.token!r})"


class OpenKey(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Find, check and number a private key."""

    id: int
    uri: str
    algorithm: str | None


class FindKey(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """See that the token answers and has a private key, without a signature."""

    id: int
    uri: str


class GenerateKey(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Make a key pair."""

    id: int
    label: str
    key_type: str


class SignMessage(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Sign with the key of this number; ``data``: what ``SignatureAlgorithm.prepare`` gave."""

    id: int
    key: int
    data: bytes


class Started(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The user is logged in."""

    id: int


class KeyOpened(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """``key`` is its number in this process."""

    id: int
    key: int
    public_key_info: bytes
    algorithm: str


class KeyFound(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """It is there, and this is its public half."""

    id: int
    public_key_info: bytes


class KeyMade(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """``uri`` names the new key."""

    id: int
    uri: str


class Signed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """``signature``: as X.509 carries it."""

    id: int
    signature: bytes


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """``kind``: ``rejected``, ``unavailable`` or ``broken``."""

    id: int
    kind: str
    code: str
    detail: str


Request: TypeAlias = Start | OpenKey | FindKey | GenerateKey | SignMessage
Answer: TypeAlias = Started | KeyOpened | KeyFound | KeyMade | Signed | Failed

_ENCODER: Final = msgspec.msgpack.Encoder()


def frame(message: Request | Answer) -> bytes:
    """A message as it goes over the socket."""
    return framing.frame(_ENCODER.encode(message))
