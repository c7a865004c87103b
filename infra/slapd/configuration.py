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

_MAX_INCOMING: Final = 64 * 1024 - 1
_MAX_INCOMING_BOUND: Final = 64 * 1024 * 1024 - 1
"""Octets of one request: of anybody, and of one who has authenticated (a CRL of a large CA)."""

IDLE: Final = 30
"""Seconds after which a connection that asks nothing is closed: each holds one of slapd's
descriptors, and the publisher makes a new one by itself."""

_MOST_PENDING: Final = 20
_MOST_PENDING_BOUND: Final = 1000
_DEEPEST_FILTER: Final = 16

NOBODYS: Final = (
    "entryCSN,contextCSN,entryUUID,createTimestamp,modifyTimestamp,creatorsName,modifiersName,"
    "structuralObjectClass,entryDN,hasSubordinates,subschemaSubentry"
)
"""Operational attributes that only writers and copies need: by when and in which order entries
were made, everybody could be listed a window at a time."""

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
class LookUp:
    """What others may search for ``below`` a name of the directory: these ``attributes``, none for
    whatever there is."""

    below: str
    attributes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what. The writer may do everything; others may read what they have found.

    ``writer``: its name in the directory, below or beside the suffix; ``user``: the number of the
    user that is the writer when it comes by the unix socket (SASL EXTERNAL); ``certificate``: the
    subject (RFC 4514) of the client certificate that makes one the writer over TLS, "" for none;
    ``password``: what makes one the writer by a simple bind, as userPassword holds it (a hash),
    "" for none; ``look_ups``: what others may search for, where the first one that fits decides;
    ``classes``: object classes that they may search for elsewhere; ``most_entries``,
    ``most_seconds``: of a search of anybody else, the former also of what it would have to look at.
    """

    writer: str
    user: int
    certificate: str = ""
    password: str = ""
    look_ups: tuple[LookUp, ...] = ()
    classes: tuple[str, ...] = ()
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
    below = (one.below for one in access.look_ups)
    texts = (suffix, access.writer, access.certificate, access.password, *below)
    if not all(_ONE_LINE.fullmatch(text) for text in texts if text):
        raise Rejected(
            "bad-directory-settings", "a name in the directory has no control characters"
        )
    if not all(_PLAIN_NAME.fullmatch(text) for text in texts[1:3] if text):
        raise Rejected(
            "bad-directory-settings",
            "the name of a writer has no quotes, backslashes, $, %, ^ and brackets",
        )
    if any({'"', "\\"} & set(one.below) for one in access.look_ups):
        raise Rejected(
            "bad-directory-settings", "the name of a branch has no quotes and backslashes"
        )
    parts = [
        "\n".join(_server(access, tls)),
        "\n".join(_modules(installed, provider)),
        _schema(installed, schema),
        "\n".join(_front()),
        "\n".join(_database(suffix, access, indexes, consumer, copied=provider)),
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
    yield f"olcConnMaxPending: {_MOST_PENDING}"
    yield f"olcConnMaxPendingAuth: {_MOST_PENDING_BOUND}"
    yield f"olcMaxFilterDepth: {_DEEPEST_FILTER}"
    yield f"olcIdleTimeout: {IDLE}"
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
    suffix: str,
    access: Access,
    indexes: Sequence[str],
    consumer: Consumer | None,
    *,
    copied: bool,
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
    # The second and third are what copies are kept by (RFC 4533).
    copies = copied or consumer is not None
    yield f"olcDbIndex: objectClass{',entryCSN,entryUUID' if copies else ''} eq"
    yield from (f"olcDbIndex: {index}" for index in indexes)
    # Nobody reads the whole directory off: whoever looks somebody up finds few entries, and a
    # search that no index narrows down to few is refused before any is looked at.
    most = access.most_entries
    yield (
        f"olcLimits: {{0}}* size.soft={most} size.hard={most} size.unchecked={most} "
        f"size.pr={most} size.prtotal={most} time={access.most_seconds}"
    )
    for number, rule in enumerate(_rules(access, copied)):
        yield f"olcAccess: {{{number}}}{rule}"
    if consumer is not None:
        yield (
            f"olcSyncrepl: {{0}}rid=001 provider={consumer.provider} {consumer.bind} "
            f'searchbase="{suffix}" type=refreshAndPersist retry="1 +"'
        )
        yield f"olcUpdateRef: {consumer.refer}"


def _rules(access: Access, copied: bool) -> Iterator[str]:
    """The first that fits decides (slapd.access(5))."""
    if copied:
        # By RFC 4533 anybody could watch entries come, which no limit of a search counts.
        yield "to * by * none"
        return
    yield "to attrs=userPassword by anonymous auth by * none"
    yield f"to attrs={NOBODYS} by * none"
    for look_up in access.look_ups:
        attributes = f" attrs={','.join(look_up.attributes)}" if look_up.attributes else ""
        yield f'to dn.subtree="{look_up.below}"{attributes} by * read'
    # A class that few entries have would be a list of them. The last is for (objectClass=*), with
    # which one reads an entry by its name.
    for name in access.classes:
        yield f"to attrs=objectClass val={name} by * read"
    yield 'to attrs=objectClass val.regex=".+" by * =rcd'
    yield "to attrs=entry,objectClass by * read"
    yield "to * by * =rcd"
