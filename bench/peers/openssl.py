"""``openssl ca``: one process a certificate, its database a text file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

from bench.peers.process import output

_CONFIGURATION: Final = """\
[ca]
default_ca = bench
[bench]
database = {folder}/index.txt
new_certs_dir = {folder}/issued
certificate = {ca}
private_key = {key}
rand_serial = yes
default_days = 1095
default_md = sha256
policy = any
unique_subject = no
x509_extensions = client
[any]
countryName = optional
commonName = supplied
[client]
authorityKeyIdentifier = keyid
subjectKeyIdentifier = hash
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
basicConstraints = critical, CA:FALSE
certificatePolicies = 2.999.1.1.1
crlDistributionPoints = URI:http://127.0.0.1:8081/crl/issuing.crl
authorityInfoAccess = OCSP;URI:http://127.0.0.1:8081/ocsp
"""


@dataclass(frozen=True, slots=True)
class OpensslCa:
    """A CA of 8 extensions in a folder of its own."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, ca: Path, key: Path) -> OpensslCa:
        """Write its configuration and its empty database."""
        (folder / "issued").mkdir(parents=True)
        (folder / "index.txt").touch()
        (folder / "ca.cnf").write_text(_CONFIGURATION.format(folder=folder, ca=ca, key=key))
        return cls(folder)

    async def rate(self, pems: Sequence[str]) -> float:
        """Certificates a second, one after the other."""
        requests = []
        for number, pem in enumerate(pems):
            requests.append(self.folder / f"{number}.csr")
            requests[-1].write_text(pem)
        started = perf_counter()
        for request in requests:
            await output(
                *("openssl", "ca", "-batch", "-notext", "-config", self.folder / "ca.cnf"),
                *("-in", request, "-out", request.with_suffix(".pem")),
                within=30.0,
            )
        taken = perf_counter() - started
        for request in requests:
            if "BEGIN CERTIFICATE" not in request.with_suffix(".pem").read_text():
                raise RuntimeError(f"openssl ca made nothing of {request}")
            request.with_suffix(".pem").unlink()
        return len(pems) / taken
