"""cryptography's CertificateRevocationListBuilder, bare: entries to signed octets.

Run as a program with the number of entries; prints seconds and octets.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from time import perf_counter

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.peers.crl_entries import NOW, entries
from pki.status import RevocationReason

_FLAGS = {flag.value: flag for flag in x509.ReasonFlags}


def main(count: int) -> None:
    """Build it once."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Benchmark CA")])
    listed = list(entries(count))
    started = perf_counter()
    revoked = []
    for entry in listed:
        one = x509.RevokedCertificateBuilder(entry.serial, entry.at)
        if entry.reason is not RevocationReason.unspecified:
            one = one.add_extension(x509.CRLReason(_FLAGS[entry.reason.name]), critical=False)
        revoked.append(one.build())
    builder = x509.CertificateRevocationListBuilder(
        name, NOW, NOW + timedelta(days=1), revoked_certificates=revoked
    )
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    ).add_extension(x509.CRLNumber(1), critical=False)
    octets = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    print(perf_counter() - started, len(octets))


if __name__ == "__main__":
    main(int(sys.argv[1]))
