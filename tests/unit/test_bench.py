"""What ``python -m bench`` expects of a benchmark; how fast anything is stays out of tests."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from bench import __main__ as runner
from bench import issue
from bench.peers import django, wrk
from bench.peers.process import output, program, said

KEYS = ["name", "unit", "ours", "reference", "reference_value", "ratio", "goal"]


@pytest.mark.parametrize("name", runner.benchmarks())
def test_each_module_is_a_benchmark(name: str) -> None:
    module = importlib.import_module(f"bench.{name}")
    assert inspect.iscoroutinefunction(module.run)
    assert list(inspect.signature(module.run).parameters) == ["quick"]
    assert module.__doc__
    assert module.run.__doc__


def test_what_benchmarks_compare_with_is_no_benchmark() -> None:
    assert {"issue", "issue_http", "issue_soak"} <= set(runner.benchmarks())
    assert "peers" not in runner.benchmarks()


def test_a_line_has_the_keys_that_readers_expect() -> None:
    figure = issue.line("issue-x", 100.04, "another", 50.0, 0.5)
    assert list(figure) == KEYS
    assert figure["ratio"] == 2.001
    assert figure["ours"] == 100.0


@pytest.mark.parametrize(
    ("figure", "missed"),
    [
        ({"ratio": 0.4, "goal": 0.4}, False),
        ({"ratio": 0.399, "goal": 0.4}, True),
        ({"ratio": 0.0, "goal": 0.0}, False),
        ({"ratio": 0.15, "limit": 0.15}, False),
        ({"ratio": 0.151, "limit": 0.15}, True),
        ({"ratio": -0.2, "limit": 0.15}, False),
    ],
)
def test_a_goal_is_reached_from_below_and_a_limit_kept(
    figure: dict[str, Any], missed: bool
) -> None:
    assert runner.misses(figure) is missed


@pytest.mark.parametrize(("ratio", "code"), [(0.5, 0), (0.3, 1)])
def test_the_command_prints_a_line_a_figure_and_says_what_missed(
    ratio: float,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = []

    async def run(quick: bool) -> list[dict[str, Any]]:
        asked.append(quick)
        return [issue.line("a", ratio, "b", 1.0, 0.4), issue.line("c", 1.0, "d", 1.0, 0.4)]

    interval = sys.getswitchinterval()
    monkeypatch.setattr("bench.issue.run", run)
    monkeypatch.setattr(sys, "argv", ["bench", "issue", "--quick"])
    try:
        assert runner.main() == code
    finally:
        sys.setswitchinterval(interval)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert asked == [True]
    assert [line["name"] for line in lines] == ["a", "c"]
    assert all(list(line) == KEYS for line in lines)


def test_an_unknown_benchmark_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "issue_ftp"])
    with pytest.raises(SystemExit):
        runner.main()
    assert "issue_ftp" in capsys.readouterr().err


def test_requests_have_a_key_and_a_name_each() -> None:
    made = [x509.load_der_x509_csr(der) for der in issue.requests(range(7, 10))]
    assert all(request.is_signature_valid for request in made)
    assert [request.subject.rfc4514_string() for request in made] == [
        f"CN=Citizen {number},C=AQ" for number in (7, 8, 9)
    ]
    assert len({request.public_key().public_numbers() for request in made}) == 3  # type: ignore[union-attr]


def _wrk_says(**changed: float) -> str:
    figures = {"answers": 900, "seconds": 1.5, "refused": 0, "lost": 0, "spare": 3, "p99": 0.1}
    return f"Running 1s test\n{json.dumps(figures | changed)}\n"


def test_the_rate_is_what_wrk_measured() -> None:
    assert wrk.judged(_wrk_says()) == 600.0


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"refused": 1}, "1 were refused"),
        ({"lost": 2}, "2 lost"),
        ({"answers": 0}, "of 0 requests"),
        ({"spare": -4}, "4 requests were sent twice"),
    ],
)
def test_one_answer_that_is_no_success_ends_the_benchmark(
    changed: dict[str, float], why: str
) -> None:
    with pytest.raises(RuntimeError, match=why):
        wrk.judged(_wrk_says(**changed))


async def test_a_program_that_fails_or_hangs_gives_no_figure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with 3: no database"):
        await output("sh", "-c", "echo no database >&2; exit 3", within=10)
    with pytest.raises(RuntimeError, match="longer than"):
        await output("sleep", "60", within=0.05)
    log = tmp_path / "log"
    async with program("sh", "-c", "echo no key >&2", log=log) as process:
        with pytest.raises(RuntimeError, match="never said 'ready'; it wrote: no key"):
            await said(process, "ready", 10, log)


async def test_django_ca_that_cannot_be_installed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError("no room left")

    monkeypatch.setattr("bench.peers.django.venv.create", fail)
    assert await django.install(tmp_path) is None
    assert "django-ca is left out" in capsys.readouterr().err
