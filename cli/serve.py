"""``digitalid serve``: run the product in the foreground."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cli.command import Group, Session, json_option
from cli.output import clean, say_aside, unwritten
from infra.collection import settle
from infra.errors import Failure, Rejected
from infra.secrets import read_private

if TYPE_CHECKING:
    from cli.service.parts import Instance
    from cli.service.validation_authority import ValidationAuthority
    from conf.schema import Settings

_log = logging.getLogger(__name__)

PORT: Final = click.IntRange(0, 65535)


@click.group(cls=Group, invoke_without_command=True)
@click.option("--app-port", type=PORT, help="Port of the API [8080].")
@click.option("--validation-port", type=PORT, help="Port of OCSP and CRLs [8081].")
@click.pass_context
def serve(context: click.Context, app_port: int | None, validation_port: int | None) -> None:
    """Run the CA with its API, OCSP and CRLs until Ctrl-C.

    The first run makes a development hierarchy: a root CA, an issuing CA, OCSP responders and the
    log's key. Every later run keeps what is there. SIGHUP replaces the processes that answer OCSP
    (ocsp.workers), with no request lost; where the terminal was closed, it stops.

    \b
    Example:
      digitalid serve
      digitalid --home /srv/ca serve --app-port 9080
    """
    session: Session = context.obj
    _set(session, {"http.app_port": app_port, "http.validation_port": validation_port})
    if context.invoked_subcommand is None:
        _run(session, _serve)


serve.params.append(json_option())


@serve.command("ocsp")
@click.option("--feed", metavar="URL", help="The application of the CA's instance.")
@click.option(
    "--feed-token-from",
    metavar="REF",
    help="The token that `ocsp follower add` made there: file:PATH, env:VARIABLE.",
)
@click.option(
    "--feed-key", type=click.Path(path_type=Path), help="The feed's public key, made there too."
)
@click.option(
    "--feed-ca",
    type=click.Path(path_type=Path),
    help="CAs (PEM) for the URL's TLS certificate, if not the system's.",
)
@click.option(
    "--workers", type=click.IntRange(0, 256), help="Processes that answer [0: one a processor]."
)
@click.option("--validation-port", type=PORT, help="Port of OCSP [8081].")
@click.option("--app-port", type=PORT, help="Port of health and metrics [8080].")
@click.pass_obj
def serve_ocsp(
    session: Session,
    feed: str | None,
    feed_token_from: str | None,
    feed_key: Path | None,
    feed_ca: Path | None,
    workers: int | None,
    validation_port: int | None,
    app_port: int | None,
) -> None:
    """Run a validation authority until Ctrl-C: OCSP without a CA's key or database.

    It follows the status feed of a CA's instance and the CRLs of the CAs that `ocsp ca add` took
    in, in a home folder of its own. While it is cut off from the feed for longer than
    feed.most_lag, it answers tryLater. SIGHUP takes in changes of `ocsp ca` and replaces the
    processes, with no request lost.

    `ocsp follower add` at the CA prints the command that is to be run here.

    \b
    Example:
      digitalid serve ocsp --feed https://ca.example.org:8080 \\
        --feed-token-from file:feed.token --feed-key feed.pem
      digitalid --home /srv/va serve ocsp --workers 4
    """
    reference = feed_token_from
    if reference is not None and reference.startswith("file:"):
        reference = f"file:{Path(reference.removeprefix('file:')).absolute()}"
    _set(
        session,
        {
            "feed.url": feed,
            "feed.token": reference,
            "feed.key": None if feed_key is None else feed_key.absolute(),
            "feed.ca": None if feed_ca is None else feed_ca.absolute(),
            "ocsp.workers": workers,
            "http.validation_port": validation_port,
            "http.app_port": app_port,
        },
    )
    _run(session, _serve_ocsp)


def _set(session: Session, flags: Mapping[str, object]) -> None:
    session.flags |= {key: str(value) for key, value in flags.items() if value is not None}


def _run(session: Session, service: Callable[[Settings, _Stop], Awaitable[None]]) -> None:
    import uvloop

    from infra.telemetry import set_up_logging

    settings = session.settings
    set_up_logging(settings.logging.level, settings.logging.format)

    async def run() -> None:
        await service(settings, _Stop())

    with suppress(asyncio.CancelledError):  # told to stop while it started
        uvloop.run(run())


async def _serve(settings: Settings, stop: _Stop) -> None:
    from cli.addresses import check_ports, former_urls
    from cli.compose import running
    from cli.service.listening import listening

    tls = _tls(settings)
    await check_ports(settings)  # before the URLs go into certificates
    async with (
        running(settings, create=True, serving=True) as instance,
        listening(instance, tls) as urls,
    ):

        async def restart() -> None:
            if instance.ocsp is not None:
                await instance.ocsp.restart()

        settle()
        stop.ready(restart)
        for warning in former_urls(instance):
            _log.warning("%s", warning)
        _say(_welcome(instance, *urls))
        await stop.wait()


async def _serve_ocsp(settings: Settings, stop: _Stop) -> None:
    from cli.addresses import check_ports
    from cli.service.validation_authority import validating

    await check_ports(settings)
    async with validating(settings, tls=_tls(settings), say=say_aside) as (
        authority,
        private,
        public,
    ):
        settle()
        stop.ready(authority.reload)
        _say(_welcome_ocsp(authority, private, public))
        await stop.wait(authority.ended)


class _Stop:
    """When a service ends: on SIGINT or SIGTERM. While it starts, these end the start."""

    def __init__(self) -> None:
        self._told = asyncio.Event()
        self._starting = asyncio.current_task()
        self._begin_anew: Callable[[], Awaitable[None]] | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._terminals = [descriptor for descriptor in (0, 2) if os.isatty(descriptor)]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def ready(self, begin_anew: Callable[[], Awaitable[None]]) -> None:
        """It has started; ``begin_anew``: what SIGHUP asks for."""
        self._starting = None
        self._begin_anew = begin_anew

    async def wait(self, ended: asyncio.Future[None] | None = None) -> None:
        """Until it is told to stop, or ``ended``, whose error is raised."""
        told = asyncio.create_task(self._told.wait())
        either: list[asyncio.Future[Any]] = [told] if ended is None else [told, ended]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        if ended is not None and ended.done():
            ended.result()
        with suppress(OSError):  # the terminal may be gone
            sys.stderr.write("\nstopping: requests under way are finished\n")

    def _end(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
        self._told.set()

    def _hang_up(self) -> None:
        # Nobody asked for anything: the terminal that it ran on was closed (termios(3)).
        if not all(map(os.isatty, self._terminals)):
            self._end()
        elif self._begin_anew is not None:
            task = asyncio.create_task(self._anew(self._begin_anew))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _anew(self, begin: Callable[[], Awaitable[None]]) -> None:
        try:
            await begin()
            _log.info("the processes that answer OCSP were replaced")
        except Failure as failure:
            _log.error("the processes that answer OCSP were not all replaced: %s", failure)


def _say(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritten(error, sys.stdout) from error


def _tls(settings: Settings) -> ssl.SSLContext | None:
    http = settings.http
    if http.tls_certificate is None or http.tls_key is None:
        return None
    exposed = "secret-file-permissions"
    read_private(http.tls_key, _MAX_TLS_KEY, missing="bad-tls-certificate", exposed=exposed)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(http.tls_certificate, http.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise Rejected(
            "bad-tls-certificate",
            f"{http.tls_certificate} and {http.tls_key} are no certificate with its key: {error}",
        ) from error
    return context


_MAX_TLS_KEY: Final = 64 * 1024  # octets


def _shown(instance: Instance) -> str:
    """The CA that issues when none is named, else any one."""
    with suppress(Rejected):
        return instance.hierarchy.usual().name
    return next(iter(instance.hierarchy.authorities))


def _welcome(instance: Instance, app: str, validation: str) -> str:
    home = instance.settings.home
    command = _command(home)
    request = (
        "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout alice.key "
        '-subj "/C=AQ/CN=Alice Example" 2>/dev/null'
    )
    issue = f"{command} cert issue --profile citizen-authentication --csr - --out alice.pem --force"
    look_up = _look_up(instance)
    if look_up:
        issue += " --consent"
    if not instance.hierarchy.authorities:
        return f"""\
DigitalID runs, but has no CA: {instance.hierarchy.first_step}; then start it again.

  application  {app}/  (API under /api/v1; token in {home}/secrets/operator.token)

Ctrl-C stops it; the state stays.
"""
    name = _shown(instance)
    return f"""\
DigitalID is ready.  Keys: {instance.keys_note}.  State: {home}

  application  {app}/  (API under /api/v1; token in {home}/secrets/operator.token)
  OCSP         {validation}/ocsp
  CRL          {validation}/crl/{name}.crl
  CA           {validation}/aia/{name}.cer
  directory    {_directory(instance)}

Try it in another terminal, from this folder:

  issue   {request} | {issue}
{look_up}  revoke  {command} cert revoke alice.pem --reason keyCompromise
  check   {command} ocsp query alice.pem

Ctrl-C stops it; the state stays.
"""


def _directory(instance: Instance) -> str:
    from cli.service.private_slapd import Running

    directory, slapd = instance.settings.directory, instance.slapd
    if directory.url:
        return f"{directory.url}  (under {directory.base})"
    if isinstance(slapd, Running):
        return f"{'  '.join(slapd.urls)}  (under {directory.base})"
    return f"none: {slapd.why}"


def _look_up(instance: Instance) -> str:
    """The line that finds the certificate in our own directory, if there is one."""
    from cli.service.private_slapd import Running

    if not isinstance(instance.slapd, Running):
        return ""
    words = ("ldapsearch", "-x", "-LLL", "-H", instance.slapd.urls[0])
    base = shlex.join(("-b", instance.settings.directory.base))
    serial = "$(openssl x509 -in alice.pem -noout -serial | cut -d= -f2)"
    return f'  look up {shlex.join(words)} {base} "(digitalidSerialNumber={serial})"\n'


def _welcome_ocsp(authority: ValidationAuthority, private: str, public: str) -> str:
    from cli.service.foreign import shown

    settings, follower = authority.settings, authority.follower
    served = ", ".join(map(shown, authority.delegates)) or "none yet"
    feed = "none" if follower is None else f"{settings.feed.url}, up to change {follower.applied}"
    lacking = "".join(
        f"  no answers for {clean(shown(name))}: {clean(failure.detail)}\n"
        for name, failure in authority.uncertified.items()
    )
    return f"""\
The validation authority is ready.  Keys: {authority.keys_note}.  State: {settings.home}

  OCSP     {public}/ocsp
  for CAs  {clean(served)}
  feed     {feed}
  health   {private}/api/v1/health  (metrics: {private}/metrics)
{lacking}
Ctrl-C stops it; the state stays.
"""


def _command(home: Path) -> str:
    """How the command is called from the folder in which this one was started."""
    called = Path(sys.argv[0])
    here = Path.cwd()
    if called.is_absolute() and called.is_relative_to(here):
        called = called.relative_to(here)
    words = [str(called)]
    if home != here / os.environ.get("DIGITALID_HOME", "var"):
        words += ["--home", str(home)]
    return shlex.join(words)
