"""A throw-away SoftHSM token and a throw-away key folder."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pki.signer import softhsm
from pki.signer.pkcs11 import Pkcs11KeyStore
from pki.signer.uri import Pkcs11Uri

LABEL = "digitalid-test"
SO_PIN = "sec-87654321"
PIN = "user-1234"


def need(command: str, package: str) -> str:
    """Where ``command`` is, or a skip that says how to install it."""
    path = shutil.which(command)
    if path is None:
        pytest.skip(f"{command} is missing: apt-get install {package}")
    return path


@dataclass
class SoftToken:
    """A SoftHSM token in a folder of its own."""

    folder: Path
    module: Path = field(init=False)

    def __post_init__(self) -> None:
        module = softhsm.find_module()
        if module is None:
            pytest.skip("SoftHSM is missing: apt-get install softhsm2")
        self.module = module
        softhsm.init_token(module, self.folder, LABEL, SO_PIN.encode(), PIN.encode())

    @property
    def environment(self) -> Mapping[str, str]:
        return softhsm.environment(self.folder)

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens"

    def store(
        self, *, pin: str = PIN, label: str = LABEL, sessions: int = 4, patience: float = 30.0
    ) -> Pkcs11KeyStore:
        return Pkcs11KeyStore(
            self.module,
            Pkcs11Uri(token=label),
            pin.encode,
            sessions=sessions,
            environment=self.environment,
            patience=patience,
        )

    def tool(self, *arguments: str, pin: str = PIN) -> str:
        """What Debian's pkcs11-tool says of the same token."""
        command = need("pkcs11-tool", "opensc")
        finished = subprocess.run(
            [command, "--module", str(self.module), "--token-label", LABEL,
             "--login", "--pin", pin, *arguments],
            env={"PATH": "/usr/bin:/bin", **self.environment},
            capture_output=True,
            check=True,
            timeout=60,
        )  # fmt: skip
        return finished.stdout.decode()


def openssl(*arguments: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run openssl; the caller looks at its exit status."""
    return subprocess.run(
        [need("openssl", "openssl"), *arguments],
        input=data, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
