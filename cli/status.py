"""``digitalid status``: whether the instance does its work, and what to do if not."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

import click

from cli.command import Command, Session
from cli.output import (
    BAD,
    DONE,
    GOOD,
    NEGATIVE,
    WARNING,
    Answer,
    Block,
    Fields,
    Line,
    Table,
    counted,
)
from infra.errors import Unavailable

if TYPE_CHECKING:
    from cli.client import Reply

ANSWER_TIMEOUT: Final = 10.0
"""Seconds that an instance may take to say how it is; it waits for nobody to do so."""

_STOPPED: Final = frozenset({"failing", "cut off", "starting"})
"""Where health is 503."""

_SAID: Final = {
    "ok": ("It does its work.", GOOD),
    "behind": ("It answers, but something is amiss.", WARNING),
    "starting": ("It is starting, and answers nothing yet.", WARNING),
}


@click.command("status", cls=Command)
@click.pass_obj
async def status(session: Session) -> Answer:
    """Whether the instance of the home folder does its work, and what to do if not.

    The exit code is 1 while something stops issuing or answering, as health is 503 then, and 4
    when no instance runs. Nothing is started for it.

    \b
    Example:
      digitalid status
    """
    from cli.client import ApiClient
    from cli.instance import answers
    from infra.state import ADMIN_SOCKET
    from infra.unix_socket import reachable

    with reachable(session.home / ADMIN_SOCKET) as address:
        if not answers(address):
            raise Unavailable(
                "not-running",
                f"no instance runs in {session.home}, or it has not come up yet; start it with: "
                f"digitalid --home {shlex.quote(str(session.home))} serve",
            )
        async with ApiClient(address, answer_timeout=ANSWER_TIMEOUT) as client:
            document = await client.get("/status")
    stopped = document["status"] in _STOPPED
    blocks: list[Block] = [_verdict(document)]
    if document["failing"]:
        blocks.append(_troubles(document))
    if document.get("ending"):
        blocks.append(_ending(document))
    blocks.append(_fields(document))
    if document["authorities"]:
        validation = "feed" in document
        blocks.append(_followed(document) if validation else _issuing(document))
    return Answer(document, tuple(blocks), NEGATIVE if stopped else DONE)


def _verdict(document: Reply) -> Line:
    said, tone = _SAID.get(document["status"], ("It does not do all its work.", BAD))
    if tone == GOOD and document["failing"]:
        said, tone = "It issues and answers, but something else fails.", WARNING
    elif tone == GOOD and document.get("ending"):
        said, tone = "It does its work, and a certificate ends.", WARNING
    return Line(f"{said} It runs since {document['since']}.", tone)


def _troubles(document: Reply) -> Fields:
    """What fails and what to do, once for all keys that fail alike: they are on one token."""
    rows: list[tuple[str, str]] = []
    keys: dict[str, tuple[list[str], str]] = {}
    for one in document["failing"]:
        kind, _, name = one["what"].partition(" ")
        if kind == "key":
            keys.setdefault(one["code"], ([], one["detail"]))[0].append(name)
        else:
            rows.append((one["what"], f"{one['code']}: {one['detail']}"))
    alike = [
        ("keys", f"{', '.join(names)}: {code}: {detail}") for code, (names, detail) in keys.items()
    ]
    return Fields((*alike, *rows))


def _ending(document: Reply) -> Fields:
    """Certificates that end soon or have ended, and what to do."""
    return Fields(
        tuple(
            (
                f"{one['role']} {one['name']}",
                f"{'ended' if one['ended'] else 'ends'} {_minute(one['not_after'])}: "
                f"{one['to_do']}",
            )
            for one in document["ending"]
        )
    )


def _fields(document: Reply) -> Fields:
    age = document["keys_age"]
    looked = "" if age is None else f", looked at {age:.0f} s ago"
    rows = [
        ("version", str(document["version"])),
        ("home", str(document["home"])),
        ("keys", f"{document['keys']}{looked}"),
    ]
    if "log_size" in document:
        rows.append(("ledger", counted(document["sequence"], "change", "changes")))
        rows.append(("log", counted(document["log_size"], "leaf", "leaves")))
    for name, view in document.get("directories", {}).items():
        behind = view["behind"]
        said = f"{behind} changes behind" if behind else "up to date"
        rows.append(("directory", said if name == "main" else f"{name}: {said}"))
    feed = document.get("feed")
    if feed:
        lag = "nothing heard yet" if feed["lag"] is None else f"heard {feed['lag']:.0f} s ago"
        rows.append(("feed", f"{feed['url']}, up to change {feed['applied']}, {lag}"))
    return Fields(tuple(rows))


def _issuing(document: Reply) -> Block:
    rows = tuple(
        (
            one["name"],
            one["key"],
            _day(one["not_after"]),
            _minute(one["next_update"]),
            one["responder_key"] or "-",
            _day(one["responder_not_after"]),
        )
        for one in document["authorities"]
    )
    return Table(("CA", "KEY", "VALID TO", "NEXT CRL BY", "OCSP KEY", "VALID TO"), rows)


def _followed(document: Reply) -> Block:
    rows = tuple(
        (
            one["name"],
            one.get("source", "-"),
            one.get("failing") or "answers",
            _day(one.get("certificate_ends")),
            _minute(one.get("next_update")),
        )
        for one in document["authorities"]
    )
    return Table(("CA", "SOURCE", "STATUS", "VALID TO", "NEXT CRL BY"), rows)


def _day(moment: str | None) -> str:
    return "-" if moment is None else moment[:10]


def _minute(moment: str | None) -> str:
    return "-" if moment is None else f"{moment[:16]}Z"
