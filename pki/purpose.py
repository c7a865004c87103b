"""What a certificate may be used for (RFC 5280 §4.2.1.3 and §4.2.1.12)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from asn1crypto import x509


class Purpose(StrEnum):
    """What a certificate is going to be used for."""

    ANY = "any"
    TLS_SERVER = "tls-server"
    TLS_CLIENT = "tls-client"
    EMAIL = "email"
    CODE_SIGNING = "code-signing"
    TIME_STAMPING = "time-stamping"
    OCSP_SIGNING = "ocsp-signing"
    SIGNATURE = "signature"
    ENCRYPTION = "encryption"


@dataclass(frozen=True, slots=True)
class _Usage:
    """``key_usage``: one of these is needed; ``stated``: ``extended`` must be there by name."""

    key_usage: frozenset[str]
    extended: str | None = None
    stated: bool = False


_SIGNING: Final = frozenset({"digital_signature", "non_repudiation"})
_KEYS: Final = frozenset({"key_encipherment", "key_agreement"})
_USAGES: Final = {
    Purpose.TLS_SERVER: _Usage(_KEYS | {"digital_signature"}, "server_auth"),
    Purpose.TLS_CLIENT: _Usage(frozenset({"digital_signature", "key_agreement"}), "client_auth"),
    Purpose.EMAIL: _Usage(_SIGNING | _KEYS, "email_protection"),
    Purpose.CODE_SIGNING: _Usage(frozenset({"digital_signature"}), "code_signing", stated=True),
    Purpose.TIME_STAMPING: _Usage(_SIGNING, "time_stamping", stated=True),  # RFC 3161 §2.3
    Purpose.OCSP_SIGNING: _Usage(_SIGNING, "ocsp_signing", stated=True),  # RFC 6960 §4.2.2.2
    Purpose.SIGNATURE: _Usage(_SIGNING),
    Purpose.ENCRYPTION: _Usage(_KEYS | {"data_encipherment"}),
}


def why_not_for(purpose: Purpose, certificate: x509.Certificate) -> str | None:
    """Why ``certificate`` may not be used for ``purpose``, or None if it may; an extension that
    is absent restricts nothing, except where a purpose must be stated."""
    if purpose is Purpose.ANY:
        return None
    usage = _USAGES[purpose]
    key_usage = certificate.key_usage_value
    if key_usage is not None and not usage.key_usage & key_usage.native:
        return f"its key usage does not allow {purpose}"
    if usage.extended is not None:
        stated = certificate.extended_key_usage_value
        extended = {"any_extended_key_usage"} if stated is None else set(stated.native)
        general = "any_extended_key_usage" in extended and not usage.stated
        if usage.extended not in extended and not general:
            return f"its extended key usage does not allow {purpose}"
    return None
