"""``digitalid ocsp follower``: who may follow the status feed."""

from __future__ import annotations

import shlex
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cli import certificate, files
from cli.command import Group, Session
from cli.output import DONE, Answer, Fields, Json, Line, Table
from infra.errors import Rejected

if TYPE_CHECKING:
    from cli.client import ApiClient
    from conf.schema import Settings

_SUFFIX: Final = ".token"
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


@click.group("follower", cls=Group)
def follower() -> None:
    """Validation authorities on other hosts: let one follow, list them, stop one.

    A follower's token is good for the status feed and for the certificate of its own responder.
    """


@follower.command("add")
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for what the other host needs [NAME].",
)
@click.pass_obj
async def add(session: Session, name: str, out: Path | None) -> Answer:
    """Make the token of a validation authority, and write what its host needs.

    The folder gets feed.token (keep it private), feed.pem (the key by which the feed is known) and,
    if this CA issued the TLS certificate of its application, tls.pem (its root). Copy it to the
    other host, and run the command that is printed there.

    \b
    Example:
      digitalid ocsp follower add va-south --out va-south
    """
    from cli.service.listening import FOLLOWERS
    from infra.http.auth import TokenFolder

    folder = Path(name) if out is None else out
    settings = session.settings
    async with session.connect() as client:
        key = (await client.get("/status-feed/key"))["key"]
        roots = await _roots(client, settings)
    token = TokenFolder(settings.home / FOLLOWERS).make(name)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Rejected("cannot-write", f"{folder}: {error.strerror}") from error
    files.write(folder / "feed.token", f"{token}\n".encode(), force=True, mode=files.PRIVATE)
    files.write(folder / "feed.pem", key.encode(), force=True)
    words = ["digitalid", "serve", "ocsp", "--feed", _url(settings)]
    words += ["--feed-token-from", f"file:{folder.name}/feed.token"]
    words += ["--feed-key", f"{folder.name}/feed.pem"]
    if roots:
        files.write(folder / "tls.pem", roots, force=True)
        words += ["--feed-ca", f"{folder.name}/tls.pem"]
    lines = [
        Line(f"{name} may follow. Copy {folder} to its host, and run there, beside it:"),
        Line(""),
        Line(f"  {shlex.join(words)}"),
    ]
    if settings.http.app_host in _LOOPBACK:
        lines += [
            Line(""),
            Line(
                "The application listens on this machine only: for another host, set "
                "http.app_host, http.tls_certificate and http.tls_key here."
            ),
        ]
    document: Json = {"name": name, "folder": str(folder), "command": shlex.join(words)}
    return Answer(document, tuple(lines), DONE)


@follower.command("list")
@click.pass_obj
def list_followers(session: Session) -> Answer:
    """Who may follow.

    \b
    Example:
      digitalid ocsp follower list
    """
    found = [
        (path.name.removesuffix(_SUFFIX), datetime.fromtimestamp(path.stat().st_mtime, UTC))
        for path in sorted(_folder(session).glob(f"*{_SUFFIX}"))
    ]
    rows = tuple((name, certificate.text_of(since)) for name, since in found)
    document: Json = {"followers": [{"name": name, "since": since} for name, since in rows]}
    if not rows:
        return Answer(document, (Line("Nobody may follow."),))
    return Answer(document, (Table(("NAME", "SINCE"), rows),))


@follower.command("remove")
@click.argument("name")
@click.pass_obj
def remove(session: Session, name: str) -> Answer:
    """Take a follower's token away; the one that is connected is cut off within a second or two.

    Its responder's certificates stay valid until they end: revoke them with `cert revoke`.

    \b
    Example:
      digitalid ocsp follower remove va-south
    """
    folder = _folder(session)
    known = {path.name.removesuffix(_SUFFIX): path for path in folder.glob(f"*{_SUFFIX}")}
    if name not in known:
        names = ", ".join(sorted(known)) or "none"
        raise Rejected("no-such-follower", f"there is no follower {name!r}; there are: {names}")
    known[name].unlink(missing_ok=True)
    return Answer({"name": name}, (Fields((("removed", name),)),))


def _folder(session: Session) -> Path:
    from cli.service.listening import FOLLOWERS

    return session.settings.home / FOLLOWERS


def _url(settings: Settings) -> str:
    """Where the application is for others, as far as the settings tell."""
    http = settings.http
    host = socket.getfqdn() if http.app_host in ("0.0.0.0", "::") else http.app_host  # noqa: S104
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if http.tls_certificate else 'http'}://{shown}:{http.app_port}"


async def _roots(client: ApiClient, settings: Settings) -> bytes:
    """The roots (PEM) above the application's own TLS certificate, if a CA of ours issued it."""
    if settings.http.tls_certificate is None:
        return b""
    issuer = certificate.read(settings.http.tls_certificate).issuer.public_bytes()
    for authority in (await client.get("/authorities"))["authorities"]:
        own = authority["pem"].encode()
        if certificate.load(own, authority["name"]).subject.public_bytes() == issuer:
            chain = authority["chain"]
            return str(chain[-1] if chain else authority["pem"]).encode()
    return b""
