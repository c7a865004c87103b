"""``digitalid log``: the tamper-evident log of every act."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from cli import certificate, files
from cli.command import Group, Session
from cli.output import BAD, GOOD, NEGATIVE, Answer, Fields, Line, Verbatim
from infra.errors import Broken, Failure, Rejected, Unavailable

MAX_KEPT = 1024 * 1024
"""Octets of a file with checkpoints or a key."""

_NOTE = re.compile(rb"(?:[^\n]+\n)+\n(?:\xe2\x80\x94 [^\n]+\n)+")
"""A signed note: lines of text, an empty line, signature lines."""


@click.group(cls=Group)
def log() -> None:
    """The tamper-evident log: verify, prove, checkpoint.

    Every act of the CA is an entry; a checkpoint is a signed statement of all entries so far.
    """


@log.command("verify")
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file of checkpoints that you kept elsewhere; may be repeated.",
)
@click.option(
    "--log-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The log's public key (PEM) that you kept elsewhere.",
)
@click.pass_obj
async def verify(session: Session, checkpoints: tuple[Path, ...], log_key: Path | None) -> Answer:
    """Replay the whole log against its checkpoints, and compare each certificate with it.

    Names the first altered entry, and certificates whose status or octets are not what the log
    says. Whoever can write the home folder can rewrite all of it: only a checkpoint and the key
    that you kept elsewhere tell. Exit code 1: the log or the ledger was altered.

    \b
    Example:
      digitalid log verify && echo unaltered
      digitalid log verify --checkpoint kept.txt --log-key log.pem
    """
    from cli.progress import working

    kept = b"\n".join(files.read(path, limit=MAX_KEPT) for path in checkpoints)
    notes = [found.group().lstrip(b"\n") for found in _NOTE.finditer(kept)]
    if checkpoints and not notes:
        raise Rejected("bad-note", f"{checkpoints[0]} holds no checkpoint")
    pem = None if log_key is None else files.read(log_key, limit=MAX_KEPT)
    with working("entries") as progress:
        report = await _replayed(session, notes, pem, progress)
    shown: list[tuple[str, str]] = [
        (name.replace("_", " "), str(value))
        for name, value in report.items()
        if name != "ok" and isinstance(value, str | int)
    ]
    if report["ok"]:
        whole = Line("The log is unaltered, and the ledger is as it says.", GOOD)
        return Answer(report, (whole, Fields(tuple(shown))))
    found = tuple(
        Line(f"  {finding['code']}: {finding['detail']}", BAD) for finding in report["findings"]
    )
    in_ledger = all(finding.get("certificate") for finding in report["findings"])
    altered = "The ledger was ALTERED: it is not as the log says." if in_ledger else None
    verdict = Line(altered or "The log was ALTERED.", BAD)
    return Answer(report, (verdict, *found, Fields(tuple(shown))), NEGATIVE)


async def _replayed(
    session: Session,
    notes: list[bytes],
    pem: bytes | None,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """The report of the running instance, or of a replay of our own: an altered log keeps an
    instance from starting, and what it finishes when it starts is not to be hidden."""
    from cli.instance import answers
    from infra.state import ADMIN_SOCKET
    from infra.unix_socket import reachable

    with reachable(session.home / ADMIN_SOCKET) as address:
        runs = answers(address)
    if not runs:
        from cli.compose import audit
        from pki.log.http import decode_public_key, report_view

        key = None if pem is None else decode_public_key(pem)
        report = await audit(session.settings, key=key, trusted=notes, progress=progress)
        return report_view(report)
    body = {
        "checkpoints": [note.decode("utf-8", "replace") for note in notes],
        "key_pem": None if pem is None else pem.decode("ascii", "replace"),
    }
    async with session.connect(watch=False) as client:
        async for line in client.lines("/log/verify", body):
            if "report" in line:
                found: dict[str, Any] = line["report"]
                return found
            if "done" not in line:
                raise _ended(line)
            progress(line["done"], line["total"])
    raise Broken("bad-reply", "the instance stopped before its report")


def _ended(line: Mapping[str, Any]) -> Failure:
    """Why the instance has no report, as HTTP would have said it."""
    kinds: dict[object, type[Failure]] = {400: Rejected, 503: Unavailable}
    kind = kinds.get(line.get("status"), Broken)
    return kind(str(line.get("code", "bad-reply")), str(line.get("detail", "")))


@log.command("prove")
@click.argument("which", metavar="CERT")
@click.option("--ca", metavar="NAME", help="The CA that issued it.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, allow_dash=True),
    help="JSON goes here; - is standard output.",
)
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@click.pass_obj
async def prove(
    session: Session, which: str, ca: str | None, out: Path, force: bool
) -> Answer | None:
    """Prove that a certificate (serial number or file) is in the log.

    The file is self-contained: whoever has it and the log's public key can check it.

    \b
    Example:
      digitalid log prove web.pem --out web.proof.json
    """
    files.check_free(out, force=force)
    async with session.connect() as client:
        located = await certificate.locate(client, which, ca)
        path = located.path.replace("/certificates/", "/log/proof/", 1)
        proof = await client.get(path, located.query)
    files.write(out, (json.dumps(proof, indent=2) + "\n").encode(), force=force)
    if out == files.STANDARD:
        return None
    return Answer({"file": str(out), "proof": proof}, (Line(f"Wrote the proof to {out}."),))


@log.command("checkpoint")
@click.option("--sign", is_flag=True, help="Sign a new one of the log as it is now.")
@click.pass_obj
async def checkpoint(session: Session, sign: bool) -> Answer:
    """The newest checkpoint, as a signed note (C2SP).

    Keep copies elsewhere: the log cannot be altered under a checkpoint that others hold.

    \b
    Example:
      digitalid log checkpoint --sign >> checkpoints.txt
    """
    async with session.connect() as client:
        head = await (client.post("/log/checkpoint") if sign else client.get("/log"))
    if not head.get("checkpoint"):
        return Answer(head, (Line("There is no checkpoint yet; --sign makes one."),), NEGATIVE)
    return Answer(head, (Verbatim(str(head["checkpoint"])),))
