"""Keys that exist to try things out: what they sign is looked at and forgotten."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives import serialization

from pki.algorithms import KeyType, SignatureAlgorithm, scheme
from pki.signer.file import _GENERATE


class Throwaway:
    """A private key in memory, never kept and certified by nobody."""

    def __init__(self, key: Any, key_type: KeyType, algorithm: SignatureAlgorithm) -> None:
        self.private_key = key
        self.key_type = key_type
        self.algorithm = algorithm
        self.public_key_info: bytes = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @classmethod
    @lru_cache(maxsize=32)
    def of(cls, key_type: KeyType, algorithm: SignatureAlgorithm) -> Throwaway:
        """The throwaway key of this process for this kind; RSA takes its time at first."""
        return cls(_GENERATE[key_type](), key_type, algorithm)

    def sign(self, message: bytes) -> bytes:
        """The signature value as X.509 carries it."""
        signature: bytes = self.private_key.sign(message, *scheme(self.algorithm))
        return signature
