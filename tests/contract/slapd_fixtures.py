"""A private slapd for a test: up in 0.1 s with empty data, gone at the end of the test.

In a test module::

    from tests.contract.slapd_fixtures import Server, running_slapd

    @pytest.fixture
    def server(tmp_path: Path) -> Iterator[Server]:
        with running_slapd(tmp_path / "slapd") as running:
            yield running

    def test_something(server: Server) -> None:
        server.ldapi, server.ldap, server.ldaps  # URLs; StartTLS works on ``ldap``
        server.suffix              # the root of the tree, which has no entry yet
        server.writer              # the name with write access, in three ways:
                                   #   SASL EXTERNAL on ``ldapi``: whoever runs the test;
                                   #   SASL EXTERNAL on ``ldaps`` with ``client_certificate``,
                                   #     ``client_key``;
        server.password            #   a simple bind with it, on TLS or ``ldapi`` only
        server.ca                  # PEM of the CA of its TLS certificate, which is for 127.0.0.1
        server.other_ca            # PEM of a CA that has nothing to do with it
        server.stop()              # SIGTERM, and waited for
        server.kill()              # SIGKILL
        server.start()             # again, with the data that it had
        server.search("(mail=a@b)", "mail")   # what ldapsearch prints, as LDIF; bound as the writer

Options of ``running_slapd``: ``schema`` and ``indexes`` in the place of the product's; ``size``,
the most octets of its database, to see it full; ``idle``, seconds until it closes a connection that
asks nothing; ``replica_of=server``: a copy of that one, which
must run with ``provider=True``; writes to it are answered with a referral to ``refer`` (by default
the provider's URL). Anybody else than the writer finds at most ``most_entries`` in one search.

``certificate_host`` and ``certificate_expired``: what its certificate says that is not so. ``pair``
makes further certificates of the same CA, ``server.load`` is slapadd, ``pids`` says who runs in a
folder. Where slapd is not installed the test is skipped, which fails in CI.
"""

from __future__ import annotations

import ipaddress
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cli.service.private_slapd import CLASSES, INDEXES, look_ups
from infra.slapd import (
    Access,
    Consumer,
    Tls,
    answers,
    command,
    configuration,
    find_slapd,
    prepare,
)
from infra.slapd.configuration import IDLE, LDAPI
from infra.slapd.server import as_user
from tests.journeys.product import free_ports, require, run

SUFFIX: Final = "o=Test Registry,c=AQ"
WRITER: Final = f"cn=publisher,{SUFFIX}"
PASSWORD: Final = "correct horse"
SCHEMA: Final = Path(__file__).parents[2] / "conf" / "directory" / "digitalid.schema.ldif"


Signer: TypeAlias = tuple[ec.EllipticCurvePrivateKey, x509.Name]


@cache
def _authority(name: str) -> tuple[Signer, bytes]:
    """A CA for the whole run, and its certificate as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    signer = (key, _named(name))
    return signer, _certified(name, key, signer)


def ca_certificate(name: str = "Directory CA") -> bytes:
    """The certificate of a CA of this run, as PEM."""
    return _authority(name)[1]


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certified(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    signer: Signer,
    *,
    host: str = "",
    expired: bool = False,
) -> bytes:
    """A certificate as PEM; of a CA when ``signer`` is the same."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(signer[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now - timedelta(days=1) if expired else now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(signer[0] is key, None), True)
    )
    if host:
        address = x509.IPAddress(ipaddress.ip_address(host))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), False)
    certificate = builder.sign(signer[0], hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM)


def pair(
    name: str, authority: str = "Directory CA", *, host: str = "", expired: bool = False
) -> dict[str, bytes]:
    """A certificate and its key, as PEM, by the names of their files."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    signer, _ = _authority(authority)
    certificate = _certified(name, key, signer, host=host, expired=expired)
    return {f"{name}.pem": certificate, f"{name}.key": pem}


class Server:
    """One slapd; see the module."""

    suffix = SUFFIX
    writer = WRITER
    password = PASSWORD

    def __init__(self, folder: Path, configuration: str, files: dict[str, bytes]) -> None:
        self.folder = folder
        self._configuration = configuration
        self._files = files
        self._process: subprocess.Popen[bytes] | None = None
        self.port, self.tls_port = free_ports(2)
        self.ldap = f"ldap://127.0.0.1:{self.port}"
        self.ldaps = f"ldaps://127.0.0.1:{self.tls_port}"
        self.socket = folder / LDAPI
        self.ldapi = f"ldapi://{quote(str(self.socket), safe='')}"
        beside = folder.parent
        self.ca, self.other_ca = beside / "ca.pem", beside / "other-ca.pem"
        self.client_certificate, self.client_key = beside / "client.pem", beside / "client.key"

    def start(self) -> None:
        """Make it answer."""
        assert self._process is None
        installed = find_slapd()
        assert installed is not None
        prepare(installed, self.folder, self._configuration, self._files)
        with (self.folder.parent / "slapd.log").open("ab") as log:
            self._process = subprocess.Popen(
                command(installed, [self.ldap, self.ldaps]), cwd=self.folder, stderr=log
            )
        deadline = time.monotonic() + 60
        while not answers(self.folder):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail((self.folder.parent / "slapd.log").read_text())
            time.sleep(0.005)

    def stop(self) -> None:
        """End it in good order."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)
        self._process = None

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)
        self._process = None

    def close(self) -> None:
        """End it if it runs."""
        if self._process is not None:
            self.kill()

    def search(self, filter: str, *attributes: str, base: str = SUFFIX, scope: str = "sub") -> str:
        """What ldapsearch prints, as LDIF without comments, a value a line."""
        return run(
            *("ldapsearch", "-Q", "-Y", "EXTERNAL", "-H", self.ldapi, "-LLL", "-o", "ldif-wrap=no"),
            *("-b", base, "-s", scope, filter, *attributes),
        ).decode()

    def add(self, ldif: str) -> None:
        """ldapadd, as the writer."""
        run(
            *("ldapadd", "-Q", "-Y", "EXTERNAL", "-H", self.ldapi),
            stdin=ldif.encode(),
        )

    def load(self, ldif: bytes) -> None:
        """slapadd, while it does not run."""
        installed = find_slapd()
        assert installed is not None and self._process is None
        words = (*as_user(), installed.slapadd, "-n", "1", "-F", "slapd.d")
        subprocess.run(words, cwd=self.folder, input=ldif, check=True)

    def add_root(self) -> None:
        """The entry of the suffix."""
        self.add(f"dn: {SUFFIX}\nobjectClass: organization\no: Test Registry\n")


def pids(folder: Path) -> list[int]:
    """The processes that run in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder.resolve():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@contextmanager
def running_slapd(
    folder: Path,
    *,
    schema: str | None = None,
    indexes: Sequence[str] = INDEXES,
    most_entries: int = 100,
    size: int = 1 << 30,
    idle: int = IDLE,
    certificate_host: str = "127.0.0.1",
    certificate_expired: bool = False,
    provider: bool = False,
    replica_of: Server | None = None,
    refer: str | None = None,
) -> Iterator[Server]:
    """A slapd that answers, while the block runs; its files are in and beside ``folder``."""
    installed = find_slapd()
    if installed is None:
        require("slapd")
        pytest.skip("install with apt-get: slapd util-linux")
    require("ldapsearch", "ldapadd")
    folder.parent.mkdir(parents=True, exist_ok=True)
    files = pair("server", "Directory CA", host=certificate_host, expired=certificate_expired)
    ca = ca_certificate()
    beside = {
        "ca.pem": ca,
        "other-ca.pem": ca_certificate("Other CA"),
        **pair("client", "Directory CA"),
    }
    for name, content in beside.items():
        (folder.parent / name).write_bytes(content)
        (folder.parent / name).chmod(0o600)
    files["clients.pem"] = ca
    consumer = None
    if replica_of is not None:
        consumer = Consumer(
            replica_of.ldaps,
            refer or replica_of.ldap,
            f'bindmethod=simple binddn="{WRITER}" credentials="{PASSWORD}" '
            "tls_cacert=clients.pem tls_reqcert=demand",
        )
    text = configuration(
        installed,
        SUFFIX,
        Access(
            WRITER,
            os.geteuid(),
            "cn=client",
            PASSWORD,
            # Of a schema that is not ours the attributes may not be there to be named.
            look_ups=look_ups(SUFFIX, "ou=enterprises", "ou=authorities") if schema is None else (),
            classes=CLASSES if schema is None else (),
            most_entries=most_entries,
        ),
        schema=SCHEMA.read_text() if schema is None else schema,
        indexes=indexes,
        tls=Tls(Path("server.pem"), Path("server.key"), Path("clients.pem")),
        provider=provider,
        consumer=consumer,
    )
    for setting, value in (("olcDbMaxSize", size), ("olcIdleTimeout", idle)):
        text, found = re.subn(rf"(?m)^{setting}: .*$", f"{setting}: {value}", text)
        assert found == 1
    server = Server(folder, text, files)
    server.start()
    try:
        yield server
    finally:
        server.close()
