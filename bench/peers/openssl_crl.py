"""``openssl ca -gencrl``: the whole CRL anew from a text file."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from bench.peers.crl_entries import ENDS, entries
from bench.peers.measured import Measured, measured
from pki.serial import format_serial
from pki.status import RevocationReason

_CONFIGURATION: Final = """\
[ca]
default_ca = bench
[bench]
database = {folder}/index.txt
certificate = {folder}/ca.pem
private_key = {folder}/ca.key
default_md = sha256
default_crl_days = 1
crlnumber = {folder}/crlnumber
crl_extensions = crl
[crl]
authorityKeyIdentifier = keyid
"""


def gencrl(folder: Path, count: int) -> Measured:
    """Generate one of so many entries, to ``crl.pem`` in ``folder``."""
    folder.mkdir()
    (folder / "ca.cnf").write_text(_CONFIGURATION.format(folder=folder))
    (folder / "crlnumber").write_text("01\n")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-subj", "/CN=Benchmark CA", "-keyout", str(folder / "ca.key"),
         "-out", str(folder / "ca.pem")],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    with (folder / "index.txt").open("w") as index:
        for entry in entries(count):
            why = "" if entry.reason is RevocationReason.unspecified else f",{entry.reason.name}"
            serial = format_serial(entry.serial).upper()
            index.write(
                f"R\t{ENDS:%y%m%d%H%M%SZ}\t{entry.at:%y%m%d%H%M%SZ}{why}\t{serial}"
                f"\tunknown\t/CN={serial[-8:]}\n"
            )
    return measured(
        "openssl", "ca", "-gencrl", "-config", folder / "ca.cnf", "-out", folder / "crl.pem"
    )
