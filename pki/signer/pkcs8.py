"""EncryptedPrivateKeyInfo (RFC 5958 §3) with PBES2, scrypt and AES-256-CBC (RFC 8018, RFC 7914).

The form that ``openssl pkcs8 -topk8 -scrypt -v2 aes-256-cbc`` writes and every openssl reads.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from infra.errors import Rejected, Unavailable
from pki import der

MAX_FILE: Final = 16384  # octets; an encrypted RSA-4096 key takes 3,400 as PEM

_PBES2: Final = "1.2.840.113549.1.5.13"
_SCRYPT: Final = "1.3.6.1.4.1.11591.4.11"
_AES_256_CBC: Final = "2.16.840.1.101.3.4.1.42"
_KEY_SIZE: Final = 32
_BLOCK: Final = 16

# What openssl writes by itself takes 16 MiB. The upper bounds keep a file from exhausting the
# machine: some 4 s.
_MIN_MEMORY: Final = 16 << 20
_MAX_MEMORY: Final = 512 << 20
_MAX_WORK: Final = 1 << 30

_BEGIN: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_END: Final = b"-----END ENCRYPTED PRIVATE KEY-----"


@dataclass(frozen=True, slots=True)
class Derivation:
    """scrypt's parameters; it takes 128 × ``cost`` × ``block_size`` octets of memory.

    The defaults take 30 MiB, the most that openssl opens (it stops at 32), and ``parallel`` makes
    up for it: as much work as cost 2^17, block size 8 (128 MiB).
    """

    salt: bytes
    cost: int = 1 << 14
    block_size: int = 15
    parallel: int = 4

    def derive(self, passphrase: bytes) -> bytes:
        """The key-encryption key, 32 octets; takes about half a second."""
        try:
            return Scrypt(
                salt=self.salt,
                length=_KEY_SIZE,
                n=self.cost,
                r=self.block_size,
                p=self.parallel,
            ).derive(passphrase)
        except MemoryError as error:
            raise Unavailable(
                "no-memory",
                f"opening a key takes {128 * self.cost * self.block_size >> 20} MiB of memory",
            ) from error


@dataclass(frozen=True, slots=True)
class EncryptedKey:
    """An EncryptedPrivateKeyInfo, taken apart; ``iv`` takes 16 octets."""

    derivation: Derivation
    iv: bytes
    ciphertext: bytes

    def decrypt(self, key_encryption_key: bytes) -> bytes:
        """The PrivateKeyInfo in DER. Errors: ``wrong-passphrase``."""
        decryptor = Cipher(algorithms.AES256(key_encryption_key), modes.CBC(self.iv)).decryptor()
        unpadder = padding.PKCS7(8 * _BLOCK).unpadder()
        try:
            padded = decryptor.update(self.ciphertext) + decryptor.finalize()
            plain = unpadder.update(padded) + unpadder.finalize()
            # One wrong key in 256 leaves a padding that looks right; it does not leave a SEQUENCE.
            der.one(plain, der.SEQUENCE)
        except (ValueError, Rejected) as error:
            raise Rejected(
                "wrong-passphrase", "the passphrase does not open the key, or its file is damaged"
            ) from error
        return plain


def encrypt(
    private_key_info: bytes, derivation: Derivation, key_encryption_key: bytes, iv: bytes
) -> bytes:
    """PEM of an encrypted key; ``iv``: 16 random octets, never used before."""
    padder = padding.PKCS7(8 * _BLOCK).padder()
    encryptor = Cipher(algorithms.AES256(key_encryption_key), modes.CBC(iv)).encryptor()
    padded = padder.update(private_key_info) + padder.finalize()
    scrypt = der.sequence(
        der.octet_string(derivation.salt),
        der.integer(derivation.cost),
        der.integer(derivation.block_size),
        der.integer(derivation.parallel),
        der.integer(_KEY_SIZE),
    )
    encoded = der.sequence(
        der.sequence(
            der.object_identifier(_PBES2),
            der.sequence(
                der.sequence(der.object_identifier(_SCRYPT), scrypt),
                der.sequence(der.object_identifier(_AES_256_CBC), der.octet_string(iv)),
            ),
        ),
        der.octet_string(encryptor.update(padded) + encryptor.finalize()),
    )
    text = base64.b64encode(encoded)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join((_BEGIN, *lines, _END, b""))


def parse(pem: bytes) -> EncryptedKey:
    """An encrypted key from PEM. Errors: ``bad-key-file``, ``weak-key-encryption``."""
    if len(pem) > MAX_FILE:
        raise _bad(f"it is larger than {MAX_FILE} octets")
    before, begin, rest = pem.partition(_BEGIN)
    text, end, after = rest.partition(_END)
    if not begin or not end or before.strip() or after.strip():
        raise _bad("it is not one PEM block of an ENCRYPTED PRIVATE KEY")
    try:
        encoded = base64.b64decode(b"".join(text.split()), validate=True)
        return _parse(encoded)
    except binascii.Error as error:
        raise _bad("its base64 is damaged") from error
    except Rejected as error:
        raise _bad(error.detail) if error.code == "bad-der" else error from error


def _parse(encoded: bytes) -> EncryptedKey:
    outer = der.one(encoded, der.SEQUENCE)
    algorithm = outer.enter(der.SEQUENCE)
    ciphertext = outer.content(der.OCTET_STRING)
    outer.done()
    if algorithm.object_identifier() != _PBES2:
        raise _weak()
    pbes2 = algorithm.enter(der.SEQUENCE)
    algorithm.done()
    function, scheme = pbes2.enter(der.SEQUENCE), pbes2.enter(der.SEQUENCE)
    pbes2.done()
    if function.object_identifier() != _SCRYPT or scheme.object_identifier() != _AES_256_CBC:
        raise _weak()
    iv = scheme.content(der.OCTET_STRING)
    scheme.done()
    scrypt = function.enter(der.SEQUENCE)
    function.done()
    derivation = Derivation(
        scrypt.content(der.OCTET_STRING), scrypt.integer(), scrypt.integer(), scrypt.integer()
    )
    if scrypt and scrypt.integer() != _KEY_SIZE:  # keyLength is optional (RFC 7914 §7.1)
        raise _bad("its key length is not that of AES-256")
    scrypt.done()
    if len(iv) != _BLOCK or not ciphertext or len(ciphertext) % _BLOCK:
        raise _bad("its ciphertext is not whole blocks of AES")
    _check_cost(derivation)
    return EncryptedKey(derivation, iv, ciphertext)


def _check_cost(derivation: Derivation) -> None:
    cost, block_size = derivation.cost, derivation.block_size
    if cost < 2 or cost & (cost - 1) or block_size < 1:
        raise _bad("its scrypt parameters are not valid (RFC 7914 §2)")
    if not (
        _MIN_MEMORY <= 128 * cost * block_size <= _MAX_MEMORY
        and 0 < 128 * cost * block_size * derivation.parallel <= _MAX_WORK
        and len(derivation.salt) >= 8
    ):
        raise _weak()


def _weak() -> Rejected:
    return Rejected(
        "weak-key-encryption",
        "a key file is encrypted with PBES2, scrypt of 16 to 512 MiB and AES-256-CBC; convert it: "
        "openssl pkcs8 -topk8 -scrypt -scrypt_p 10 -v2 aes-256-cbc -in OLD -out NEW",
    )


def _bad(why: str) -> Rejected:
    return Rejected("bad-key-file", f"the key file cannot be read: {why}")
