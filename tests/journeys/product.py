"""The product as its users have it: a process, a command, a folder of state."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

COMMAND = Path(sys.executable).parent / "digitalid"

# Profiles of the authority itself, which are issued on nobody's request.
RESERVED = {
    "root",
    "subordinate-ca",
    "link",
    "cross-certificate",
    "crl-issuer",
    "ocsp-responder",
    "log-signer",
}


def require(*tools: str) -> None:
    """Skip (which fails in CI) unless these programs are installed."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"install with apt-get: {' '.join(missing)}")


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody has now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run(*command: str | Path, stdin: bytes | None = None, ok: bool = True) -> bytes:
    """Run a program, and return what it printed (both streams, its errors last)."""
    done = subprocess.run(
        [str(word) for word in command], input=stdin, capture_output=True, timeout=60, check=False
    )
    output = done.stdout + done.stderr
    assert not ok or done.returncode == 0, output.decode(errors="replace")
    return output


class Product:
    """One installation in a folder of its own, on ports of its own.

    ``under``: a program and its arguments that start every command of it, such as nsenter;
    ``seen_at``: where this process finds the home folder, when those find it elsewhere.
    """

    def __init__(self, home: Path, *, keys: str = "pkcs11", **settings: dict[str, Any]) -> None:
        self.home = home
        self.seen_at = home
        self.under: Sequence[str] = ()
        self.app_port, self.validation_port = free_ports(2)
        self.process: subprocess.Popen[bytes] | None = None
        home.mkdir(parents=True, exist_ok=True)
        tables: dict[str, dict[str, Any]] = {
            "http": {
                "app_port": self.app_port,
                "validation_port": self.validation_port,
                "public_url": f"http://127.0.0.1:{self.validation_port}",
            },
            "keys": {"store": keys},
            "crl": {"debounce": "0s"},
            "slapd": {"run": "off"},
        }
        for section, values in settings.items():
            tables[section] = tables.get(section, {}) | values
        lines = []
        for section, values in tables.items():
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        (home / "digitalid.toml").write_text("\n".join(lines) + "\n")

    @property
    def environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("DIGITALID", "SOFTHSM"))}
        return clean | {"DIGITALID_HOME": str(self.home)}

    @property
    def validation(self) -> str:
        return f"http://127.0.0.1:{self.validation_port}"

    def start(self, *more: str | Path, within: float = 60.0) -> str:
        """Run ``digitalid serve``, with ``more`` after it, until it says that it is ready; returns
        what it said."""
        with (self.home / "serve.err").open("wb") as errors:
            self.process = subprocess.Popen(
                [*self.under, COMMAND, "serve", *more],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert self.process.stdout is not None
        said = b""
        # One that hangs before it says anything is ended, which ends the reading too.
        watchdog = threading.Timer(within, self.process.kill)
        watchdog.start()
        try:
            while b"Ctrl-C" not in said:
                line = self.process.stdout.readline()
                if not line:
                    self.stop(signal.SIGKILL)
                    pytest.fail(said.decode() + (self.home / "serve.err").read_text())
                said += line
        finally:
            watchdog.cancel()
        return said.decode()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the process and return its exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def cli(
        self,
        *words: str | Path,
        stdin: bytes | None = None,
        code: int = 0,
        under: Sequence[str] = (),
    ) -> str:
        """Run the command; its exit code must be ``code``. Returns both streams.

        ``under``: a program and its arguments that start the command, such as faketime.
        """
        done = self._run(words, stdin, code, under)
        return (done.stdout + done.stderr).decode()

    def json(
        self,
        *words: str | Path,
        stdin: bytes | None = None,
        code: int = 0,
        under: Sequence[str] = (),
    ) -> Any:
        """Run the command with ``--json``."""
        return json.loads(self._run((*words, "--json"), stdin, code, under).stdout)

    def refused(
        self, *words: str | Path, code: str, says: str, under: Sequence[str] = (), exit: int = 3
    ) -> None:
        """Run the command, which must fail with this code, a detail that says what to do, and
        the exit code 3 (rejected) or 4 (unavailable)."""
        error = self.json(*words, code=exit, under=under)["error"]
        assert error["code"] == code, error
        assert says in error["detail"], error
        assert ("retry_after" in error) == (exit == 4), error

    @property
    def operator_token(self) -> str:
        return (self.seen_at / "secrets" / "operator.token").read_text().strip()

    def get(self, path: str) -> tuple[int, Any]:
        """GET from the API as curl does it; returns the status and the JSON that was answered."""
        return self._curl(path)

    def post(self, path: str, body: object) -> tuple[int, Any]:
        """POST to the API ``body``, as it is or as JSON; returns what ``get`` does."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._curl(
            path, "--data-binary", "@-", "-H", "Content-Type: application/json", stdin=content
        )

    def _curl(self, path: str, *more: str, stdin: bytes | None = None) -> tuple[int, Any]:
        said = run(
            "curl", "-sS", "-w", "\n%{http_code}", "-H", "Expect:",
            "-H", f"Authorization: Bearer {self.operator_token}",
            f"http://127.0.0.1:{self.app_port}/api/v1{path}", *more, stdin=stdin,
        )  # fmt: skip
        answer, _, status = said.rpartition(b"\n")
        return int(status), json.loads(answer)

    def _run(
        self,
        words: tuple[str | Path, ...],
        stdin: bytes | None,
        code: int,
        under: Sequence[str],
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [*self.under, *under, str(COMMAND), *(str(word) for word in words)],
            input=stdin,
            capture_output=True,
            env=self.environment,
            cwd=self.home,
            timeout=120,
            check=False,
        )
        output = (done.stdout + done.stderr).decode()
        assert done.returncode == code, f"exit code {done.returncode}: {output}"
        assert "Traceback" not in output
        return done

    def request(self, name: str, subject: str, *more: str) -> Path:
        """A certificate request made by openssl, its key beside it."""
        out = self.home / f"{name}.csr"
        run(
            "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-keyout", self.home / f"{name}.key", "-subj", subject, "-out", out, *more,
        )  # fmt: skip
        return out

    def issue(self, name: str, subject: str, profile: str, *more: str) -> Path:
        """A certificate for a new key."""
        out = self.home / f"{name}.pem"
        request = self.request(name, subject, *more)
        self.cli("cert", "issue", "--profile", profile, "--csr", request, "--out", out)
        return out
