"""``digitalid serve``: run the product in the foreground."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.command import Command, Session
from infra.errors import Rejected

if TYPE_CHECKING:
    from cli.parts import Instance
    from conf.schema import Settings


@click.command(cls=Command)
@click.option("--app-port", type=click.IntRange(0, 65535), help="Port of the API [8080].")
@click.option(
    "--validation-port", type=click.IntRange(0, 65535), help="Port of OCSP and CRLs [8081]."
)
@click.pass_obj
def serve(session: Session, app_port: int | None, validation_port: int | None) -> None:
    """Run the CA with its API, OCSP and CRLs until Ctrl-C.

    The first run makes a development hierarchy: a root CA, an issuing CA, OCSP responders and the
    log's key. Every later run keeps what is there.

    \b
    Example:
      digitalid serve
      digitalid --home /srv/ca serve --app-port 9080
    """
    import uvloop

    from infra.telemetry import set_up_logging

    if app_port is not None:
        session.flags["http.app_port"] = str(app_port)
    if validation_port is not None:
        session.flags["http.validation_port"] = str(validation_port)
    settings = session.settings
    set_up_logging(settings.logging.level, settings.logging.format)
    # A thread that waits for the interpreter gets it sooner: signatures and commits are short.
    sys.setswitchinterval(0.0005)
    with suppress(asyncio.CancelledError):  # told to stop while it started
        uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    from cli.compose import listening, running

    stop = asyncio.Event()
    starting = asyncio.current_task()
    ready = False

    def end() -> None:
        if not ready and starting is not None:
            starting.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    tls = _tls(settings)
    async with (
        running(settings, create=True, serving=True) as instance,
        listening(instance, tls) as urls,
    ):
        ready = True
        sys.stdout.write(_welcome(instance, *urls))
        sys.stdout.flush()
        await stop.wait()
        sys.stderr.write("\nstopping: requests under way are finished\n")


def _tls(settings: Settings) -> ssl.SSLContext | None:
    http = settings.http
    if http.tls_certificate is None or http.tls_key is None:
        return None
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


def _welcome(instance: Instance, app: str, validation: str) -> str:
    home = instance.settings.home
    command = _command(home)
    request = (
        "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout alice.key "
        '-subj "/C=AQ/CN=Alice Example" 2>/dev/null'
    )
    issue = f"{command} cert issue --profile citizen-authentication --csr - --out alice.pem --force"
    return f"""\
DigitalID is ready.  Keys: {instance.keys_note}.  State: {home}

  application  {app}/  (API under /api/v1; token in {home}/secrets/operator.token)
  OCSP         {validation}/ocsp
  CRL          {validation}/crl/issuing.crl
  CA           {validation}/aia/issuing.cer

Try it in another terminal, from this folder:

  issue   {request} | {issue}
  revoke  {command} cert revoke alice.pem --reason keyCompromise
  check   {command} ocsp query alice.pem

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
