"""``digitalid log``: the tamper-evident log of every act."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cli import certificate, files
from cli.command import Group, Session
from cli.output import BAD, DONE, GOOD, NEGATIVE, Answer, Fields, Line, Verbatim
from infra.errors import Broken


@click.group(cls=Group)
def log() -> None:
    """The tamper-evident log: verify, prove, checkpoint.

    Every act of the CA is an entry; a checkpoint is a signed statement of all entries so far.
    """


@log.command("verify")
@click.pass_obj
async def verify(session: Session) -> Answer:
    """Replay the whole log against its checkpoints, and name the first altered entry.

    Exit code 1: the log was altered.

    \b
    Example:
      digitalid log verify && echo unaltered
    """
    from cli.progress import working

    report: dict[str, Any] | None = None
    async with session.connect(watch=False) as client:
        with working("entries") as progress:
            async for line in client.lines("/log/verify"):
                if "report" in line:
                    report = line["report"]
                elif "done" in line:
                    progress(line["done"], line["total"])
                else:
                    raise Broken(str(line.get("code", "bad-reply")), str(line.get("detail", "")))
    if report is None:
        raise Broken("bad-reply", "the instance stopped before its report")
    whole = bool(report["ok"])
    shown = tuple(
        (name.replace("_", " "), str(value))
        for name, value in report.items()
        if name != "ok" and isinstance(value, str | int)
    )
    verdict = Line("The log is unaltered.", GOOD) if whole else Line("The log was ALTERED.", BAD)
    return Answer(report, (verdict, Fields(shown)), DONE if whole else NEGATIVE)


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
