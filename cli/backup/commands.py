"""The commands: create, check, restore."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cli import files
from cli.command import Group, Session
from cli.output import GOOD, WARNING, Answer, Fields, Json, Line, say_aside

if TYPE_CHECKING:
    from cli.backup.file import Manifest

_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")
_UNENCRYPTED: Final = (
    "this backup holds private keys and what opens them, and is not encrypted: whoever reads it "
    "has the CA. Encrypt it, as in: digitalid backup create - | age -r age1… > FILE"
)
_INTO_A_PIPE: Final = (
    "private keys and what opens them go to standard output, not encrypted: pipe them into age "
    "or gpg"
)
_FILE: Final = click.Path(path_type=Path, allow_dash=True)


@click.group(cls=Group)
def backup() -> None:
    """Backups of a running instance: create, check, restore.

    A backup is one tar file: a manifest, the ledger as it was at one moment,
    CRLs, settings, and, unless left out, keys and secrets.
    """


@backup.command("create")
@click.argument("file", type=_FILE)
@click.option("--without-keys", is_flag=True, help="Leave out keys, token and secrets.")
@click.pass_obj
async def create(session: Session, file: Path, without_keys: bool) -> Answer | None:
    """Back up the instance, which goes on with its work.

    - is standard output. Keep the SHA-256 elsewhere: only it tells whether
    somebody has made another backup of this one.

    \b
    Example:
      digitalid backup create - | age -r age1… > monday.tar.age
      digitalid backup create monday.tar --without-keys
    """
    from cli.backup.create import create
    from cli.progress import working

    with working("octets") as progress:
        made = await create(session.settings, file, with_keys=not without_keys, progress=progress)
    document: dict[str, Json] = {
        "file": str(file),
        "size": made.size,
        **_view(made.manifest, made.sha256),
        "left_out": list(made.left_out),
        "warning": None if without_keys else _UNENCRYPTED,
    }
    piped = file == files.STANDARD
    if not session.as_json:
        if not without_keys:
            say_aside(f"warning: {_INTO_A_PIPE if piped else _UNENCRYPTED}")
        if piped:
            say_aside(f"up to {made.manifest.created_at}, sha-256 {made.sha256}")
    if piped:
        return None
    said: list[Line | Fields] = [
        Line(f"Wrote {file}.", GOOD),
        Fields((*_rows(made.manifest, made.sha256), ("octets", str(made.size)))),
    ]
    if made.left_out:
        said.append(Line("Left out, because nothing says that they belong to it:", WARNING))
        said += [Line(f"  {name}") for name in made.left_out]
    return Answer(document, tuple(said))


@backup.command("check")
@click.argument("file", type=_FILE)
@click.option("--sha256", metavar="HEX", help="That of the file, as `create` said it.")
@click.pass_obj
async def check(session: Session, file: Path, sha256: str | None) -> Answer:
    """Whether a backup is whole, and its log the one that it says.

    Every file in it is compared with the manifest, and the log replayed. That
    needs no instance, but room for the ledger in the temporary folder (TMPDIR).

    \b
    Example:
      digitalid backup check monday.tar
      age -d -i key.txt monday.tar.age | digitalid backup check -
    """
    from cli.backup.restore import check
    from cli.progress import working

    with working("octets") as progress:
        manifest, digest = await check(file, expected=_digest(sha256), progress=progress)
    return Answer(
        {"ok": True, "file": str(file), **_view(manifest, digest)},
        (Line("The backup is whole.", GOOD), Fields(_rows(manifest, digest))),
    )


@backup.command("restore")
@click.argument("file", type=_FILE)
@click.option("--sha256", metavar="HEX", help="That of the file, as `create` said it.")
@click.pass_obj
async def restore(session: Session, file: Path, sha256: str | None) -> Answer:
    """Restore a backup into the home folder, which must be new or empty.

    It appears there as a whole or not at all: until then no instance starts.
    One that was cut off is run again; where this backup is already, and
    nothing else, that is all it says.

    \b
    Example:
      digitalid --home /srv/ca backup restore monday.tar
      age -d -i key.txt monday.tar.age | digitalid --home /srv/ca backup restore -
    """
    from cli.backup.restore import restore
    from cli.progress import working

    home = session.home
    with working("octets") as progress:
        restored = await restore(
            file, home, flags=session.flags, expected=_digest(sha256), progress=progress
        )
    manifest = restored.manifest
    beside = list(restored.beside)
    if not manifest.with_keys:
        beside.append(
            "put keys/, softhsm/ and secrets/ back before anything starts: what is missing is "
            "made anew, and no longer fits"
        )
    command = shlex.join(("digitalid", "--home", str(home)))
    commands = (
        f"{command} log verify --checkpoint FILE --log-key FILE",
        f"{command} crl issue",
        f"{command} directory repair",
    )
    at = f"{manifest.created_at}, with {manifest.log.size} leaves of the log"
    document: dict[str, Json] = {
        "home": str(home),
        "already": restored.already,
        **_view(manifest, restored.sha256),
        "to_do": beside,
        "next": list(commands),
    }
    done = "Restored already, and left as it is," if restored.already else "Restored"
    said: list[Line | Fields] = [
        Line(f"{done} {'in' if restored.already else 'into'} {home}, up to {at}.", GOOD),
        Fields(_rows(manifest, restored.sha256)),
        Line("What was issued or revoked after that is not known here. First:", WARNING),
        *(Line(f"  {one}", WARNING) for one in beside),
        Line("  see that nothing else runs with these keys, and compare the log with a checkpoint"),
        Line("  and a key that you kept elsewhere, then publish:"),
        *(Line(f"    {one}") for one in commands),
    ]
    return Answer(document, tuple(said))


def _digest(text: str | None) -> str | None:
    if text is not None and not _SHA256.fullmatch(text):
        raise click.BadParameter("it has 64 hexadecimal digits", param_hint="--sha256")
    return text


def _view(manifest: Manifest, digest: str) -> dict[str, Json]:
    log = manifest.log
    return {
        "sha256": digest,
        "created_at": manifest.created_at,
        "product": manifest.product,
        "with_keys": manifest.with_keys,
        "members": len(manifest.members),
        "log": {"origin": log.origin, "size": log.size, "root": log.root},
    }


def _rows(manifest: Manifest, digest: str) -> tuple[tuple[str, str], ...]:
    return (
        ("up to", manifest.created_at),
        ("log", f"{manifest.log.origin}, {manifest.log.size} leaves"),
        ("root", manifest.log.root),
        ("files", str(len(manifest.members))),
        ("keys", "in it" if manifest.with_keys else "not in it"),
        ("sha-256", digest),
    )
