"""The chain that comes in with a CA's certificate holds from end to end, or is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from infra.errors import Rejected
from pki.offline import _checked

NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "ca", "other", "leaf")}


def certificate(
    name: str, issuer: str, *, key: str = "", signer: str = "", ca: bool = True, days: int = 365
) -> bytes:
    start = NOW - timedelta(days=10)
    public = KEYS[key or name].public_key()
    builder = x509.CertificateBuilder(
        x509.Name.from_rfc4514_string(f"CN={issuer}"),
        x509.Name.from_rfc4514_string(f"CN={name}"),
        public,
        x509.random_serial_number(),
        start,
        start + timedelta(days=days),
    )
    for extension, critical in (
        (x509.BasicConstraints(ca, None), True),
        (x509.SubjectKeyIdentifier.from_public_key(public), False),
    ):
        builder = builder.add_extension(extension, critical)
    signed = builder.sign(KEYS[signer or issuer], hashes.SHA256())
    return signed.public_bytes(Encoding.DER)


ROOT, CA = certificate("root", "root"), certificate("ca", "root")
LEAF = certificate("leaf", "ca", ca=False)


@pytest.mark.parametrize("chain", [[CA, ROOT], [LEAF, CA, ROOT]])
def test_a_chain_that_holds(chain: list[bytes]) -> None:
    assert [each.der for each in _checked(chain, NOW)] == chain


@pytest.mark.parametrize(
    "chain, code",
    [
        ([], "bad-chain"),
        ([ROOT], "bad-chain"),
        ([CA], "bad-chain"),
        ([ROOT, CA], "bad-chain"),
        ([LEAF, ROOT], "bad-chain"),
        ([LEAF, CA], "bad-chain"),
        ([ROOT, ROOT], "bad-chain"),
        ([CA, ROOT, ROOT], "bad-chain"),
        ([CA] * 9, "bad-chain"),
        ([certificate("ca", "root", signer="other"), ROOT], "bad-chain"),
        ([CA, certificate("root", "root", key="other", signer="other")], "bad-chain"),
        ([certificate("other", "leaf", signer="leaf"), LEAF, CA, ROOT], "bad-chain"),
        ([certificate("ca", "root", days=5), ROOT], "not-valid-now"),
        ([CA, certificate("root", "root", days=5)], "not-valid-now"),
        ([b"\x30\x00", ROOT], "bad-der"),
    ],
)
def test_a_chain_that_does_not(chain: list[bytes], code: str) -> None:
    with pytest.raises(Rejected) as caught:
        _checked(chain, NOW)
    assert caught.value.code == code
