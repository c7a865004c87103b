"""wrk: certificates asked for over HTTP, a different request each time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.peers.process import output

CONNECTIONS: Final = 16
SECONDS: Final = 1

_POST: Final = """\
local requests, sent, threads = {}, 0, {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local headers = {["Content-Type"] = "application/json"}
  if args[2] then headers["Authorization"] = "Bearer " .. args[2] end
  for body in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, headers, body)
  end
  prepared = #requests
end

function request()
  asked = sent + 1
  sent = asked
  return requests[(sent - 1) % #requests + 1]
end

function done(summary, latency)
  local asked, prepared = threads[1]:get("asked"), threads[1]:get("prepared")
  local lost = summary.errors
  io.write(string.format(
    '{"answers": %d, "seconds": %.6f, "refused": %d, "lost": %d, "spare": %d, "p99": %.6f}\\n',
    summary.requests, summary.duration / 1e6, lost.status,
    lost.connect + lost.read + lost.write + lost.timeout, prepared - asked,
    latency:percentile(99) / 1e6))
end
"""

_ASK: Final = """\
local requests, number = {}, 0

function init(args)
  local kind, pause = args[2], tonumber(args[3])
  for line in io.lines(args[1]) do
    if kind == "GET" then
      requests[#requests + 1] = wrk.format("GET", line)
    else
      local body = line:gsub("%x%x", function(octet) return string.char(tonumber(octet, 16)) end)
      requests[#requests + 1] =
        wrk.format("POST", nil, {["Content-Type"] = "application/ocsp-request"}, body)
    end
  end
  if pause > 0 then delay = function() return pause end end
end

function request()
  number = number % #requests + 1
  return requests[number]
end

function done(summary, latency)
  local lost = summary.errors
  io.write(string.format(
    '{"answers": %d, "seconds": %.6f, "refused": %d, "lost": %d, "spare": 0, "p50": %.6f, '
      .. '"p99": %.6f}\\n',
    summary.requests, summary.duration / 1e6, lost.status,
    lost.connect + lost.read + lost.write + lost.timeout,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
"""


@dataclass(frozen=True, slots=True)
class Asking:
    """How wrk asks. ``connections``: open at a time; ``pause``: milliseconds on each between an
    answer and the next request; ``core``: the processor it runs on."""

    connections: int = 32
    seconds: float = 1.0
    pause: int = 0
    core: int = 1


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of it: answers a second, and how long half and 99 % of them took, in seconds."""

    rate: float
    p50: float
    p99: float


def installed() -> bool:
    """Whether there is a wrk."""
    return shutil.which("wrk") is not None


def write_script(path: Path) -> None:
    """What makes wrk send the lines of a file."""
    path.write_text(_POST)


def write_bodies(path: Path, bodies: Iterable[dict[str, str]]) -> None:
    """One JSON object a line, as the script reads them."""
    path.write_text("".join(f"{json.dumps(body)}\n" for body in bodies))


async def rate(url: str, bodies: Path, script: Path, token: str | None = None) -> float:
    """Answers a second, ``CONNECTIONS`` requests at a time for ``SECONDS``, on one thread.

    Errors: ``RuntimeError`` when any answer is not 2xx, a connection fails, or there are too few
    bodies for each request to have its own.
    """
    printed = await output(
        *("wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--timeout", "10s"),
        *("--duration", f"{SECONDS}s", "--script", script, url, "--", bodies),
        *(() if token is None else (token,)),
        within=SECONDS + 30.0,
    )
    return judged(printed)


def write_targets(path: Path, targets: Iterable[str]) -> None:
    """One path a line, for ``ask`` by GET."""
    path.write_text("".join(f"{target}\n" for target in targets))


def write_octets(path: Path, bodies: Iterable[bytes]) -> None:
    """One body a line, for ``ask`` by POST."""
    path.write_text("".join(f"{body.hex()}\n" for body in bodies))


async def ask(url: str, method: str, lines: Path, how: Asking) -> Answered:
    """Ask with each line of a file in turn. Errors: ``RuntimeError`` when an answer is no 2xx or a
    connection fails."""
    script = lines.with_name("ask.lua")
    script.write_text(_ASK)
    printed = await output(
        *("taskset", "-c", str(how.core), "wrk", "--threads", "1", "--latency"),
        *("--connections", str(how.connections), "--duration", f"{how.seconds:g}s"),
        *("--timeout", "10s", "--script", script, url, "--"),
        lines,
        method,
        str(how.pause),
        within=how.seconds + 30.0,
    )
    result = json.loads(printed.splitlines()[-1])
    return Answered(judged(printed), result["p50"], result["p99"])


def judged(printed: str) -> float:
    """Answers a second, as wrk has printed them. Errors: see ``rate``."""
    result = json.loads(printed.splitlines()[-1])
    if result["refused"] or result["lost"] or not result["answers"]:
        raise RuntimeError(
            f"of {result['answers']} requests {result['refused']} were refused "
            f"and {result['lost']} lost"
        )
    if result["spare"] < 0:
        raise RuntimeError(f"{-result['spare']} requests were sent twice: prepare more of them")
    return float(result["answers"] / result["seconds"])
