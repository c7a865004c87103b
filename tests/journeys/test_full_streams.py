"""Commands whose output or error stream takes nothing: full, closed, or of a reader that left."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.journeys.product import COMMAND, Product

Ended = subprocess.CompletedProcess[bytes]

ANSWERS = [
    "--help", "-h", "--version", "cert --help", "cert issue --help", "backup restore -h",
    "completion bash", "completion zsh", "completion fish", "--json completion bash",
    "config show", "--json config show", "config show --json", "config explain http.app_port",
]  # fmt: skip
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}
COMPLETE = {"_DIGITALID_COMPLETE": "bash_source"}
WORDS = {"_DIGITALID_COMPLETE": "bash_complete", "COMP_WORDS": "digitalid ", "COMP_CWORD": "1"}


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Product:
    return Product(tmp_path_factory.mktemp("home"), keys="file")


def run(product: Product, words: str, redirection: str, more: dict[str, str]) -> Ended:
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" "$@" {redirection}', COMMAND, *words.split()],
        env=product.environment | {"PYTHONUNBUFFERED": ""} | more,
        cwd=product.home,
        capture_output=True,
        timeout=60,
        check=False,
    )


def incidents(product: Product) -> bool:
    return (product.home / "log").exists() or (product.home / "var").exists()


@pytest.mark.parametrize(
    ("words", "more"),
    [
        *((words, {}) for words in ANSWERS),
        *((words, UNBUFFERED) for words in ANSWERS[:3]),
        ("", COMPLETE),
        ("", WORDS),
    ],
)
@pytest.mark.parametrize(
    ("redirection", "says"),
    [(">/dev/full", b"No space left on device"), (">&-", b"Bad file descriptor")],
    ids=["full", "closed"],
)
def test_standard_output_that_takes_nothing(
    product: Product, words: str, more: dict[str, str], redirection: str, says: bytes
) -> None:
    done = run(product, words, redirection, more)
    assert done.returncode == 3, done
    assert done.stderr.startswith(b"error: cannot-write: standard output: " + says)
    assert done.stderr.count(b"\n") == 1
    assert not incidents(product)


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
@pytest.mark.parametrize("words", ["--json nosuch", "--json ca show", "--json ca show nosuch"])
def test_an_error_as_json_goes_to_standard_error_instead(
    product: Product, words: str, redirection: str
) -> None:
    open_, shut = run(product, words, "", {}), run(product, words, redirection, {})
    assert shut.returncode == open_.returncode != 0
    code = json.loads(open_.stdout)["error"]["code"]
    assert shut.stderr.startswith(f"error: {code}: ".encode())
    assert not incidents(product)


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize("words", ["--help", "-v config show", "nosuch", "", "cert", "--json x"])
def test_standard_error_that_takes_nothing_changes_nothing(
    product: Product, words: str, redirection: str
) -> None:
    open_, shut = run(product, words, "", {}), run(product, words, redirection, {})
    assert (shut.returncode, shut.stdout) == (open_.returncode, open_.stdout)
    assert shut.stderr == b""
    assert not incidents(product)


def test_neither_of_both(product: Product) -> None:
    for redirection in (">/dev/full 2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-"):
        for words, code in (("--help", 3), ("config show", 3), ("nosuch", 2), ("--json x", 2)):
            assert run(product, words, redirection, {}).returncode == code
    assert not incidents(product)


def test_no_file_takes_the_place_of_a_stream_that_is_closed(product: Product) -> None:
    done = run(product, "init", "<&- >&- 2>&-", {})
    assert done.returncode == 3, incidents(
        product
    )  # what it did is done; that it could not be said is told
    assert len(product.json("ca", "list")["authorities"]) == 2


@pytest.mark.parametrize("words", ["--help", "--version", "completion bash", "--json config show"])
def test_a_reader_that_left_is_told_nothing(product: Product, words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [COMMAND, *words.split()],
            env=product.environment,
            stdout=pipe,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    assert done.stderr == b""
