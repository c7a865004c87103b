"""``cfssl serve``: its /sign with a CA key in a file and no database."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.peers.process import free_port, listening, program

_SIGNING: Final[dict[str, Any]] = {
    "expiry": "26280h",
    "usages": ["digital signature", "client auth"],
    "crl_url": "http://127.0.0.1:8081/crl/issuing.crl",
    "ocsp_url": "http://127.0.0.1:8081/ocsp",
    "issuer_urls": ["http://127.0.0.1:8081/aia/issuing.cer"],
    "policies": [{"id": "2.999.1.1.1"}],
}


def installed() -> bool:
    """Whether there is a cfssl."""
    return shutil.which("cfssl") is not None


def body(pem: str) -> dict[str, str]:
    """What /sign takes."""
    return {"certificate_request": pem, "profile": "client"}


@asynccontextmanager
async def serving(folder: Path, ca: Path, key: Path) -> AsyncIterator[str]:
    """The URL of /sign while the block runs; it says nothing of the requests that it serves."""
    config = folder / "cfssl.json"
    config.write_text(
        json.dumps({"signing": {"default": _SIGNING, "profiles": {"client": _SIGNING}}})
    )
    port = free_port()
    async with program(
        *("cfssl", "serve", "-address", "127.0.0.1", "-port", str(port), "-loglevel", "2"),
        *("-ca", ca, "-ca-key", key, "-config", config),
        log=folder / "cfssl.log",
    ):
        await listening(port)
        yield f"http://127.0.0.1:{port}/api/v1/cfssl/sign"
