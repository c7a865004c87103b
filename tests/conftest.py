"""What all tests share: a skip is a failure in CI; where sockets may lie."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for the sockets of other programs: an address takes 107 octets, of which pytest's
    own folders have some 80 already, or more."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, None]:
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
