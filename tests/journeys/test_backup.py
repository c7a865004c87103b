"""A backup of a CA that goes on with its work, restored elsewhere: what is there, what is not."""

from __future__ import annotations

import json
import stat
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.product import COMMAND, Product, require, run

CITIZEN = "citizen-authentication"


class Callers:
    """Certificates are asked for and OCSP answers too, without a pause, until ``stop``."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.issued: list[str] = []
        self.answers = 0
        self.wrong: list[object] = []
        self._request = product.request("busy", "/C=AQ/CN=Busy").read_text()
        self._known = product.home / "before.pem"
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._issue, self._ask)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait(self, more: int) -> list[str]:
        """What was issued, once that is so many more."""
        wanted, at_ocsp = len(self.issued) + more, self.answers + more
        while (len(self.issued) < wanted or self.answers < at_ocsp) and not self.wrong:
            self._over.wait(0.01)
        return list(self.issued)

    def _issue(self) -> None:
        while not self._over.is_set():
            body = {"profile": CITIZEN, "csr": self._request}
            status, answer = self.product.post("/certificates", body)
            if status == 201:
                self.issued.append(answer["certificate"]["serial"])
            else:
                self.wrong.append(answer)
                return

    def _ask(self) -> None:
        home = self.product.home
        while not self._over.is_set():
            said = run(
                "openssl", "ocsp", "-issuer", home / "issuing.pem", "-cert", self._known, "-url",
                f"{self.product.validation}/ocsp", "-CAfile", home / "root.pem", ok=False,
            ).decode()  # fmt: skip
            if ": good" not in said:
                self.wrong.append(said)
                return
            self.answers += 1


@pytest.fixture(params=["pkcs11", "file"])
def product(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Product]:
    require("openssl", "curl")
    # Everything is found without the settings file, which a new home folder does not have.
    product = Product(tmp_path / "home", keys=request.param)
    product.start()
    try:
        for name in ("issuing", "root"):
            product.cli("ca", "export", name, "--out", f"{name}.pem")
        yield product
    finally:
        if product.process is not None:
            assert product.stop() == 0


def another(product: Product, home: Path) -> Product:
    """What is restored from a backup of ``product``, with the settings in it."""
    other = Product(home)
    (home / "digitalid.toml").unlink()
    other.app_port, other.validation_port = product.app_port, product.validation_port
    return other


def modes(folder: Path) -> set[str]:
    found = {folder, *folder.rglob("*")}
    return {oct(stat.S_IMODE(path.stat().st_mode)) + "fd"[path.is_dir()] for path in found}


def ocsp(product: Product, certificate: Path, trusted: Path, code: int) -> str:
    said = product.json(
        "ocsp", "query", certificate, "--issuer", trusted / "issuing.pem", code=code
    )
    status: str = said["status"]
    return status


def test_a_running_ca_is_backed_up_and_restored(product: Product, tmp_path: Path) -> None:
    before = product.issue("before", "/C=AQ/CN=Before", CITIZEN)
    revoked = product.issue("revoked", "/C=AQ/CN=Revoked", CITIZEN)
    product.cli("cert", "revoke", revoked, "--reason", "keyCompromise")
    early = tmp_path / "early.txt"
    early.write_text(product.cli("log", "checkpoint", "--sign"))
    (tmp_path / "log.pem").write_text(product.json("log", "checkpoint")["key_pem"])
    file = tmp_path / "backup.tar"
    with Callers(product) as callers:
        acknowledged = callers.wait(5)
        made = product.json("backup", "create", file)
        callers.wait(5)
    assert callers.wrong == []
    after = product.issue("after", "/C=AQ/CN=After", CITIZEN)
    product.cli("cert", "revoke", before, "--reason", "superseded")
    late = tmp_path / "late.txt"
    late.write_text(product.cli("log", "checkpoint", "--sign"))

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert made["size"] == file.stat().st_size
    assert "holds private keys" in made["warning"]
    assert "busy.csr" in made["left_out"]
    assert not any((product.home / "run" / name).exists() for name in ("backup", "ledger.copy"))
    checked = product.json("backup", "check", file, "--sha256", made["sha256"])
    assert checked["ok"] is True
    assert checked["log"] == made["log"]
    assert product.stop() == 0

    # Nothing of the first one is left.
    lost = product.home.rename(tmp_path / "lost")
    file, trusted = file.rename(tmp_path / "elsewhere.tar"), lost
    other = another(product, tmp_path / "restored")
    restored = other.json("backup", "restore", file, "--sha256", made["sha256"])
    assert restored["log"] == made["log"]
    assert restored["created_at"] == made["created_at"]
    assert restored["to_do"] == []
    assert f"digitalid --home {other.home} crl issue" in restored["next"]
    assert modes(other.home) <= {"0o700d", "0o600f"}
    assert not {"node", "run", "status", ".restoring"} & {p.name for p in other.home.iterdir()}

    report = other.json("log", "verify", "--checkpoint", early, "--log-key", tmp_path / "log.pem")
    assert (report["ok"], report["leaves"]) == (True, made["log"]["size"])
    report = other.json(
        "log", "verify", "--checkpoint", late, "--log-key", tmp_path / "log.pem", code=1
    )
    [missing] = report["findings"]
    assert (missing["code"], missing["start"]) == ("leaf-missing", made["log"]["size"])

    kept, gone = trusted / before.name, trusted / after.name
    other.start()
    try:
        assert other.json("log", "verify")["ok"] is True
        for serial in acknowledged:
            assert other.json("cert", "show", serial)["status"] == "good"
        crl = tmp_path / "issuing.crl"
        run("curl", "-fsS", "-o", crl, f"{other.validation}/crl/issuing.pem")
        verify = (
            "openssl", "verify", "-crl_check", "-CAfile", trusted / "root.pem", "-untrusted",
            trusted / "issuing.pem", "-CRLfile", crl,
        )  # fmt: skip
        assert b"OK" in run(*verify, kept)
        assert b"certificate revoked" in run(*verify, trusted / revoked.name, ok=False)
        # What came after is lost: the revocation, and the certificate.
        assert ocsp(other, kept, trusted, 0) == "good"
        assert ocsp(other, trusted / revoked.name, trusted, 1) == "revoked"
        assert ocsp(other, gone, trusted, 1) == "unknown"
        new = other.issue("new", "/C=AQ/CN=New", CITIZEN)
        assert ocsp(other, new, trusted, 0) == "good"
        assert run(*verify, new).endswith(b"OK\n")
        again = other.json("crl", "issue", "issuing")["crls"][0]
        assert again["number"] > json_number(lost, "issuing")
    finally:
        assert other.stop() == 0


def json_number(home: Path, ca: str) -> int:
    return max(int(path.stem) for path in (home / "crl" / ca).glob("*.crl"))


def test_nothing_runs_and_keys_stay_apart(product: Product, tmp_path: Path) -> None:
    (product.home / "profiles").mkdir()
    (product.home / "profiles" / "README").write_text("of the ministry\n")
    product.issue("before", "/C=AQ/CN=Before", CITIZEN)
    settings = product.home / "digitalid.toml"
    settings.write_text(settings.read_text() + '[issuance]\nprofiles = "profiles"\n')
    product.stop()
    public = tmp_path / "public.tar"
    said = product.cli("backup", "create", public, "--without-keys")
    assert "warning" not in said
    assert "before.key" in said  # that it was left out
    with tarfile.open(public) as tar:
        names = {member.name.split("/")[0] for member in tar if member.isreg()}
        assert len(tar.getmembers()) == len(list(tar))
    assert names == {"manifest.json", "digitalid.toml", "ledger.sqlite", "crl", "profiles"}
    other = another(product, tmp_path / "restored")
    assert "put keys/, softhsm/ and secrets/ back" in other.cli("backup", "restore", public)
    for name in ("keys", "softhsm", "secrets"):
        if (product.home / name).exists():
            (product.home / name).rename(other.home / name)
    product.home.rename(tmp_path / "lost")
    assert other.json("log", "verify")["ok"] is True
    other.issue("after", "/C=AQ/CN=After", CITIZEN)


def test_what_a_killed_service_had_acknowledged_is_in_it(product: Product, tmp_path: Path) -> None:
    import signal

    serial = product.json("cert", "show", product.issue("a", "/C=AQ/CN=A", CITIZEN))["serial"]
    product.stop(signal.SIGKILL)
    product.cli("backup", "create", tmp_path / "backup.tar")
    other = another(product, tmp_path / "restored")
    other.cli("backup", "restore", tmp_path / "backup.tar")
    assert other.json("cert", "show", serial)["status"] == "good"


def test_through_a_pipe(product: Product, tmp_path: Path) -> None:
    secret = tmp_path / "pass"
    secret.write_text("correct horse battery staple")
    encrypt = ["openssl", "enc", "-aes-256-ctr", "-pbkdf2", "-pass", f"file:{secret}"]
    command = ["digitalid", "backup", "create", "-"]
    path = f"{COMMAND.parent}:/usr/bin:/bin"
    sealed = subprocess.run(
        ["/bin/sh", "-c", f"{' '.join(command)} | {' '.join(encrypt)}"],
        env=product.environment | {"PATH": path},
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert b"pipe them into age" in sealed.stderr
    assert b"sha-256" in sealed.stderr
    (tmp_path / "sealed").write_bytes(sealed.stdout)
    product.refused(
        "backup", "check", tmp_path / "sealed", code="backup-foreign", says="decrypted first"
    )
    opened = run(*encrypt, "-d", stdin=sealed.stdout)
    assert product.json("backup", "check", "-", stdin=opened)["ok"] is True
    other = another(product, tmp_path / "restored")
    restored: dict[str, Any] = json.loads(
        other.cli("backup", "restore", "-", "--json", stdin=opened)
    )
    assert restored["with_keys"] is True
    product.stop()
    assert other.json("log", "verify")["ok"] is True


@pytest.mark.parametrize("inside", [True, False])
def test_a_ledger_that_lies_elsewhere(tmp_path: Path, inside: bool) -> None:
    require("openssl")
    path = "data/live.sqlite" if inside else str(tmp_path / "disk" / "live.sqlite")
    product = Product(tmp_path / "home", keys="file", store={"path": path})
    product.cli("init")
    made = product.json("backup", "create", tmp_path / "backup.tar")
    assert made["left_out"] == []
    home = tmp_path / "restored"
    restored = product.json("--home", home, "backup", "restore", tmp_path / "backup.tar")
    if inside:
        assert restored["to_do"] == []
        assert sorted(path.name for path in (home / "data").iterdir()) == ["live.sqlite"]
    else:
        assert restored["to_do"] == [
            f"move {home}/ledger.sqlite to {path}, where store.path says it is"
        ]
        Path(path).unlink()
        (home / "ledger.sqlite").rename(path)
    assert product.json("--home", home, "log", "verify")["leaves"] == made["log"]["size"]
