"""What slapd is told: its configuration as LDIF, from settings that are few (slapd-config(5))."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.errors import Rejected

LDAPI: Final = "ldapi"
"""The unix socket's name in the server's folder."""

DATA: Final = "data"
SCHEMAS: Final = ("core", "cosine", "inetorgperson")
_MAX_SIZE: Final = 1 << 36
"""Octets that the database may grow to: of address space, not of disk until they are used."""

_MAX_INCOMING: Final = 256 * 1024 - 1
_MAX_INCOMING_BOUND: Final = 64 * 1024 * 1024 - 1
"""Octets of one request: of anybody, and of one who has authenticated (a CRL of a large CA)."""

_ONE_LINE: Final = re.compile(r"[^\x00-\x1f\x7f]+")
_PLAIN_NAME: Final = re.compile(r"[^\x00-\x1f\x7f\"\\$%^\[\]]+")
"""What can stand between quotes in olcAuthzRegexp, which knows no escape for them."""


@dataclass(frozen=True, slots=True)
class Installed:
    """Where a slapd is. ``modules``: the folder of its modules, None when back-mdb is built in;
    ``schemas``: the folder of core.ldif and its neighbours."""

    slapd: Path
    slapadd: Path
    slapindex: Path
    modules: Path | None
    schemas: Path


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what. The writer may do everything; others may read, and search a little.

    ``writer``: its name in the directory, below or beside the suffix; ``user``: the number of the
    user that is the writer when it comes by the unix socket (SASL EXTERNAL); ``certificate``: the
    subject (RFC 4514) of the client certificate that makes one the writer over TLS, "" for none;
    ``password``: what makes one the writer by a simple bind, as userPassword holds it (a hash),
    "" for none; ``most_entries``, ``most_seconds``: of a search of anybody else.
    """

    writer: str
    user: int
    certificate: str = ""
    password: str = ""
    most_entries: int = 100
    most_seconds: int = 10


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: of the server's certificate with its chain, of its key, and of the CAs that may
    vouch for clients, None to ask for no client certificate."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Consumer:
    """A copy of another server (RFC 4533), read-only: writers are referred to the provider.

    ``bind``: how it comes to the provider, in the words of olcSyncrepl; ``refer``: the URL that
    writers are sent to, which may be another than that of ``provider``.
    """

    provider: str
    refer: str
    bind: str = "bindmethod=simple"


def configuration(
    installed: Installed,
    suffix: str,
    access: Access,
    *,
    schema: str,
    indexes: Sequence[str],
    tls: Tls | None = None,
    provider: bool = False,
    consumer: Consumer | None = None,
) -> str:
    """LDIF for ``slapadd -n 0``: one mdb database in the folder that the server runs in.

    ``suffix``: the root of the tree (RFC 4514); ``schema``: LDIF below cn=schema,cn=config, after
    core, cosine and inetorgperson; ``indexes``: each as olcDbIndex has it, such as ``mail eq``;
    ``provider``: whether others may replicate it. Errors: ``bad-directory-settings``.
    """
    texts = (suffix, access.writer, access.certificate, access.password)
    if not all(_ONE_LINE.fullmatch(text) for text in texts if text):
        raise Rejected(
            "bad-directory-settings", "a name in the directory has no control characters"
        )
    if not all(_PLAIN_NAME.fullmatch(text) for text in texts[1:3] if text):
        raise Rejected(
            "bad-directory-settings",
            "the name of a writer has no quotes, backslashes, $, %, ^ and brackets",
        )
    parts = [
        "\n".join(_server(access, tls)),
        "\n".join(_modules(installed, provider)),
        _schema(installed, schema),
        "\n".join(_front()),
        "\n".join(_database(suffix, access, indexes, consumer)),
    ]
    if provider:
        parts.append(
            "dn: olcOverlay=syncprov,olcDatabase={1}mdb,cn=config\n"
            "objectClass: olcOverlayConfig\n"
            "objectClass: olcSyncProvConfig\n"
            "olcOverlay: syncprov\n"
            "olcSpCheckpoint: 1000 1"
        )
    return "\n\n".join(part for part in parts if part) + "\n"


def _server(access: Access, tls: Tls | None) -> Iterator[str]:
    yield "dn: cn=config"
    yield "objectClass: olcGlobal"
    yield "cn: config"
    yield "olcLogLevel: none"
    yield f"olcSockbufMaxIncoming: {_MAX_INCOMING}"
    yield f"olcSockbufMaxIncomingAuth: {_MAX_INCOMING_BOUND}"
    yield "olcIdleTimeout: 3600"
    yield "olcWriteTimeout: 30"
    # A password goes over TLS or the unix socket only; what is in the directory is public.
    yield "olcLocalSSF: 128"
    yield "olcSecurity: simple_bind=112"
    come_as = [f"gidNumber=[0-9]+[+]uidNumber={access.user},cn=peercred,cn=external,cn=auth"]
    if access.certificate:
        come_as.append(re.sub(r"[^\w=, -]", r"[\g<0>]", access.certificate))
    for number, pattern in enumerate(come_as):
        yield f'olcAuthzRegexp: {{{number}}}"^{pattern}$" "{access.writer}"'
    if tls is not None:
        yield f"olcTLSCertificateFile: {tls.certificate}"
        yield f"olcTLSCertificateKeyFile: {tls.key}"
        yield "olcTLSProtocolMin: 3.3"
        if tls.client_ca is not None:
            yield f"olcTLSCACertificateFile: {tls.client_ca}"
            yield "olcTLSVerifyClient: try"


def _modules(installed: Installed, provider: bool) -> Iterator[str]:
    if installed.modules is None:
        return
    yield "dn: cn=module{0},cn=config"
    yield "objectClass: olcModuleList"
    yield "cn: module{0}"
    yield f"olcModulePath: {installed.modules}"
    yield "olcModuleLoad: {0}back_mdb"
    if provider:
        yield "olcModuleLoad: {1}syncprov"


def _schema(installed: Installed, ours: str) -> str:
    includes = "\n\n".join(
        f"include: {(installed.schemas / f'{name}.ldif').as_uri()}" for name in SCHEMAS
    )
    head = "dn: cn=schema,cn=config\nobjectClass: olcSchemaConfig\ncn: schema"
    return f"{head}\n\n{includes}\n\n{ours.strip()}"


def _front() -> Iterator[str]:
    yield "dn: olcDatabase={-1}frontend,cn=config"
    yield "objectClass: olcDatabaseConfig"
    yield "objectClass: olcFrontendConfig"
    yield "olcDatabase: {-1}frontend"
    yield 'olcAccess: {0}to dn.exact="" by * read'
    yield 'olcAccess: {1}to dn.subtree="cn=Subschema" by * read'
    yield "olcAccess: {2}to * by * none"
    yield ""
    yield "dn: olcDatabase={0}config,cn=config"
    yield "objectClass: olcDatabaseConfig"
    yield "olcDatabase: {0}config"
    # It is made anew from the settings: nobody changes it while it runs.
    yield "olcAccess: {0}to * by * none"


def _database(
    suffix: str, access: Access, indexes: Sequence[str], consumer: Consumer | None
) -> Iterator[str]:
    yield "dn: olcDatabase={1}mdb,cn=config"
    yield "objectClass: olcDatabaseConfig"
    yield "objectClass: olcMdbConfig"
    yield "olcDatabase: {1}mdb"
    yield f"olcDbDirectory: {DATA}"
    yield "olcDbMode: 0600"
    yield f"olcDbMaxSize: {_MAX_SIZE}"
    yield f"olcSuffix: {suffix}"
    yield f"olcRootDN: {access.writer}"
    if access.password:
        yield f"olcRootPW: {access.password}"
    yield "olcDbIndex: objectClass,entryCSN,entryUUID eq"
    yield from (f"olcDbIndex: {index}" for index in indexes)
    # Nobody reads the whole directory off: whoever looks somebody up finds few entries.
    most = access.most_entries
    yield (
        f"olcLimits: {{0}}* size.soft={most} size.hard={most} size.unchecked={20 * most} "
        f"size.pr={most} size.prtotal={most} time={access.most_seconds}"
    )
    yield "olcAccess: {0}to attrs=userPassword by anonymous auth by * none"
    yield "olcAccess: {1}to * by * read"
    if consumer is not None:
        yield (
            f"olcSyncrepl: {{0}}rid=001 provider={consumer.provider} {consumer.bind} "
            f'searchbase="{suffix}" type=refreshAndPersist retry="1 +"'
        )
        yield f"olcUpdateRef: {consumer.refer}"
