"""A CA that is online below a root that is not: request, ceremony, import, issuance, log."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pki.ceremony import seal as seals
from pki.certificate import parse_certificate
from tests.journeys.ceremony_terminal import COMMAND
from tests.unit.ceremony_fixtures import hold, on_files, shipped, transcript

SUBJECT = "CN=Issuing CA,O=Registry,C=AQ"


class Online:
    """The online machine: its home folder, with keys in files."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *words: str | Path, code: int = 0) -> Any:
        options = ["--set", "keys.store=file", "--set", "http.public_url=http://pki.example.org"]
        done = subprocess.run(
            [COMMAND, "--home", self.home, *options, "--json", *words],
            capture_output=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)


def test_from_request_to_issuance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seals, "_MEMORY", 64)
    monkeypatch.setattr(seals, "_PASSES", 1)
    offline, online = tmp_path / "offline", Online(tmp_path / "online")
    medium = tmp_path / "medium"
    medium.mkdir()
    asked = online("ceremony", "request", "issuing", "--subject", SUBJECT, "--out", medium)
    again = online("ceremony", "request", "issuing", "--subject", SUBJECT, "--out", medium)
    other = online(
        "ceremony", "request", "issuing", "--subject", "CN=Other,O=R,C=AQ", "--out", medium, code=3
    )
    assert other["error"]["code"] == "request-differs"
    hold(offline, "root", on_files(shipped("root-creation")))
    told, room = hold(
        offline, "sub", on_files(shipped("subordinate-ca")), incoming={"issuing": medium}
    )
    shown = " ".join(room.shown).replace(" ", "").lower()
    assert again["sha256"] in shown and asked == again
    out = offline / "ceremonies" / "sub" / "out" / "issuing.cer"
    root = offline / "ceremonies" / "root" / "out" / "root.cer"
    fingerprint = parse_certificate(out.read_bytes()).sha256.hex()
    chain = ("--chain", root, "--sha256")
    wrong = online("ceremony", "import", "issuing", out, *chain, "00" * 32, code=3)
    assert wrong["error"]["code"] == "wrong-fingerprint"
    swapped = parse_certificate(root.read_bytes()).sha256.hex()
    wrong = online("ceremony", "import", "issuing", root, *chain, swapped, code=3)
    assert wrong["error"]["code"] in ("bad-chain", "key-mismatch")
    nobody = online("ceremony", "import", "other", out, *chain, fingerprint, code=3)
    assert nobody["error"]["code"] == "no-such-request"
    taken = online("ceremony", "import", "issuing", out, *chain, fingerprint.upper())
    assert taken["subject"] == SUBJECT
    online("ceremony", "import", "issuing", out, *chain, fingerprint)
    # A start makes no development hierarchy beside it.
    assert online("init")["authorities"] == ["issuing"]
    for name in ("root", "sub"):
        online("ceremony", "record", transcript(offline, name))
    recorded = online("ceremony", "record", transcript(offline, "sub"))
    assert recorded["head"] == told.head
    assert online("log", "verify")["ok"] is True
    half = tmp_path / "half.jsonl"
    half.write_bytes(transcript(offline, "sub").read_bytes()[:-1000])
    refused = online("ceremony", "record", half, code=3)
    assert refused["error"]["code"] == "altered-transcript"
    key, csr, made = tmp_path / "key.pem", tmp_path / "request.csr", tmp_path / "made.pem"
    subprocess.run(
        ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", csr, "-subj", "/CN=www.example.org",
         "-addext", "subjectAltName=DNS:www.example.org"],
        check=True, capture_output=True,
    )  # fmt: skip
    online("cert", "issue", "--ca", "issuing", "--profile", "tls-server", "--csr", csr,
           "--out", made)  # fmt: skip
    for name, der in (("root.pem", root), ("issuing.pem", out)):
        subprocess.run(
            ["openssl", "x509", "-in", der, "-out", tmp_path / name],
            check=True,
            capture_output=True,
        )
    subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", tmp_path / "root.pem",
         "-untrusted", tmp_path / "issuing.pem", made],
        check=True, capture_output=True,
    )  # fmt: skip
