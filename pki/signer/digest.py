"""Signatures over a hash that was computed elsewhere, for messages that are too long to hold."""

from __future__ import annotations

import hashlib
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from infra.errors import Broken, Rejected
from pki.algorithms import Family, SignatureAlgorithm, key_type_of, load_public_key, scheme


def check_digest(algorithm: SignatureAlgorithm, digest: bytes) -> None:
    """Refuse what is no hash that ``algorithm`` signs. Errors: ``Broken("no-digest")``."""
    name = algorithm.hash_name
    if name is None or len(digest) != hashlib.new(name).digest_size:
        raise Broken(
            "no-digest", f"{algorithm} does not sign a hash of {len(digest)} octets by itself"
        )


def digest_scheme(algorithm: SignatureAlgorithm, digest: bytes) -> tuple[Any, ...]:
    """What cryptography's ``sign`` and ``verify`` take after ``digest`` in the message's place.

    Errors: ``Broken("no-digest")``.
    """
    check_digest(algorithm, digest)
    usual = scheme(algorithm)
    chosen: hashes.HashAlgorithm
    if algorithm.family is Family.EC:
        chosen = usual[0].algorithm
        return (ec.ECDSA(utils.Prehashed(chosen)),)
    padding, chosen = usual
    return (padding, utils.Prehashed(chosen))


def verify_digest(
    algorithm: SignatureAlgorithm, public_key_info: bytes, signature: bytes, digest: bytes
) -> None:
    """``pki.algorithms.verify`` for a message of which ``digest`` is the hash.

    Errors: ``bad-signature``, ``Broken("no-digest")``, those of ``load_public_key``.
    """
    if key_type_of(public_key_info) not in algorithm.key_types:
        raise Rejected("bad-signature", f"the key is not of a type that signs with {algorithm}")
    key: Any = load_public_key(public_key_info)
    try:
        key.verify(signature, digest, *digest_scheme(algorithm, digest))
    except InvalidSignature as error:
        raise Rejected(
            "bad-signature", f"the {algorithm} signature is not by this key over this hash"
        ) from error
