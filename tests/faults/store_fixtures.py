"""What the store's fault tests share: processes of their own, and file systems of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from infra.store.port import Collection, Index

ROOT = Path(__file__).resolve().parents[2]
THINGS = Collection("things", (Index("by_key", ("key",), unique=True),))


def child(
    script: str, *arguments: object, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """A process of its own running ``script``, which may fail loudly."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", script, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done


def mounts() -> Sequence[str]:
    """What to put before a command so that it can mount file systems that only it sees."""
    prefix = ("unshare", "--mount", "--map-root-user")
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        if os.environ.get("CI") == "true":
            pytest.fail("no user or mount namespaces here")
        pytest.skip("no namespaces: run as root, or sysctl kernel.unprivileged_userns_clone=1")
    return prefix


PRELUDE = """
import asyncio, json, os, subprocess, sys
from pathlib import Path
from infra.errors import Failure
from infra.store.port import Collection, Event, Index, New, Stored
from infra.store.sqlite import SqliteStore
THINGS = Collection("things", (Index("by_key", ("key",), unique=True),))
async def code(awaitable):
    try:
        await awaitable
    except Failure as failure:
        return failure.code
    return "done"
"""
