"""``digitalid profile``: what the CA issues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.command import Group, Session
from cli.output import BAD, DONE, GOOD, NEGATIVE, Answer, Block, Line, Table, Verbatim


@click.group(cls=Group)
def profile() -> None:
    """Certificate profiles: list, show, check."""


@profile.command("list")
@click.pass_obj
async def list_all(session: Session) -> Answer:
    """Every profile, with what it is for.

    \b
    Example:
      digitalid profile list
    """
    async with session.connect() as client:
        reply = await client.get("/profiles")
    rows = tuple(
        (
            str(view["name"]),
            _joined(view.get("lifetime", view.get("validity"))),
            "the CA itself" if view.get("reserved") else "requests",
            str(view.get("description", view.get("title", ""))),
        )
        for view in reply["profiles"]
    )
    return Answer(reply, (Table(("NAME", "LIFETIME", "ISSUED TO", "FOR"), rows),))


@profile.command("show")
@click.argument("name")
@click.pass_obj
async def show(session: Session, name: str) -> Answer:
    """One profile in full: keys, subject, extensions.

    \b
    Example:
      digitalid profile show tls-server
    """
    from cli.client import segment

    async with session.connect() as client:
        view = await client.get(f"/profiles/{segment(name)}")
    return Answer(view, (Verbatim("\n".join(_outline(view)) + "\n"),))


@profile.command("check")
@click.argument("name", required=False)
@click.option(
    "--file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A profile that is not in use yet.",
)
@click.pass_obj
async def check(session: Session, name: str | None, file: Path | None) -> Answer:
    """Make a certificate of the profile with a throwaway key, and lint it.

    Without NAME and --file every profile is checked. Exit code 1: there are findings at error
    level, with which nothing would be issued.

    \b
    Example:
      digitalid profile check --file my-profile.toml
    """
    from cli.client import segment

    if name and file:
        raise click.UsageError("NAME and --file exclude each other")
    checked: dict[str, list[dict[str, Any]]] = {}
    if file is not None:
        from cli.profile_file import check_file

        checked[str(file)] = await check_file(file)
    else:
        async with session.connect() as client:
            names = (
                [name] if name else [p["name"] for p in (await client.get("/profiles"))["profiles"]]
            )
            for each in names:
                reply = await client.post(f"/profiles/{segment(each)}/check")
                checked[each] = reply["findings"]
    blocks: list[Block] = []
    failed = False
    for each, findings in checked.items():
        errors = sum(finding["severity"] == "error" for finding in findings)
        failed = failed or errors > 0
        verdict = f"{each}: {errors} errors, {len(findings) - errors} other findings"
        blocks.append(Line(verdict, BAD if errors else GOOD))
        blocks += [
            Line(
                f"  {f['severity']}: {f['code']}: {f['detail']}",
                BAD if f["severity"] == "error" else "",
            )
            for f in findings
        ]
    document: dict[str, Any] = {
        "profiles": [{"name": each, "findings": findings} for each, findings in checked.items()],
        "ok": not failed,
    }
    return Answer(document, tuple(blocks), NEGATIVE if failed else DONE)


def _joined(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return "" if value is None else str(value)


def _outline(value: object, depth: int = 0) -> list[str]:
    """JSON as indented lines: what a profile holds is nested, and a table cannot show that."""
    from cli.output import clean

    indent = "  " * depth
    if isinstance(value, dict):
        lines: list[str] = []
        for key, inner in value.items():
            if isinstance(inner, dict) or (
                isinstance(inner, list) and any(isinstance(i, dict | list) for i in inner)
            ):
                lines += [f"{indent}{clean(str(key))}:", *_outline(inner, depth + 1)]
            else:
                lines.append(f"{indent}{clean(str(key))}: {clean(_scalar(inner))}")
        return lines
    if isinstance(value, list):
        return [line for item in value for line in _item(item, depth)]
    return [f"{indent}{clean(_scalar(value))}"]


def _item(value: object, depth: int) -> list[str]:
    first, *rest = _outline(value, depth + 1) or [""]
    return [f"{'  ' * depth}- {first.strip()}", *rest]


def _scalar(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(_scalar, value)) or "-"
        case _:
            return str(value)
