"""What a private key promises, wherever it is kept."""

from __future__ import annotations

from typing import Final, Protocol

from pki.algorithms import KeyType, SignatureAlgorithm

# Signed and verified once whenever a key is opened, so that a public half that belongs to another
# key is found before anything is issued. It is no to-be-signed part of any object: those are DER.
CHECK_MESSAGE: Final = b"DigitalID: this signature only proves that the key answers"


class Signer(Protocol):
    """One private key that signs with one algorithm.

    ``uri`` names the key and holds no secret; ``public_key_info`` is its SubjectPublicKeyInfo in
    DER; ``algorithm`` is what ``sign`` makes, its ``identifier`` is what goes into the object.
    """

    @property
    def uri(self) -> str: ...

    @property
    def key_type(self) -> KeyType: ...

    @property
    def algorithm(self) -> SignatureAlgorithm: ...

    @property
    def public_key_info(self) -> bytes: ...

    async def sign(self, message: bytes) -> bytes:
        """The signature value as X.509 carries it (ECDSA: Ecdsa-Sig-Value in DER).

        ``message``: the to-be-signed octets, hashed here as the algorithm says. Errors:
        ``Unavailable("token-unavailable")`` while the token or its module is away,
        ``Rejected("key-closed")`` after ``close``.
        """

    async def sign_digest(self, digest: bytes) -> bytes:
        """The signature over a message that was hashed elsewhere, because it is too long to hold.

        ``digest``: its hash by ``algorithm.hash_name``. Errors: as ``sign``;
        ``Broken("no-digest")`` when the algorithm takes the whole message, or the size is wrong.
        """

    async def check(self) -> None:
        """Find out whether the key could sign now, by no signature (``CHECK_MESSAGE`` neither).

        Errors: ``Unavailable("token-unavailable")``; ``Rejected`` with ``no-such-key`` when the
        token is there without it, ``key-mismatch`` when another key has its name, ``key-closed``,
        and what a log-in refuses.
        """

    async def close(self) -> None:
        """Let go of the key; for a token, of its sessions."""


class KeyStore(Protocol):
    """Where new keys are made: a token, or a folder of encrypted files."""

    async def generate(self, label: str, key_type: KeyType) -> str:
        """Make a key that can never be read out, and return its URI.
        Errors: ``Rejected("key-exists")`` when the label is taken."""

    def named(self, label: str) -> str:
        """The URI under which ``open`` finds the key of this label, made or yet to be made."""

    async def open(self, uri: str, algorithm: SignatureAlgorithm | None = None) -> Signer:
        """The key that ``uri`` names; ``algorithm`` if not the usual one of its type.
        Errors: ``Rejected`` with ``bad-key-uri``, ``no-such-key``, ``key-type``,
        ``wrong-pin``, ``pin-locked``, ``key-extractable``, ``mechanism-missing`` (tokens),
        ``wrong-passphrase``, ``bad-key-file`` (files); ``Unavailable("token-unavailable")``."""

    async def close(self) -> None:
        """Close every key."""
