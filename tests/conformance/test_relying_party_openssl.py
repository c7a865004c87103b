"""Our relying party (``ocsp query``, ``verify``) with a CA and a responder that are openssl's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import digitalid

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="install with: apt-get install openssl"
)

CONFIG = """\
[ca]
default_ca = here
[here]
dir = .
database = index.txt
new_certs_dir = .
serial = serial
crlnumber = crlnumber
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_days = 30
default_crl_days = 7
policy = any
unique_subject = no
[any]
commonName = supplied
[leaf]
basicConstraints = CA:false
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
keyUsage = critical, digitalSignature
[responder]
basicConstraints = CA:false
extendedKeyUsage = OCSPSigning
"""


def openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA with a delegated responder, one good leaf, and one that is revoked."""
    folder = tmp_path_factory.mktemp("openssl")
    (folder / "ca.cnf").write_text(CONFIG)
    (folder / "index.txt").touch()
    (folder / "serial").write_text("1000\n")
    (folder / "crlnumber").write_text("01\n")
    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
    openssl(
        folder, "req", "-x509", *ec, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=CA",
        "-days", "30", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    for name, extensions in (("good", "leaf"), ("bad", "leaf"), ("ocsp", "responder")):
        openssl(
            folder, "req", "-new", *ec, "-keyout", f"{name}.key", "-out", f"{name}.csr",
            "-subj", f"/CN={name}",
        )  # fmt: skip
        openssl(
            folder, "ca", "-config", "ca.cnf", "-batch", "-notext", "-in", f"{name}.csr",
            "-out", f"{name}.pem", "-extensions", extensions,
        )  # fmt: skip
    openssl(folder, "ca", "-config", "ca.cnf", "-revoke", "bad.pem", "-crl_reason", "keyCompromise")
    openssl(folder, "ca", "-config", "ca.cnf", "-gencrl", "-out", "ca.crl")
    return folder


@pytest.fixture(scope="module")
def responder(authority: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [
            "openssl", "ocsp", "-index", "index.txt", "-port", "0", "-CA", "ca.pem",
            "-rsigner", "ocsp.pem", "-rkey", "ocsp.key", "-nmin", "5",
        ],
        cwd=authority, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"ACCEPT .*?:(\d+)\b", line):
                yield f"http://127.0.0.1:{found[1]}/"
                break
        else:
            pytest.fail("openssl ocsp did not start")
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(digitalid, ["--json", *map(str, arguments)])


@pytest.mark.parametrize("nonce", ["--nonce", "--no-nonce"])
def test_good(authority: Path, responder: str, nonce: str) -> None:
    result = invoke(
        "ocsp", "query", authority / "good.pem", "--issuer", authority / "ca.pem",
        "--url", responder, nonce,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert (said["status"], said["responder"], said["delegated"]) == ("good", "CN=ocsp", True)
    assert said["nonce"] == ("echoed" if nonce == "--nonce" else "not asked")


@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
def test_revoked(authority: Path, responder: str, hash_name: str) -> None:
    result = invoke(
        "ocsp", "query", authority / "bad.pem", "--issuer", authority / "ca.pem",
        "--url", responder, "--hash", hash_name,
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    said = json.loads(result.output)
    assert (said["status"], said["reason"]) == ("revoked", "keyCompromise")


def test_another_ca_is_not_believed(authority: Path, responder: str, tmp_path: Path) -> None:
    openssl(
        tmp_path, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-noenc", "-keyout", "k", "-out", "other.pem", "-subj", "/CN=CA",
    )  # fmt: skip
    result = invoke(
        "ocsp", "query", authority / "good.pem", "--issuer", tmp_path / "other.pem",
        "--url", responder,
    )  # fmt: skip
    assert result.exit_code in (1, 3), result.output
    assert '"good"' not in result.output


def test_nobody_listens(authority: Path) -> None:
    result = invoke(
        "ocsp", "query", authority / "good.pem", "--issuer", authority / "ca.pem",
        "--url", "http://127.0.0.1:1/",
    )  # fmt: skip
    assert result.exit_code == 4
    assert json.loads(result.output)["error"]["code"] == "not-reachable"


@pytest.mark.parametrize(("leaf", "code"), [("good", "valid"), ("bad", "revoked")])
def test_verify_with_a_crl(authority: Path, leaf: str, code: str) -> None:
    result = invoke(
        "verify", authority / f"{leaf}.pem", "--anchor", authority / "ca.pem",
        "--crl", authority / "ca.crl",
    )  # fmt: skip
    found = json.loads(result.output)
    assert found["code"] == code, found
    assert result.exit_code == (0 if code == "valid" else 1)
    assert len(found["path"]) == 2


def test_verify_without_revocation_data_says_so(authority: Path) -> None:
    base = ("verify", authority / "good.pem", "--anchor", authority / "ca.pem")
    nothing = invoke(*base)
    assert (nothing.exit_code, json.loads(nothing.output)["code"]) == (1, "revocation-unknown")
    unasked = invoke(*base, "--no-revocation")
    assert (unasked.exit_code, json.loads(unasked.output)["code"]) == (0, "valid")


def test_verify_in_the_past_and_for_a_purpose(authority: Path) -> None:
    base = ("verify", authority / "good.pem", "--anchor", authority / "ca.pem", "--no-revocation")
    assert json.loads(invoke(*base, "--at", "2001-01-01").output)["code"] == "not-yet-valid"
    assert json.loads(invoke(*base, "--purpose", "encryption").output)["code"] == "wrong-purpose"


def test_crl_show_of_a_file(authority: Path) -> None:
    result = invoke("crl", "show", authority / "ca.crl", "--entries")
    assert result.exit_code == 0, result.output
    [view] = json.loads(result.output)["crls"]
    assert (view["number"], view["entries"], view["issuer"]) == (1, 1, "CN=CA")
    assert [(e["serial"], e["reason"]) for e in view["revoked"]] == [("1001", "keyCompromise")]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x30\x80", b"-----BEGIN X509 CRL-----\n"])
def test_garbage_is_refused_with_a_code(authority: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "garbage"
    file.write_bytes(content)
    ca = authority / "ca.pem"
    for arguments in (
        ("crl", "show", file),
        ("verify", file, "--anchor", ca),
        ("verify", authority / "good.pem", "--anchor", file),
        ("verify", authority / "good.pem", "--anchor", ca, "--crl", file),
        ("verify", authority / "good.pem", "--anchor", ca, "--ocsp", file),
        ("ocsp", "query", file, "--issuer", ca, "--url", "http://127.0.0.1:1"),
        ("ocsp", "query", authority / "good.pem", "--issuer", file, "--url", "http://127.0.0.1:1"),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 3, (arguments, result.output)
        code = json.loads(result.output)["error"]["code"]
        assert code in ("bad-crl", "bad-certificate", "bad-ocsp-response")
