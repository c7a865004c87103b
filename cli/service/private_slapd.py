"""The directory server that the product runs itself, while ``directory.url`` names no other."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final
from urllib.parse import quote

from conf.schema import Settings, SlapdSettings
from infra.errors import Failure, Rejected, Unavailable
from infra.slapd import Access, Installed, LookUp, Slapd, Tls, configuration, find_slapd
from infra.slapd.configuration import LDAPI

FOLDER: Final = Path("directory")
WRITER: Final = "cn=publisher"
INDEXES: Final = (
    "digitalidSerialNumber,digitalidIdentifierHash,digitalidWeb3Id,digitalidNotAfter eq",
    "mail,uid,cn,o eq",
    "userCertificate eq",
    "cACertificate,certificateRevocationList pres",
)
"""What ``docs/directory.md`` says can be searched for, certificateExactMatch by the third, and the
end of a certificate, by which the publisher takes out what has expired."""

CLASSES: Final = ("digitalidHolder", "pkiUser")
"""What every holder is, so that to search for it tells nothing of any."""

_ANYBODY: Final = (
    "digitalidSerialNumber",
    "digitalidIdentifierHash",
    "digitalidWeb3Id",
    "mail",
    "uid",
    "cn",
    "userCertificate",
)
"""What others may look people up by. Not by ``o``: it would list who belongs to an organization."""

_CERTIFICATE: Final = "certificate.pem"
_KEY: Final = "key.pem"
_BAD_TLS: Final = "bad-tls-certificate"


@dataclass(frozen=True, slots=True)
class Running:
    """A directory server of our own. ``ldapi``: for the publisher, which it knows by its user;
    ``urls``: for everybody."""

    ldapi: str
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotRunning:
    """There is no directory server of our own, and why."""

    why: str


NOT_STARTED: Final = NotRunning("only a service runs it")


@asynccontextmanager
async def private_slapd(
    settings: Settings, *, public: bool = True
) -> AsyncIterator[Running | NotRunning]:
    """Our own directory server while the block runs, if the settings want one and it can be had.

    ``public``: whether it answers to others than us. Errors: ``bad-tls-certificate``; when it has
    to run, ``no-slapd`` and those of ``infra.slapd.Slapd.start``.
    """
    found = await _started(settings, public)
    if isinstance(found, NotRunning):
        yield found
        return
    server, urls = found
    try:
        yield Running(f"ldapi://{quote(str(_folder(settings) / LDAPI), safe='')}", urls)
    finally:
        await server.stop()


async def _started(settings: Settings, public: bool) -> tuple[Slapd, tuple[str, ...]] | NotRunning:
    try:
        server, urls = _server(settings, public)
        await server.start()
    except Failure as failure:
        if settings.slapd.run == "on" or failure.code == _BAD_TLS:
            raise
        return NotRunning(failure.detail)
    return server, urls


def _server(settings: Settings, public: bool) -> tuple[Slapd, tuple[str, ...]]:
    slapd = settings.slapd
    if slapd.run == "off":
        raise Unavailable("no-slapd", 'slapd.run is "off"')
    if settings.directory.url:
        raise Unavailable("no-slapd", "directory.url names another directory")
    installed = find_slapd()
    if installed is None:
        raise Unavailable("no-slapd", "slapd is not installed (apt-get install slapd ldap-utils)")
    pems = _pems(slapd)
    urls = _urls(slapd) if public else ()
    server = Slapd(
        installed,
        _folder(settings),
        _configuration(installed, settings, bool(pems)),
        urls,
        files=pems,
    )
    return server, urls


def _folder(settings: Settings) -> Path:
    """A tree with another root is another directory."""
    root = hashlib.sha256(settings.directory.base.lower().encode()).hexdigest()[:8]
    return settings.home / FOLDER / f"slapd-{root}"


def look_ups(base: str, enterprises: str, authorities: str) -> tuple[LookUp, ...]:
    """What anybody may search for where: CAs and CRLs by whatever there is, for none of them is a
    secret, enterprises also by their names. The branches: relative to ``base``."""
    return (
        LookUp(f"{authorities},{base}"),
        LookUp(f"{enterprises},{base}", (*_ANYBODY, "o")),
        LookUp(base, _ANYBODY),
    )


def _configuration(installed: Installed, settings: Settings, tls: bool) -> str:
    tree = settings.directory
    return configuration(
        installed,
        tree.base,
        Access(
            WRITER,
            os.geteuid(),
            look_ups=look_ups(tree.base, tree.enterprises, tree.authorities),
            classes=CLASSES,
        ),
        schema=(files("conf") / "directory" / "digitalid.schema.ldif").read_text(),
        indexes=INDEXES,
        tls=Tls(Path(_CERTIFICATE), Path(_KEY)) if tls else None,
    )


def _pems(slapd: SlapdSettings) -> dict[str, bytes]:
    """The files of TLS, which slapd's user may not be able to read where they are."""
    if slapd.tls_certificate is None or slapd.tls_key is None:
        return {}
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            slapd.tls_certificate, slapd.tls_key
        )
        return {_CERTIFICATE: slapd.tls_certificate.read_bytes(), _KEY: slapd.tls_key.read_bytes()}
    except (OSError, ssl.SSLError) as error:
        raise Rejected(
            _BAD_TLS,
            f"{slapd.tls_certificate} and {slapd.tls_key} are no certificate with its key: {error}",
        ) from error


def _urls(slapd: SlapdSettings) -> tuple[str, ...]:
    urls = [f"ldap://{_at(slapd.host, slapd.port or _free_port(slapd.host))}"]
    if slapd.tls_port:
        urls.append(f"ldaps://{_at(slapd.host, slapd.tls_port)}")
    return tuple(urls)


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _free_port(host: str) -> int:
    """A port that was free a moment ago: slapd does not say which one it takes."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise Unavailable(
            "directory-unusable", f"slapd.host is no address of this machine: {host}"
        ) from error
