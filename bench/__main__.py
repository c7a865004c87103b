"""``python -m bench [NAME …] [--quick]``: one JSON line a figure, the reference in the same run."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from typing import Any

import uvloop

import bench
from infra.collection import settle


def main() -> int:
    """Run the named benchmarks, or all of them; 1 if a goal was missed."""
    known = benchmarks()
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, rougher figures")
    options = parser.parse_args()
    unknown = set(options.names) - set(known)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    settle()  # as `digitalid serve` does
    missed = 0
    for name in options.names or known:
        figures = uvloop.run(importlib.import_module(f"bench.{name}").run(options.quick))
        for figure in figures:
            print(json.dumps(figure), flush=True)
            missed += misses(figure)
    return 1 if missed else 0


def benchmarks() -> list[str]:
    """The names of all benchmarks: the modules of this package, not its packages."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(bench.__path__)
        if module.name[0] != "_" and not module.ispkg
    )


def misses(figure: dict[str, Any]) -> bool:
    """Whether the ratio is below its ``goal``, or above its ``limit`` where less is better."""
    if "limit" in figure:
        return bool(figure["ratio"] > figure["limit"])
    return bool(figure["ratio"] < figure["goal"])


if __name__ == "__main__":
    sys.exit(main())
