"""``digitalid cert revoke-many``: many certificates revoked at once, a step after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cli import certificate, files
from cli.certificate import FILE, REASON, ca_option
from cli.command import Command, Session
from cli.output import Answer, Fields, Line, counted
from infra.errors import Rejected

if TYPE_CHECKING:
    from cli.client import ApiClient

_PART: Final = 500
_MAX_LIST: Final = 1 << 30  # octets: some 30 million serial numbers
_PATH: Final = "/revocations"

Progress = Callable[[int, int], None]


@click.command("revoke-many", cls=Command)
@click.option("--profile", metavar="NAME", help="Those of this profile.")
@click.option("--algorithm", metavar="ALG", help="Those signed with it, as in sha256-with-rsa.")
@click.option("--key-type", metavar="TYPE", help="Those with such a key, as in rsa-2048.")
@click.option("--issued-after", type=certificate.MOMENT, help="Issued then or later.")
@click.option("--issued-before", type=certificate.MOMENT, help="Issued before.")
@click.option("--serials", type=FILE, help="A file of serial numbers, one a line.")
@click.option("--keys", type=FILE, help="A file of keys, SHA-256 of each, one a line.")
@click.option("--reason", type=REASON, help="Why, as for 'digitalid cert revoke'.")
@click.option(
    "--invalidity-date",
    type=certificate.MOMENT,
    help="Since when the keys are suspect, if that was before now.",
)
@click.option("--rehearse", is_flag=True, help="Say how many, how long, how large the CRLs get.")
@click.option("--resume", is_flag=True, help="Go on with all that was interrupted.")
@ca_option
@click.pass_obj
async def revoke_many(
    session: Session,
    profile: str | None,
    algorithm: str | None,
    key_type: str | None,
    issued_after: datetime | None,
    issued_before: datetime | None,
    serials: Path | None,
    keys: Path | None,
    reason: str | None,
    invalidity_date: datetime | None,
    rehearse: bool,
    resume: bool,
    ca: str | None,
) -> Answer:
    """Revoke all certificates that match all that is given, for good.

    Expired ones are left out, and those that speak for a CA unless --profile or
    a list names theirs. Rehearse it first. What was interrupted goes on with
    --resume, or when the same is asked again; a list is kept with it.

    A key of a batch is named by the SHA-256 of its SubjectPublicKeyInfo.

    \b
    Example:
      digitalid cert revoke-many --key-type rsa-2048 --reason superseded \\
          --issued-before 2026-01-01 --rehearse
      digitalid cert revoke-many --keys batch-17.txt --reason keyCompromise
    """

    def text(at: datetime | None) -> str | None:
        return None if at is None else certificate.text_of(at)

    chosen = {
        "profile": profile,
        "algorithm": algorithm,
        "key_type": key_type,
        "issued_after": text(issued_after),
        "issued_before": text(issued_before),
    }
    ways = [any(chosen.values()), serials is not None, keys is not None, resume]
    if sum(ways) != 1:
        raise click.UsageError(
            "name what to revoke: --serials FILE, --keys FILE, --resume, or some of --profile, "
            "--algorithm, --key-type, --issued-after and --issued-before"
        )
    if (reason is None) != resume or (resume and rehearse):
        raise click.UsageError("--reason goes with everything but --resume, which stands alone")
    from cli.progress import working

    asked: dict[str, object] = {
        "reason": reason,
        "invalidity_date": text(invalidity_date),
        "ca": ca,
        **chosen,
    }
    async with session.connect(watch=False) as client:
        with working("certificates") as progress:
            if resume:
                return await _resumed(client, progress)
            listed = None if serials is None else _read(serials, "serials")
            listed = listed if keys is None else _read(keys, "keys")
            if rehearse:
                return await _rehearsed(client, asked, listed, progress)
            if listed is not None:
                await _send(client, listed, progress)
                asked["kept"] = listed.reference
            return _done([await _worked(client, asked, progress)])


@dataclass(frozen=True, slots=True)
class _List:
    """What a file names: ``serials`` or ``keys``, as the API takes them."""

    kind: str
    items: list[str]
    digest: str

    def parts(self) -> list[list[str]]:
        return [self.items[at : at + _PART] for at in range(0, len(self.items), _PART)]

    @property
    def reference(self) -> dict[str, object]:
        return {"kind": self.kind, "digest": self.digest, "parts": len(self.parts())}


def _read(path: Path, kind: str) -> _List:
    """One item a line; empty lines and those from # on do not count.

    Errors: ``bad-serial``, ``bad-key-hash``, ``empty-list``, those of reading a file.
    """
    import hashlib

    from pki.mass_http import parse_item
    from pki.mass_query import ListKind, framed

    which = ListKind(kind)
    found: dict[bytes, None] = {}
    lines = files.read(path, limit=_MAX_LIST).decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            found[parse_item(which, text)] = None
        except Rejected as error:
            raise Rejected(error.code, f"{path}, line {number}: {error.detail}") from error
    if not found:
        raise Rejected("empty-list", f"{path} names nothing")
    whole = hashlib.sha256()
    for item in found:
        whole.update(framed([item]))
    return _List(kind, [item.hex() for item in found], whole.hexdigest())


async def _send(client: ApiClient, listed: _List, progress: Progress) -> None:
    """Give the instance the whole list, which it keeps with the job."""
    parts = listed.parts()
    for number, items in enumerate(parts):
        body = {"kind": listed.kind, "digest": listed.digest, "part": number, "items": items}
        await client.post(f"{_PATH}/lists", body)
        progress(number + 1, len(parts))


async def _worked(
    client: ApiClient, asked: Mapping[str, object], progress: Progress
) -> dict[str, Any]:
    """Do steps of a job until it is over; what it has done from its own beginning."""
    unknown: list[str] = []
    while True:
        step = await client.post(_PATH, asked)
        unknown += step["unknown"]
        progress(step["position"], step["end"])
        if step["done"]:
            return {
                "job": step["job"],
                "revoked": step["revoked"],
                "already": step["already"],
                "unknown": unknown,
            }
        asked = {"job": step["job"]}


async def _resumed(client: ApiClient, progress: Progress) -> Answer:
    jobs = (await client.get(_PATH))["jobs"]
    if not jobs:
        return Answer(
            {"rehearsal": False, "jobs": [], "revoked": 0, "already": 0, "unknown": []},
            (Line("Nothing was interrupted."),),
        )
    return _done([await _worked(client, {"job": job["job"]}, progress) for job in jobs])


async def _rehearsed(
    client: ApiClient, asked: Mapping[str, object], listed: _List | None, progress: Progress
) -> Answer:
    """Say what would be revoked, how long it would take and how large the CRLs would get."""
    total: dict[str, Any] = {"revoked": 0, "already": 0, "unknown": []}
    growth: dict[str, dict[str, int]] = {}
    rate, measured = 1.0, False
    steps = (
        _over_ledger(client, asked, progress)
        if listed is None
        else _over_list(client, asked, listed, progress)
    )
    async for step in steps:
        for name in ("revoked", "already", "unknown"):
            total[name] += step[name]
        for scope, more in step["growth"].items():
            known = growth.setdefault(scope, {"entries": 0, "octets": 0})
            for name in known:
                known[name] += more[name]
        rate, measured = step["rate"], step["rate_measured"]
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
        (
            f"CRL of {scope}",
            f"{counted(view['entries'], 'entry', 'entries')}, {view['octets']} octets",
        )
        for scope, view in sorted(crls.items())
    )
    note = Line("This was a rehearsal: nothing is changed. Without --rehearse it is done.")
    return Answer(document, (Fields((*rows, *sizes)), note))


async def _over_ledger(
    client: ApiClient, asked: Mapping[str, object], progress: Progress
) -> AsyncIterator[dict[str, Any]]:
    after, done = 0, False
    while not done:
        step = await client.post(_PATH, {**asked, "rehearse": True, "after": after})
        after, done = step["position"], step["done"]
        progress(after, step["end"])
        yield step


async def _over_list(
    client: ApiClient, asked: Mapping[str, object], listed: _List, progress: Progress
) -> AsyncIterator[dict[str, Any]]:
    parts = listed.parts()
    for number, items in enumerate(parts, 1):
        body = {**asked, "rehearse": True, "kind": listed.kind, "items": items}
        yield await client.post(_PATH, body)
        progress(number, len(parts))


def _done(jobs: list[dict[str, Any]]) -> Answer:
    revoked, already = (sum(job[name] for job in jobs) for name in ("revoked", "already"))
    unknown = [one for job in jobs for one in job["unknown"]]
    said = f"Revoked {revoked}; revoked before: {already}."
    lines = [Line(said if revoked or already else "No certificate matches: nothing is revoked.")]
    if unknown:
        lines.append(Line(f"{len(unknown)} are not known here; --json lists them."))
    document = {"revoked": revoked, "already": already, "unknown": unknown}
    names = [job["job"] for job in jobs]
    return Answer({**document, "rehearsal": False, "jobs": names}, tuple(lines))


async def _grown(client: ApiClient, scope: str, more: Mapping[str, int]) -> dict[str, int]:
    from cli.client import segment

    now = await client.get(f"/authorities/{segment(scope)}/crl")
    return {"entries": now["entries"] + more["entries"], "octets": now["size"] + more["octets"]}
