"""What commands make of the API's answers: which certificate is meant, pages, files that fail."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from cli.main import digitalid
from pki.serial import format_serial
from tests.contract.test_api_client import Handler, served
from tests.unit.test_cli_ocsp_client import CA, LEAF, Pair, certify


def pem(pair: Pair) -> str:
    return pair.certificate.public_bytes(Encoding.PEM).decode()


def view(pair: Pair, **members: object) -> dict[str, object]:
    return {
        "serial": format_serial(pair.certificate.serial_number),
        "ca": "issuing",
        "profile": "p",
        "state": "issued",
        "status": "good",
        "subject": "CN=leaf",
        "not_after": "2027-01-01T00:00:00Z",
        "pem": pem(pair),
        "sha256": pair.certificate.fingerprint(SHA256()).hex(),
        **members,
    }


AUTHORITY = {"name": "issuing", "pem": pem(CA), "chain": []}


def api(seen: list[str], known: Pair = LEAF) -> Handler:
    """An instance with one CA and one certificate, that writes down what it is asked."""
    serial = format_serial(known.certificate.serial_number)

    async def handler(request: web.Request) -> web.Response:
        seen.append(f"{request.method} {request.path_qs.removeprefix('/api/v1')}")
        match request.path.removeprefix("/api/v1").strip("/").split("/"):
            case ["authorities"]:
                return web.json_response({"authorities": [AUTHORITY]})
            case ["authorities", "issuing"]:
                return web.json_response(AUTHORITY)
            case ["certificates"] if request.method == "POST":
                return web.json_response(
                    {"certificate": view(known), "chain": [pem(CA)]}, status=201
                )
            case ["certificates", asked, *_] if asked == serial:
                return web.json_response(view(known))
            case _:
                return web.json_response({"code": "no-such-certificate", "detail": "d"}, status=404)

    return handler


async def run(home: Path, handler: Handler, *arguments: str | Path) -> Result:
    """``digitalid --json`` with ``handler`` as the running instance."""
    words = ["--home", str(home), "--json", *map(str, arguments)]
    async with served(handler, home / "run" / "admin.sock"):
        return await asyncio.to_thread(CliRunner().invoke, digitalid, words)


@pytest.mark.parametrize("form", [Encoding.PEM, Encoding.DER])
async def test_a_file_means_the_certificate_in_it(tmp_path: Path, form: Encoding) -> None:
    file = tmp_path / "leaf"
    file.write_bytes(LEAF.certificate.public_bytes(form))
    seen: list[str] = []
    result = await run(tmp_path, api(seen), "cert", "revoke", file, "--reason", "KEYCOMPROMISE")
    assert result.exit_code == 0, result.output
    serial = format_serial(LEAF.certificate.serial_number)
    assert seen[-1] == f"POST /certificates/{serial}/revoke?ca=issuing"


async def test_another_cas_certificate_of_the_same_serial_is_not_revoked(tmp_path: Path) -> None:
    # A CA of the same name whose certificate bears our certificate's serial number.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    impostor = certify("CA")
    forged = (
        x509.CertificateBuilder()
        .subject_name(LEAF.certificate.subject)
        .issuer_name(CA.certificate.subject)
        .public_key(LEAF.key.public_key())
        .serial_number(LEAF.certificate.serial_number)
        .not_valid_before(LEAF.certificate.not_valid_before_utc)
        .not_valid_after(LEAF.certificate.not_valid_after_utc)
        .sign(impostor.key, hashes.SHA256())
    )
    file = tmp_path / "forged.pem"
    file.write_bytes(forged.public_bytes(Encoding.PEM))
    seen: list[str] = []
    result = await run(tmp_path, api(seen), "cert", "revoke", file, "--reason", "keyCompromise")
    assert result.exit_code == 3
    assert json.loads(result.output)["error"]["code"] == "no-such-certificate"
    assert not any(line.startswith("POST") for line in seen)


async def test_a_certificate_of_a_ca_that_is_not_ours(tmp_path: Path) -> None:
    file = tmp_path / "other.pem"
    file.write_text(pem(certify("leaf", certify("Other CA"))))
    result = await run(tmp_path, api([]), "cert", "show", file)
    assert json.loads(result.output)["error"]["code"] == "no-such-certificate"


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x30\x82\xff\xff", b"-----BEGIN X-----\n"])
async def test_a_file_that_is_no_certificate(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    result = await run(tmp_path, api([]), "cert", "hold", file)
    assert (result.exit_code, json.loads(result.output)["error"]["code"]) == (3, "bad-certificate")


async def test_issue_writes_the_chain_and_refuses_to_overwrite_before_asking(
    tmp_path: Path,
) -> None:
    csr, out = tmp_path / "csr", tmp_path / "out.pem"
    csr.write_bytes(b"\x30\x03\x02\x01\x00")
    arguments = ("cert", "issue", "--profile", "p", "--csr", csr, "--out", out, "--chain")
    seen: list[str] = []
    first = await run(tmp_path, api(seen), *arguments)
    assert first.exit_code == 0, first.output
    assert out.read_text() == pem(LEAF) + pem(CA)
    assert json.loads(first.output)["file"] == str(out)
    again = await run(tmp_path, api(seen), *arguments)
    assert json.loads(again.output)["error"]["code"] == "file-exists"
    assert len(seen) == 1


async def test_issue_to_standard_output(tmp_path: Path) -> None:
    csr = tmp_path / "csr"
    csr.write_bytes(b"\x30\x03\x02\x01\x00")
    arguments = ("cert", "issue", "--profile", "p", "--csr", csr, "--out", "-")
    as_json = await run(tmp_path, api([]), *arguments)
    assert json.loads(as_json.output)["certificate"]["pem"] == pem(LEAF)
    words = ["--home", str(tmp_path), *map(str, arguments)]
    async with served(api([]), tmp_path / "run" / "admin.sock"):
        plain = await asyncio.to_thread(CliRunner().invoke, digitalid, words)
    assert plain.output == pem(LEAF)


async def test_a_certificate_that_was_issued_but_not_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    csr = tmp_path / "csr"
    csr.write_bytes(b"x")
    gone = tmp_path / "gone"
    gone.mkdir()
    handler = api([])

    async def removing(request: web.Request) -> web.StreamResponse:
        gone.rmdir()
        return await handler(request)

    out = gone / "out.pem"
    result = await run(
        tmp_path, removing, "cert", "issue", "--profile", "p", "--csr", csr, "--out", out
    )
    error = json.loads(result.output)["error"]
    assert (result.exit_code, error["code"]) == (3, "cannot-write")
    assert (
        f"digitalid cert export {format_serial(LEAF.certificate.serial_number)}" in error["detail"]
    )


@pytest.mark.parametrize(("limit", "more"), [(4, True), (5, True), (7, False), (100, False)])
async def test_find_goes_through_the_pages(tmp_path: Path, limit: int, more: bool) -> None:
    pages = {None: (3, 3), "3": (2, 5), "5": (0, 6), "6": (2, None)}

    async def handler(request: web.Request) -> web.Response:
        count, following = pages[request.query.get("after")]
        found = [view(LEAF) for _ in range(count)]
        return web.json_response({"certificates": found, "next": following})

    result = await run(tmp_path, handler, "cert", "find", "--limit", str(limit))
    found = json.loads(result.output)
    assert (len(found["certificates"]), found["more"]) == (min(limit, 7), more)


async def test_export_p12_takes_its_passwords_by_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        PrivateFormat,
        pkcs12,
    )

    key, password, out = tmp_path / "key", tmp_path / "password", tmp_path / "out.p12"
    key.write_bytes(
        LEAF.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"of the key")
        )
    )
    password.write_text("of the new file\n")
    password.chmod(0o600)
    monkeypatch.setenv("KEY_PASSWORD", "of the key")
    serial = format_serial(LEAF.certificate.serial_number)
    base = ("cert", "export", serial, "--format", "p12", "--key", key, "--out", out)
    result = await run(
        tmp_path, api([]), *base,
        "--key-password-from", "env:KEY_PASSWORD", "--password-from", f"file:{password}",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert out.stat().st_mode & 0o777 == 0o600
    found = pkcs12.load_pkcs12(out.read_bytes(), b"of the new file")
    assert found.cert is not None
    assert found.cert.certificate == LEAF.certificate
    assert [each.certificate for each in found.additional_certs] == [CA.certificate]
    seen: list[str] = []
    literal = await run(tmp_path, api(seen), *base, "--force", "--password-from", "hunter2hunter2")
    assert json.loads(literal.output)["error"]["code"] == "bad-secret-reference"
    assert "hunter2" not in literal.output
    assert seen == []


async def test_log_verify_reports_what_was_altered(tmp_path: Path) -> None:
    def handler(report: dict[str, object]) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            lines = [{"done": 1, "total": 2}, {"report": report}]
            return web.Response(text="".join(json.dumps(line) + "\n" for line in lines))

        return handle

    whole = await run(tmp_path, handler({"ok": True, "size": 2}), "log", "verify")
    assert (whole.exit_code, json.loads(whole.output)) == (0, {"ok": True, "size": 2})
    finding = {"code": "leaf-altered", "start": 1, "end": 2, "detail": "leaf 1 is altered"}
    altered = {"ok": False, "size": 2, "first_altered": 1, "findings": [finding]}
    result = await run(tmp_path, handler(altered), "log", "verify")
    assert (result.exit_code, json.loads(result.output)) == (1, altered)


async def test_log_verify_that_stops_short_is_no_success(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text='{"done":1,"total":2}\n')

    result = await run(tmp_path, handler, "log", "verify")
    assert (result.exit_code, json.loads(result.output)["error"]["code"]) == (5, "bad-reply")
