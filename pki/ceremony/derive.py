"""What the shared secret opens: each use has a value of its own (HKDF, RFC 5869)."""

from __future__ import annotations

import base64
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_CONTEXT: Final = b"DigitalID ceremony: "


def user_pin(secret: bytes | bytearray) -> bytes:
    """The token's user PIN, or the passphrase of keys in files: 32 characters, 160 bits."""
    return base64.b32encode(_derive(secret, b"user PIN", 20))


def so_pin(secret: bytes | bytearray) -> bytes:
    """The PIN of the token's security officer."""
    return base64.b32encode(_derive(secret, b"security officer PIN", 20))


def wrapping_key(secret: bytes | bytearray) -> bytes:
    """The AES-256 key that backups are wrapped under (RFC 5649)."""
    return _derive(secret, b"wrapping key", 32)


def _derive(secret: bytes | bytearray, use: bytes, size: int) -> bytes:
    return HKDF(SHA256(), size, None, _CONTEXT + use).derive(bytes(secret))
