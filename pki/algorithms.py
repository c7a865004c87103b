"""Key types and signature algorithms: one table ties them to identifier, hash and mechanism.

RFC 4055 (RSA), RFC 5758 (ECDSA), RFC 8410 (Ed25519), RFC 9881 (ML-DSA).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa

from infra.errors import Rejected
from pki import der

PublicKey: TypeAlias = (
    rsa.RSAPublicKey
    | ec.EllipticCurvePublicKey
    | ed25519.Ed25519PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)


class Family(StrEnum):
    """Keys that share their mathematics, and so their signature algorithms."""

    RSA = "rsa"
    EC = "ec"
    ED25519 = "ed25519"
    ML_DSA = "ml-dsa"


class KeyType(StrEnum):
    """The keys that this CA makes and certifies."""

    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    P_256 = "p-256"
    P_384 = "p-384"
    P_521 = "p-521"
    ED25519 = "ed25519"
    ML_DSA_44 = "ml-dsa-44"
    ML_DSA_65 = "ml-dsa-65"
    ML_DSA_87 = "ml-dsa-87"

    @property
    def family(self) -> Family:
        return _FAMILIES[self]


_FAMILIES: Final = {
    KeyType.RSA_2048: Family.RSA,
    KeyType.RSA_3072: Family.RSA,
    KeyType.RSA_4096: Family.RSA,
    KeyType.P_256: Family.EC,
    KeyType.P_384: Family.EC,
    KeyType.P_521: Family.EC,
    KeyType.ED25519: Family.ED25519,
    KeyType.ML_DSA_44: Family.ML_DSA,
    KeyType.ML_DSA_65: Family.ML_DSA,
    KeyType.ML_DSA_87: Family.ML_DSA,
}


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """One way to sign.

    ``identifier``: the AlgorithmIdentifier in DER; ``key_types``: the keys it works with;
    ``hash_name``: as ``hashlib`` calls it, or None when the algorithm takes the whole message;
    ``mechanism``: the PKCS#11 mechanism, which is given the hash where there is one.
    """

    name: str
    oid: str
    identifier: bytes
    family: Family
    key_types: frozenset[KeyType]
    hash_name: str | None
    mechanism: str

    def prepare(self, message: bytes) -> bytes:
        """What the private key signs: the hash of ``message``, or the message itself."""
        if self.hash_name is None:
            return message
        return _DIGESTS[self.hash_name](message).digest()

    def __str__(self) -> str:
        return self.name


_DIGESTS: Final = {"sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}


def _identifier(oid: str, *parameters: bytes) -> bytes:
    return der.sequence(der.object_identifier(oid), *parameters)


_RSA_KEYS: Final = frozenset(key for key, family in _FAMILIES.items() if family is Family.RSA)
_EC_KEYS: Final = frozenset(key for key, family in _FAMILIES.items() if family is Family.EC)

_HASH_OIDS: Final = {
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
}
_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_MGF1: Final = "1.2.840.113549.1.1.8"
RSASSA_PSS: Final = "1.2.840.113549.1.1.10"


def _pss_identifier(hash_name: str, *null: bytes) -> bytes:
    """RSASSA-PSS-params with the salt as long as the hash (RFC 4055 §3.1)."""
    hash_identifier = _identifier(_HASH_OIDS[hash_name], *null)
    return _identifier(
        RSASSA_PSS,
        der.sequence(
            der.explicit(0, hash_identifier),
            der.explicit(1, _identifier(_MGF1, hash_identifier)),
            der.explicit(2, der.integer(_HASHES[hash_name].digest_size)),
        ),
    )


def _rsa(hash_name: str, oid: str) -> SignatureAlgorithm:
    return SignatureAlgorithm(
        f"{hash_name}-with-rsa",
        oid,
        _identifier(oid, der.NULL_VALUE),
        Family.RSA,
        _RSA_KEYS,
        hash_name,
        "CKM_RSA_PKCS",
    )


def _pss(hash_name: str) -> SignatureAlgorithm:
    return SignatureAlgorithm(
        f"rsa-pss-{hash_name}",
        RSASSA_PSS,
        _pss_identifier(hash_name, der.NULL_VALUE),
        Family.RSA,
        _RSA_KEYS,
        hash_name,
        "CKM_RSA_PKCS_PSS",
    )


def _ecdsa(hash_name: str, oid: str) -> SignatureAlgorithm:
    return SignatureAlgorithm(
        f"ecdsa-with-{hash_name}",
        oid,
        _identifier(oid),
        Family.EC,
        _EC_KEYS,
        hash_name,
        "CKM_ECDSA",
    )


def _whole(key_type: KeyType, oid: str, mechanism: str) -> SignatureAlgorithm:
    return SignatureAlgorithm(
        key_type.value,
        oid,
        _identifier(oid),
        key_type.family,
        frozenset({key_type}),
        None,
        mechanism,
    )


SIGNATURE_ALGORITHMS: Final[Mapping[str, SignatureAlgorithm]] = MappingProxyType(
    {
        algorithm.name: algorithm
        for algorithm in (
            _rsa("sha256", "1.2.840.113549.1.1.11"),
            _rsa("sha384", "1.2.840.113549.1.1.12"),
            _rsa("sha512", "1.2.840.113549.1.1.13"),
            _pss("sha256"),
            _pss("sha384"),
            _pss("sha512"),
            _ecdsa("sha256", "1.2.840.10045.4.3.2"),
            _ecdsa("sha384", "1.2.840.10045.4.3.3"),
            _ecdsa("sha512", "1.2.840.10045.4.3.4"),
            _whole(KeyType.ED25519, "1.3.101.112", "CKM_EDDSA"),
            _whole(KeyType.ML_DSA_44, "2.16.840.1.101.3.4.3.17", "CKM_ML_DSA"),
            _whole(KeyType.ML_DSA_65, "2.16.840.1.101.3.4.3.18", "CKM_ML_DSA"),
            _whole(KeyType.ML_DSA_87, "2.16.840.1.101.3.4.3.19", "CKM_ML_DSA"),
        )
    }
)

_USUAL: Final = {
    KeyType.RSA_2048: "sha256-with-rsa",
    KeyType.RSA_3072: "sha256-with-rsa",
    KeyType.RSA_4096: "sha256-with-rsa",
    KeyType.P_256: "ecdsa-with-sha256",
    KeyType.P_384: "ecdsa-with-sha384",
    KeyType.P_521: "ecdsa-with-sha512",
    KeyType.ED25519: "ed25519",
    KeyType.ML_DSA_44: "ml-dsa-44",
    KeyType.ML_DSA_65: "ml-dsa-65",
    KeyType.ML_DSA_87: "ml-dsa-87",
}

# RFC 4055 §2.1 and §5: absent parameters are to be accepted where NULL is to be written.
_BY_IDENTIFIER: Final = {
    **{_identifier(a.oid): a for a in SIGNATURE_ALGORITHMS.values() if a.oid != RSASSA_PSS},
    **{_pss_identifier(name): SIGNATURE_ALGORITHMS[f"rsa-pss-{name}"] for name in _HASH_OIDS},
    **{a.identifier: a for a in SIGNATURE_ALGORITHMS.values()},
}


def usual_algorithm(key_type: KeyType) -> SignatureAlgorithm:
    """What keys of this type sign with unless told otherwise."""
    return SIGNATURE_ALGORITHMS[_USUAL[key_type]]


def algorithm_for(key_type: KeyType, algorithm: SignatureAlgorithm | None) -> SignatureAlgorithm:
    """``algorithm``, or the usual one of this key type. Errors: ``key-type`` if they do not fit."""
    if algorithm is None:
        return usual_algorithm(key_type)
    if key_type not in algorithm.key_types:
        raise Rejected("key-type", f"a key of type {key_type} cannot sign with {algorithm}")
    return algorithm


def algorithm_of(identifier: bytes) -> SignatureAlgorithm:
    """The algorithm that an AlgorithmIdentifier in DER names. Errors: ``unknown-algorithm``."""
    algorithm = _BY_IDENTIFIER.get(identifier)
    if algorithm is None:
        raise Rejected(
            "unknown-algorithm",
            "the signature algorithm is unknown, weak or has parameters that are not allowed; "
            f"use one of {', '.join(SIGNATURE_ALGORITHMS)}",
        )
    return algorithm


_MAX_PUBLIC_KEY: Final = 4096  # octets; an ML-DSA-87 key with its identifier takes 2,614
_RSA_IDENTIFIER: Final = _identifier("1.2.840.113549.1.1.1", der.NULL_VALUE)
_RSA_SIZES: Final = {2048: KeyType.RSA_2048, 3072: KeyType.RSA_3072, 4096: KeyType.RSA_4096}
_EC_PUBLIC_KEY: Final = "1.2.840.10045.2.1"

# AlgorithmIdentifier of the key → type, octets of the key in the BIT STRING.
_KEY_IDENTIFIERS: Final = {
    _identifier(_EC_PUBLIC_KEY, der.object_identifier("1.2.840.10045.3.1.7")): (KeyType.P_256, 65),
    _identifier(_EC_PUBLIC_KEY, der.object_identifier("1.3.132.0.34")): (KeyType.P_384, 97),
    _identifier(_EC_PUBLIC_KEY, der.object_identifier("1.3.132.0.35")): (KeyType.P_521, 133),
    SIGNATURE_ALGORITHMS["ed25519"].identifier: (KeyType.ED25519, 32),
    SIGNATURE_ALGORITHMS["ml-dsa-44"].identifier: (KeyType.ML_DSA_44, 1312),
    SIGNATURE_ALGORITHMS["ml-dsa-65"].identifier: (KeyType.ML_DSA_65, 1952),
    SIGNATURE_ALGORITHMS["ml-dsa-87"].identifier: (KeyType.ML_DSA_87, 2592),
}


def key_type_of(public_key_info: bytes) -> KeyType:
    """The type of the key in a SubjectPublicKeyInfo, by its form alone (RFC 5280 §4.1.2.7).

    Whether a point lies on its curve is for ``load_public_key``. Errors: ``key-type``,
    ``bad-der``.
    """
    if len(public_key_info) > _MAX_PUBLIC_KEY:
        raise _key_type("a public key of this size is not allowed")
    inside = der.one(public_key_info, der.SEQUENCE)
    identifier = inside.raw(der.SEQUENCE)
    key, unused = inside.bit_string()
    inside.done()
    if unused:
        raise Rejected("bad-der", "a public key does not fill its octets")
    if identifier == _RSA_IDENTIFIER:
        return _rsa_key_type(key)
    found = _KEY_IDENTIFIERS.get(identifier)
    if found is None:
        raise _key_type("the key's algorithm or curve is not allowed")
    key_type, size = found
    # SEC 1 §2.3.3: 4 says that a point is not compressed (RFC 5480 §2.2).
    if len(key) != size or (key_type.family is Family.EC and key[0] != 4):
        raise _key_type(f"a public key of type {key_type} takes {size} octets, not compressed")
    return key_type


def _rsa_key_type(key: bytes) -> KeyType:
    numbers = der.one(key, der.SEQUENCE)
    modulus, exponent = numbers.integer(), numbers.integer()
    numbers.done()
    key_type = _RSA_SIZES.get(modulus.bit_length())
    if key_type is None or modulus < 0 or exponent < 0:
        raise _key_type(f"an RSA modulus of {modulus.bit_length()} bits is not allowed")
    return key_type


def public_key_info_of(key_type: KeyType, key: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a key; ``key``: what its BIT STRING holds."""
    if key_type.family is Family.RSA:
        return der.sequence(_RSA_IDENTIFIER, der.bit_string(key))
    identifier = next(i for i, (found, _) in _KEY_IDENTIFIERS.items() if found is key_type)
    return der.sequence(identifier, der.bit_string(key))


def digest_info(hash_name: str) -> bytes:
    """DigestInfo without the digest that follows (RFC 8017 §9.2)."""
    digest = der.octet_string(bytes(_HASHES[hash_name].digest_size))
    info = der.sequence(_identifier(_HASH_OIDS[hash_name], der.NULL_VALUE), digest)
    return info.removesuffix(bytes(_HASHES[hash_name].digest_size))


def _key_type(why: str) -> Rejected:
    return Rejected("key-type", f"{why}; use one of {', '.join(KeyType)}")


@lru_cache(maxsize=256)
def load_public_key(public_key_info: bytes) -> PublicKey:
    """The key in a SubjectPublicKeyInfo, checked to be one (a point on its curve, say).

    Errors: ``key-type``, ``bad-der``, ``bad-public-key``.
    """
    key_type_of(public_key_info)
    try:
        key = serialization.load_der_public_key(public_key_info)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Rejected("bad-public-key", "the public key is not valid for its type") from error
    assert isinstance(key, PublicKey)  # noqa: S101 - key_type_of lets no other through
    return key


def scheme(algorithm: SignatureAlgorithm) -> tuple[Any, ...]:
    """What cryptography's ``sign`` and ``verify`` take after the message (and signature)."""
    return _SCHEMES[algorithm.name]


def _scheme(algorithm: SignatureAlgorithm) -> tuple[Any, ...]:
    if algorithm.hash_name is None:
        return ()
    chosen = _HASHES[algorithm.hash_name]
    if algorithm.family is Family.EC:
        return (ec.ECDSA(chosen),)
    if algorithm.oid == RSASSA_PSS:
        return (padding.PSS(padding.MGF1(chosen), chosen.digest_size), chosen)
    return (padding.PKCS1v15(), chosen)


_SCHEMES: Final = {name: _scheme(algorithm) for name, algorithm in SIGNATURE_ALGORITHMS.items()}


def verify(
    algorithm: SignatureAlgorithm, public_key_info: bytes, signature: bytes, message: bytes
) -> None:
    """Check ``signature`` over ``message``.

    Errors: ``bad-signature``, also when the key cannot sign with this algorithm; and those of
    ``load_public_key``.
    """
    if key_type_of(public_key_info) not in algorithm.key_types:
        raise Rejected("bad-signature", f"the key is not of a type that signs with {algorithm}")
    key: Any = load_public_key(public_key_info)
    try:
        key.verify(signature, message, *_SCHEMES[algorithm.name])
    except InvalidSignature as error:
        raise Rejected(
            "bad-signature", f"the {algorithm} signature is not by this key over these octets"
        ) from error
