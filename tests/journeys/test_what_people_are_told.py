"""What the product says where somebody mistypes, repeats or has gone only half of the way."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.product import COMMAND, RESERVED, Product, require, run

CITIZEN = "citizen-authentication"


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    require("openssl", "curl")
    product = Product(tmp_path_factory.mktemp("home"), keys="file")
    product.start()
    product.issue("alice", "/C=AQ/CN=Alice Example", CITIZEN)
    yield product
    assert product.stop() == 0


def test_finding_leaves_out_what_was_not_asked_for(product: Product) -> None:
    found = product.json("cert", "find", "--ca", "root")["certificates"]
    assert {each["ca"] for each in found} == {"root"}
    assert {each["ca"] for each in product.json("cert", "find")["certificates"]} > {"root"}
    by_both = ("cert", "find", "--subject", "CN=Alice Example,C=AQ", "--ca")
    assert len(product.json(*by_both, "issuing")["certificates"]) == 1
    assert not product.json(*by_both, "root")["certificates"]
    product.refused("cert", "find", "--ca", "nope", code="no-such-authority", says="issuing")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("status=bogus", "bad-status"),
        ("statsu=good", "unknown-parameter"),
        ("ca=nope", "no-such-authority"),
        ("profile=nope", "unknown-profile"),
        ("profile=", "unknown-profile"),
    ],
)
def test_a_query_that_means_nothing_is_refused(product: Product, query: str, code: str) -> None:
    status, problem = product.get(f"/certificates?{query}")
    missing = code in ("no-such-authority", "unknown-profile")
    assert (status, problem["code"]) == (404 if missing else 400, code)


def test_a_mistyped_name_revokes_nothing_and_says_so(product: Product) -> None:
    product.refused("cert", "find", "--profile", "TYPO", code="unknown-profile", says=CITIZEN)
    many = ("cert", "revoke-many", "--reason", "superseded")
    for how in ((), ("--rehearse",)):
        product.refused(*many, *how, "--profile", "TYPO", code="unknown-profile", says=CITIZEN)
        product.refused(
            *many, *how, "--profile", CITIZEN, "--ca", "nope", code="no-such-authority",
            says="issuing",
        )  # fmt: skip
    assert product.json("cert", "revoke-many", "--resume")["jobs"] == []


LIST = {"kind": "serials", "items": ["01"]}


@pytest.mark.parametrize("rehearse", [True, False])
@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"profile": "TYPO"}, "unknown-profile"),
        ({"profile": ""}, "unknown-profile"),
        ({"profile": CITIZEN, "ca": "nope"}, "no-such-authority"),
        ({"profile": CITIZEN, "ca": ""}, "no-such-authority"),
        ({"ca": "issuing"}, "empty-query"),
        ({"key_type": "rsa-1"}, "bad-key-type"),
        ({"algorithm": "md5"}, "unknown-algorithm"),
        ({"issued_after": "2999-01-01T00:00:00Z"}, "bad-time"),
        ({"issued_after": "2026-01-01T00:00:00Z", "issued_before": "2026-01-01T00:00:00Z"},
         "bad-time"),
        ({"profile": CITIZEN, "after": -1}, "bad-body"),
        ({"profile": CITIZEN, "job": "0" * 64}, "bad-body"),
        ({"profile": CITIZEN, "kind": "serials"}, "bad-body"),
        ({"profile": CITIZEN, **LIST}, "bad-body"),
        ({"kept": {"kind": "serials", "digest": "0" * 64, "parts": 1}, **LIST}, "bad-body"),
    ],
)  # fmt: skip
def test_nothing_is_revoked_of_what_makes_no_sense(
    product: Product, asked: dict[str, object], code: str, rehearse: bool
) -> None:
    status, problem = product.post(
        "/revocations", {"reason": "superseded", "rehearse": rehearse, **asked}
    )
    missing = code in ("no-such-authority", "unknown-profile")
    assert (status, problem["code"]) == (404 if missing else 400, code)
    assert product.get("/revocations")[1] == {"jobs": []}
    assert product.json("cert", "find", "--status", "revoked")["certificates"] == []


def test_lists_that_would_be_passed_over(product: Product) -> None:
    kept = {"kept": {"kind": "serials", "digest": "0" * 64, "parts": 1}}
    for asked, code in (
        ({"profile": CITIZEN, "after": 5}, "bad-body"),
        ({**LIST}, "bad-body"),
        ({"rehearse": True, **kept}, "bad-body"),
        ({"rehearse": True, **LIST, "after": 5}, "bad-body"),
        ({"rehearse": True, **LIST, "items": []}, "empty-list"),
        ({"rehearse": True, **LIST, "ca": "nope"}, "no-such-authority"),
        ({**kept, "ca": "nope"}, "no-such-authority"),
        (kept, "bad-list"),
    ):
        _, problem = product.post("/revocations", {"reason": "superseded", **asked})
        assert problem["code"] == code, asked
    part = {"kind": "serials", "digest": "0" * 64, "part": 0, "items": []}
    assert product.post("/revocations/lists", part)[1]["code"] == "empty-list"
    assert product.post("/revocations", {"job": "0" * 64})[1]["code"] == "no-such-job"


def test_nobody_reads_of_success_where_nothing_matches(product: Product) -> None:
    said = product.cli("cert", "revoke-many", "--profile", "officer", "--reason", "superseded")
    assert "No certificate matches: nothing is revoked." in said


def test_a_root_issues_to_no_citizen(product: Product) -> None:
    request = product.request("carol", "/C=AQ/CN=Carol")
    product.refused(
        "cert", "issue", "--ca", "root", "--profile", CITIZEN, "--csr", request, "--out",
        product.home / "carol.pem", code="profile-not-for-ca", says="Name a CA below it",
    )  # fmt: skip
    asked = {"profile": CITIZEN, "csr": request.read_text(), "ca": "root"}
    for _ in range(2):  # asked without and with a request id
        status, problem = product.post("/certificates", asked)
        assert (status, problem["code"]) == (403, "profile-not-for-ca")
        asked["request_id"] = "application/7"
    shown = product.json("profile", "show", CITIZEN)
    assert (shown["cas"], shown["issuers"]) == (None, ["issuing"])
    assert product.json("profile", "show", "ocsp-responder")["issuers"] == ["root", "issuing"]
    assert product.json("profile", "show", "root")["issuers"] == []
    assert "issuers: issuing" in product.cli("profile", "show", CITIZEN)


def test_a_server_is_called_what_its_alternative_names_say(product: Product) -> None:
    request = product.request("web", "/CN=bank.example.com", "-addext", "subjectAltName=DNS:a.org")
    product.refused(
        "cert", "issue", "--profile", "tls-server", "--csr", request, "--out",
        product.home / "web.pem", code="subject-attribute-not-in-san", says="dns:a.org",
    )  # fmt: skip
    product.cli(
        "cert", "issue", "--profile", "tls-server", "--csr", request, "--subject", "CN=A.org",
        "--out", product.home / "web.pem",
    )  # fmt: skip


def test_a_forged_checkpoint_is_no_fault_of_this_program(product: Product) -> None:
    good = product.cli("log", "checkpoint", "--sign")
    forged = product.home / "forged.txt"
    forged.write_text(good.replace("— ", "— x", 1))
    for words in (("--checkpoint", forged), ("--log-key", forged)):
        error = product.json("log", "verify", *words, code=3)["error"]
        assert error["code"] in ("bad-note", "bad-note-signature", "bad-checkpoint", "bad-log-key")


def test_settings_of_a_command_line_that_do_not_reach_the_instance(product: Product) -> None:
    done = subprocess.run(
        [COMMAND, "--set", "crl.lifetime=3d", "--json", "ca", "list"],
        env=product.environment, capture_output=True, check=True,
    )  # fmt: skip
    assert b"crl.lifetime" in done.stderr
    assert b"warning" not in done.stdout


def test_where_there_are_no_delta_crls_none_is_promised(product: Product) -> None:
    said = run(
        "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}",
        f"{product.validation}/crl/issuing-delta.crl",
    )  # fmt: skip
    assert said == b"404"


def test_reserved_profiles_are_marked_and_not_offered(product: Product) -> None:
    marked = {
        each["name"] for each in product.json("profile", "list")["profiles"] if each["reserved"]
    }
    assert marked == RESERVED
    request = product.request("bob", "/C=AQ/CN=Bob")
    error = product.json("cert", "issue", "--profile", "x", "--csr", request, "--out", "-", code=3)[
        "error"
    ]
    assert CITIZEN in error["detail"]
    assert not any(f" {name}," in error["detail"] for name in RESERVED)


def test_a_reason_is_shown_as_the_standard_spells_it(product: Product) -> None:
    said = product.cli("cert", "revoke", "00", code=2)
    assert "keyCompromise" in said
    assert "\\n" not in said


def test_who_is_not_known_is_told_how_to_say_who_he_is(product: Product) -> None:
    said = run(
        "curl", "-sS", "-D", "-", "-o", "/dev/null",
        f"http://127.0.0.1:{product.app_port}/api/v1/authorities",
    )  # fmt: skip
    assert b" 401 " in said
    assert b"www-authenticate: bearer" in said.lower()


def test_characters_that_the_terminal_does_not_have(product: Product) -> None:
    product.issue("eva", "/C=AQ/CN=Éva Példa", CITIZEN, "-utf8")
    done = subprocess.run(
        [COMMAND, "cert", "show", product.home / "eva.pem"],
        env=product.environment | {"PYTHONIOENCODING": "ascii"},
        capture_output=True, check=True,
    )  # fmt: skip
    assert b"\\xc9va" in done.stdout


@pytest.mark.parametrize("words", [("ca", "list"), ("--json", "ca", "list")])
def test_an_answer_that_cannot_be_written(product: Product, words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [COMMAND, *words], env=product.environment, stdout=full, stderr=subprocess.PIPE,
            check=False,
        )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.startswith(b"error: cannot-write: standard output: No space left")
    assert done.stderr.count(b"\n") == 1


def test_a_pipe_that_nobody_reads_any_more_is_no_error(product: Product) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [COMMAND, "ca", "list"], env=product.environment, stdout=pipe,
            stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert done.stderr == b""


def test_an_option_of_the_whole_command_behind_a_command(tmp_path: Path) -> None:
    done = run(COMMAND, "ca", "list", "--home", tmp_path, ok=False).decode()
    assert "digitalid --home DIR ca list" in done
    done = run(COMMAND, "--home", "", "ca", "list", ok=False).decode()
    assert "is a variable not set?" in done


def test_a_taken_port_makes_no_certificates(tmp_path: Path) -> None:
    product = Product(tmp_path / "home", keys="file")
    with socket.create_server(("127.0.0.1", product.validation_port)):
        product.refused("serve", code="address-in-use", says="--validation-port")
    assert not (product.home / "ledger.sqlite").exists()
    assert product.json("ca", "list")["authorities"] == []
    product.start()
    product.stop()
    product.start("--validation-port", "0", "--app-port", "0")
    product.stop()
    assert "names http" not in (product.home / "serve.err").read_text()
    started = subprocess.Popen(
        [COMMAND, "--set", "http.public_url=http://pki.example.org", "serve"],
        env=product.environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert started.stdout is not None
    while b"Ctrl-C" not in started.stdout.readline():
        pass
    started.send_signal(signal.SIGTERM)
    _, told = started.communicate(timeout=30)
    assert b"the certificate of CA issuing names http" in told


def test_a_home_that_waits_for_a_ceremony(tmp_path: Path) -> None:
    product = Product(tmp_path / "home", keys="file")
    (tmp_path / "medium").mkdir()
    product.cli(
        "ceremony", "request", "issuing", "--subject", "CN=CA,O=Registry,C=AQ", "--out",
        tmp_path / "medium",
    )  # fmt: skip
    waits = "digitalid ceremony import issuing"
    assert waits in product.cli("ca", "list")
    assert product.json("ca", "list")["awaited"] == ["issuing"]
    assert waits in product.cli("init")
    issue = ("cert", "issue", "--profile", CITIZEN, "--out", "-", "--csr")
    product.refused(
        *issue, product.request("a", "/C=AQ/CN=A"), code="no-such-authority", says=waits
    )
    said = product.start()
    assert product.stop() == 0
    assert waits in said
    assert "/crl/" not in said


def test_a_terminal_that_is_closed_ends_it_in_order(tmp_path: Path) -> None:
    product = Product(tmp_path / "home", keys="file")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "serve"], env=product.environment, stdin=theirs, stdout=subprocess.PIPE,
        stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    assert process.stdout is not None
    while b"Ctrl-C" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGHUP)  # the terminal is there: somebody asked for new processes
    time.sleep(0.5)
    assert process.poll() is None
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 0
    process.stdout.close()


def test_ctrl_c_is_for_the_product_alone(tmp_path: Path) -> None:
    """A terminal sends it to all processes on it; those of slapd and the token are ended later."""
    require("softhsm2-util", "slapd")
    product = Product(tmp_path / "home", slapd={"run": "on", "port": 0})
    process = subprocess.Popen(
        [COMMAND, "serve"], env=product.environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    while b"Ctrl-C" not in process.stdout.readline():
        pass
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 0
    assert told.decode().strip() == "stopping: requests under way are finished"


def test_reasons_are_completed_as_the_standard_spells_them(tmp_path: Path) -> None:
    words = "digitalid cert revoke 00 --reason KEY"
    done = subprocess.run(
        [COMMAND], capture_output=True, check=False,
        env=os.environ | {
            "_DIGITALID_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "5",
        },
    )  # fmt: skip
    assert done.stdout == b"plain,keyCompromise\n"
