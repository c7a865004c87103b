"""What ``digitalid cert revoke-many`` does: steps of a job until it is over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cli import files
from cli.client import ApiClient, segment
from cli.output import Answer, Fields, Line
from infra.errors import Rejected

_LIST: Final = 500
_MAX_LIST: Final = 1 << 30  # octets: some 30 million serial numbers
_PATH: Final = "/revocations"


async def revoke_many(
    client: ApiClient,
    asked: Mapping[str, object],
    serials: Path | None,
    *,
    rehearse: bool,
    progress: Callable[[int, int], None],
) -> Answer:
    """Revoke, or rehearse it, and say what became of it."""
    total: dict[str, Any] = {"revoked": 0, "already": 0, "unknown": []}
    growth: dict[str, dict[str, int]] = {}
    rate, measured = 1.0, False
    steps = (
        _over_list(client, asked, read_serials(serials), rehearse=rehearse, progress=progress)
        if serials is not None
        else _over_ledger(client, asked, rehearse=rehearse, progress=progress)
    )
    # A job counts from its own beginning, a rehearsal and a list step by step.
    counts_itself = serials is None and not rehearse
    async for step in steps:
        for name in ("revoked", "already"):
            total[name] = step[name] + (0 if counts_itself else total[name])
        total["unknown"] += step["unknown"]
        for scope, more in step["growth"].items():
            known = growth.setdefault(scope, {"entries": 0, "octets": 0})
            for name in known:
                known[name] += more[name]
        rate, measured = step["rate"], step["rate_measured"]
    if not rehearse:
        return _done(total)
    seconds = total["revoked"] / rate
    crls = {scope: await _grown(client, scope, more) for scope, more in growth.items()}
    document = {**total, "rehearsal": True, "seconds": seconds, "rate": rate, "crls": crls}
    said = "as the last job did" if measured else "which no job here has measured yet"
    rows = (
        ("to be revoked", str(total["revoked"])),
        ("revoked already", str(total["already"])),
        ("not known here", str(len(total["unknown"])) if total["unknown"] else ""),
        ("time", f"{seconds:.0f} s, at {rate:.0f} a second, {said}"),
    )
    sizes = tuple(
        (f"CRL of {scope}", f"{view['entries']} entries, {view['octets']} octets")
        for scope, view in sorted(crls.items())
    )
    note = Line("This was a rehearsal: nothing is changed. Without --rehearse it is done.")
    return Answer(document, (Fields((*rows, *sizes)), note))


def read_serials(path: Path) -> list[str]:
    """Serial numbers in hexadecimal, one a line; empty lines and those from # on do not count.

    Errors: ``bad-serial``, those of reading a file.
    """
    from pki.serial import format_serial, parse_serial

    found: dict[str, None] = {}
    lines = files.read(path, limit=_MAX_LIST).decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            found[format_serial(parse_serial(text))] = None
        except Rejected as error:
            raise Rejected(error.code, f"{path}, line {number}: {error.detail}") from error
    if not found:
        raise Rejected("bad-serial", f"{path} lists no serial number")
    return list(found)


async def _over_ledger(
    client: ApiClient,
    asked: Mapping[str, object],
    *,
    rehearse: bool,
    progress: Callable[[int, int], None],
) -> AsyncIterator[dict[str, Any]]:
    after, done = 0, False
    while not done:
        step = await client.post(_PATH, {**asked, "rehearse": rehearse, "after": after})
        after, done = step["position"], step["done"]
        progress(after, step["end"])
        yield step


async def _over_list(
    client: ApiClient,
    asked: Mapping[str, object],
    serials: list[str],
    *,
    rehearse: bool,
    progress: Callable[[int, int], None],
) -> AsyncIterator[dict[str, Any]]:
    for at in range(0, len(serials), _LIST):
        some = serials[at : at + _LIST]
        yield await client.post(_PATH, {**asked, "rehearse": rehearse, "serials": some})
        progress(at + len(some), len(serials))


def _done(total: dict[str, Any]) -> Answer:
    lines = [Line(f"Revoked {total['revoked']}; {total['already']} were revoked before.")]
    if total["unknown"]:
        lines.append(Line(f"{len(total['unknown'])} are not known here; --json lists them."))
    return Answer({**total, "rehearsal": False}, tuple(lines))


async def _grown(client: ApiClient, scope: str, more: Mapping[str, int]) -> dict[str, int]:
    now = await client.get(f"/authorities/{segment(scope)}/crl")
    return {"entries": now["entries"] + more["entries"], "octets": now["size"] + more["octets"]}
