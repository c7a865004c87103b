"""Leading a ceremony: its script, a rehearsal, the ceremony, and going on after a stop."""

from __future__ import annotations

import re
import shutil
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cli import files
from cli.ceremony.group import LANGUAGE, ceremony
from cli.command import Session
from cli.output import (
    GOOD,
    WARNING,
    Answer,
    Block,
    Fields,
    Json,
    Line,
    Table,
    Verbatim,
)
from infra.errors import Rejected

if TYPE_CHECKING:
    from pki.ceremony.script import Script

REHEARSAL: Final = "rehearsal"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@ceremony.command("scripts")
@click.argument("name", required=False)
@click.pass_obj
def scripts(session: Session, name: str | None) -> Answer:
    """The scripts that come with the product; with NAME, one of them, to be copied.

    \b
    Example:
      digitalid ceremony scripts root-creation > root.toml
    """
    from pki.ceremony.script import parse_script

    if name is not None:
        text = _shipped(name)
        return Answer({"name": name, "script": text}, (Verbatim(text),))
    folder = resources("conf").joinpath("ceremonies")
    rows = [
        (path.name.removesuffix(".toml"), parse_script(path.read_text()).title.en)
        for path in sorted(folder.iterdir(), key=lambda path: path.name)
    ]
    return Answer(
        {"scripts": [{"name": name, "title": title} for name, title in rows]},
        (Table(("NAME", "WHAT"), tuple(rows)),),
    )


@ceremony.command("plan")
@click.argument("script")
@click.option("--language", type=LANGUAGE, default="en", show_default=True)
@click.pass_obj
def plan(session: Session, script: str, language: str) -> Answer:
    """Check SCRIPT (a file, or a name of 'scripts') and show what it will do, step by step.

    \b
    Example:
      digitalid ceremony plan root.toml
    """
    from pki.ceremony.script import parse_script, step_name
    from pki.ceremony.text import say

    read = parse_script(_script(script))
    _check_profiles(session, read)
    steps: list[Json] = []
    blocks: list[Block] = [
        Line(read.title.of(language)),
        Fields(
            (
                (say(language, "participants"), _people(read, language)),
                (say(language, "token"), f"{read.token.label} ({read.token.store})"),
                (say(language, "URLs"), read.public_url),
            )
        ),
    ]
    rows = []
    for number, step in enumerate(read.step, 1):
        act = say(language, f"act:{step_name(step)}")
        named = next(
            (
                str(getattr(step, field))
                for field in ("name", "key", "input", "issuer")
                if getattr(step, field, None)
            ),
            "",
        )
        roles = [role for role in step.confirm if getattr(read.people, role.value)]
        if step_name(step) in ("attend", "close"):
            roles = []
        confirm = ", ".join(say(language, f"role:{role.value}") for role in roles)
        rows.append((str(number), act, named, confirm or say(language, "everybody")))
        steps.append({"step": number, "act": step_name(step), "object": named})
    headings = (
        say(language, "STEP"),
        say(language, "WHAT"),
        say(language, "OBJECT"),
        say(language, "CONFIRMED BY"),
    )
    blocks.append(Table(headings, tuple(rows)))
    return Answer({"kind": read.kind, "title": read.title.en, "steps": steps}, tuple(blocks))


@ceremony.command("run")
@click.argument("script")
@click.option("--name", help="Of the ceremony's folder; the script's kind if not given.")
@click.option("--language", type=LANGUAGE, default="en", show_default=True)
@click.pass_obj
def run(session: Session, script: str, name: str | None, language: str) -> Answer:
    """Hold the ceremony of SCRIPT, on this terminal, with everybody present.

    It can be paused at any question, and goes on after a power loss with 'resume'.

    \b
    Example:
      digitalid --home /srv/offline ceremony run root.toml --name root-2026
    """
    return _begin(session, session.home, script, name, language, rehearsal=False)


@ceremony.command("rehearse")
@click.argument("script")
@click.option("--name", help="Of the rehearsal's folder; the script's kind if not given.")
@click.option("--language", type=LANGUAGE, default="en", show_default=True)
@click.option("--anew", is_flag=True, help="Throw away everything that was rehearsed before.")
@click.pass_obj
def rehearse(session: Session, script: str, name: str | None, language: str, anew: bool) -> Answer:
    """Hold the ceremony of SCRIPT on throwaway tokens, in a folder apart.

    What was rehearsed before stays, so that a root and what follows it can be rehearsed in their
    order. Every page says that it is a rehearsal.

    \b
    Example:
      digitalid ceremony rehearse root.toml
    """
    home = session.home / REHEARSAL
    if anew and home.exists():
        shutil.rmtree(home)
    return _begin(session, home, script, name, language, rehearsal=True)


@ceremony.command("resume")
@click.argument("name", required=False)
@click.option("--rehearsal", is_flag=True, help="A rehearsal, not a ceremony.")
@click.pass_obj
def resume(session: Session, name: str | None, rehearsal: bool) -> Answer:
    """Go on with a ceremony that was paused or interrupted, exactly where it stood.

    \b
    Example:
      digitalid --home /srv/offline ceremony resume
    """
    from pki.ceremony.archive import past

    home = session.home / REHEARSAL if rehearsal else session.home
    unfinished = [each for each in past(home) if not each.told.finished]
    found = [each for each in unfinished if name in (None, each.name)]
    if len(found) != 1:
        there = ", ".join(each.name for each in unfinished) or "none"
        raise Rejected("nothing-to-resume", f"ceremonies that are not closed: {there}")
    return _lead(session, home, found[0].folder, found[0].told.language)


@ceremony.command("identity")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Where the private key goes."
)
@click.pass_obj
def identity(session: Session, out: Path) -> Answer:
    """Make a custodian's key pair (X25519, as age writes it): on the custodian's own machine.

    \b
    Example:
      digitalid ceremony identity --out /media/mine/identity.txt
    """
    from pki.ceremony.seal import new_identity, recipient_of

    files.check_free(out, force=False)
    private = new_identity()
    public = recipient_of(private)
    content = f"# public key: {public}\n{private}\n".encode()
    files.write(out, content, force=False, mode=files.PRIVATE)
    return Answer({"public_key": public}, (Line(f"Public key: {public}"),))


def _begin(
    session: Session, home: Path, script: str, name: str | None, language: str, *, rehearsal: bool
) -> Answer:
    from cli.ceremony.parts import interactive, tools
    from infra.state import owned
    from pki.ceremony.archive import FOLDER, left_by, past
    from pki.ceremony.journal import Journal
    from pki.ceremony.run import TRANSCRIPT, begin
    from pki.ceremony.script import parse_script

    if not interactive():
        raise Rejected("no-terminal", "a ceremony is led on a terminal: run it on one, no pipe")
    text = _script(script)
    read = parse_script(text)
    _check_profiles(session, read)
    name = name or read.kind
    if not _NAME.fullmatch(name):
        raise Rejected("bad-ceremony-name", "a name has a-z, 0-9 and hyphens, at most 63")
    folder = home / FOLDER / name
    with owned(home / FOLDER, within=home):
        held = past(home)
        if (folder / TRANSCRIPT).exists() and (folder / TRANSCRIPT).stat().st_size:
            closed = any(each.name == name and each.told.finished for each in held)
            go_on = "" if closed else f"'{_resume(session, home, name)}' goes on with it, or "
            raise Rejected(
                "ceremony-exists",
                f"there is a ceremony {name}; {go_on}give this one another --name",
            )
        previous, kept = left_by(held)
        with_tools = tools(session.settings)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        journal = Journal(folder / TRANSCRIPT, with_tools.clock)
        try:
            begin(
                folder,
                with_tools,
                journal,
                script=text,
                language=language,
                rehearsal=rehearsal,
                previous=previous,
                kept=kept,
            )
        finally:
            journal.close()
    return _lead(session, home, folder, language)


def _lead(session: Session, home: Path, folder: Path, language: str) -> Answer:
    from cli.ceremony.parts import tools
    from cli.ceremony.room import TerminalRoom, undisturbed
    from pki.ceremony.desk import Paused
    from pki.ceremony.run import OUT, TRANSCRIPT, go
    from pki.ceremony.text import say

    room = TerminalRoom(language)
    with undisturbed(room):
        try:
            told = go(home, folder, room, tools(session.settings))
        except Paused:
            command = _resume(session, home, folder.name)
            text = say(language, "Paused. To go on: {command}", command=command)
            return Answer({"state": "paused", "name": folder.name}, (Line(text, WARNING),))
    document: dict[str, Json] = {
        "state": "closed",
        "name": folder.name,
        "transcript": str(folder / TRANSCRIPT),
        "head": told.head,
        "files": [str(folder / OUT / name) for name in told.state.files],
    }
    fields = (
        ("transcript", str(folder / TRANSCRIPT)),
        ("head", told.head),
        ("files", str(folder / OUT)),
    )
    return Answer(document, (Line(say(language, "The ceremony is closed."), GOOD), Fields(fields)))


def _resume(session: Session, home: Path, name: str) -> str:
    aside = "" if home == session.home else " --rehearsal"
    return f"digitalid --home {session.home} ceremony resume {name}{aside}"


def _people(script: Script, language: str) -> str:
    from pki.ceremony.script import Role
    from pki.ceremony.text import say

    counted = [(role, getattr(script.people, role.value)) for role in Role]
    return ", ".join(
        f"{count} × {say(language, f'role:{role.value}')}" for role, count in counted if count
    )


def _check_profiles(session: Session, script: Script) -> None:
    """Errors: ``unknown-profile``, before anybody has come together."""
    from cli.service.from_settings import all_profiles
    from pki.ceremony.script import Certify

    known = all_profiles(session.settings)
    for step in script.step:
        if isinstance(step, Certify) and step.profile not in known:
            raise Rejected(
                "unknown-profile",
                f"there is no profile {step.profile!r}; there are: {', '.join(sorted(known))}",
            )


def _script(given: str) -> str:
    """A script's text, by its path or the name of one that is shipped."""
    from pki.ceremony.script import MAXIMUM_SIZE

    if _NAME.fullmatch(given) and not Path(given).exists():
        return _shipped(given)
    try:
        return files.read(Path(given), limit=MAXIMUM_SIZE).decode()
    except UnicodeDecodeError as error:
        raise Rejected("bad-script", f"{given} is not UTF-8") from error


def _shipped(name: str) -> str:
    found = resources("conf").joinpath("ceremonies", f"{name}.toml")
    if not _NAME.fullmatch(name) or not found.is_file():
        raise Rejected("no-such-script", f"no script {name!r} is shipped; see ceremony scripts")
    return found.read_text()
