"""Every setting with its type; ``default.toml`` beside this file has their values and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from conf.kinds import (
    CRL_ISSUER,
    DN,
    DN_OR_NONE,
    HOST,
    LABEL,
    ORIGIN,
    BaseUrl,
    Choice,
    DirectoryUrl,
    Duration,
    FilePath,
    Names,
    OptionalPath,
    Reference,
    Secret,
    Share,
    Size,
    Switch,
    Whole,
)


@dataclass(frozen=True, slots=True)
class Http:
    """Where the two services listen, and how much they take.

    ``public_url``: the beginning of the URLs in certificates, no slash at its end; empty for the
    address of public validation itself;
    ``max_request``: octets of a request's body.
    """

    app_host: Annotated[str, HOST]
    app_port: Annotated[int, Whole(0, 65535)]
    validation_host: Annotated[str, HOST]
    validation_port: Annotated[int, Whole(0, 65535)]
    public_url: Annotated[str, BaseUrl()]
    tls_certificate: Annotated[Path | None, OptionalPath()]
    tls_key: Annotated[Path | None, OptionalPath()]
    max_request: Annotated[int, Size("1KiB", "64MiB")]
    max_connections: Annotated[int, Whole(1, 1_000_000)]
    max_connections_per_address: Annotated[int, Whole(0, 1_000_000)]
    request_timeout: Annotated[timedelta, Duration("1s", "1h")]
    shutdown_timeout: Annotated[timedelta, Duration("0s", "1h")]


@dataclass(frozen=True, slots=True)
class Keys:
    """Where private keys are; ``module`` None: the first SoftHSM that is installed;
    ``check_interval``: how often health looks at them."""

    store: Annotated[Literal["auto", "pkcs11", "file"], Choice(("auto", "pkcs11", "file"))]
    module: Annotated[Path | None, OptionalPath()]
    token_label: Annotated[str, LABEL]
    pin: Annotated[Secret, Reference()]
    folder: Annotated[Path, FilePath()]
    passphrase: Annotated[Secret, Reference()]
    check_interval: Annotated[timedelta, Duration("1s", "1h")]


@dataclass(frozen=True, slots=True)
class Issuance:
    """How certificates are checked; ``profiles``: a folder of profiles beside the built-in ones;
    ``blocked_keys``: a file of fingerprints."""

    lint_share: Annotated[float, Share()]
    verify_signature: Annotated[bool, Switch()]
    profiles: Annotated[Path | None, OptionalPath()]
    blocked_keys: Annotated[Path | None, OptionalPath()]


@dataclass(frozen=True, slots=True)
class Crl:
    """How long a CRL lives, when the next one is made, and what stays of it.

    ``delta``: whether revocations go into delta CRLs; ``retention``: how long after its end a
    revoked certificate stays listed; ``keep``, ``keep_for``: how many files of a series stay, and
    all that are younger; ``cache``: how long caches may keep one; ``partitions``: how many CRLs
    new certificates are spread over, 0 for one CRL of the whole CA; ``by_kind``: whether CAs'
    certificates and others' have CRLs of their own; ``indirect``: who signs one CRL for all CAs
    below a root, empty for nobody; ``offline``: CAs whose CRLs are made elsewhere and imported;
    ``lease``: how long a process that died keeps others from making CRLs.
    """

    lifetime: Annotated[timedelta, Duration("1m", "400d")]
    overlap: Annotated[timedelta, Duration("0s", "399d")]
    debounce: Annotated[timedelta, Duration("0s", "1h")]
    delta: Annotated[bool, Switch()]
    delta_lifetime: Annotated[timedelta, Duration("1m", "400d")]
    retention: Annotated[timedelta, Duration("0s", "5200w")]
    keep: Annotated[int, Whole(1, 10_000)]
    keep_for: Annotated[timedelta, Duration("0s", "5200w")]
    cache: Annotated[timedelta, Duration("0s", "400d")]
    partitions: Annotated[int, Whole(0, 100_000)]
    by_kind: Annotated[bool, Switch()]
    indirect: Annotated[str, CRL_ISSUER]
    offline: Annotated[tuple[str, ...], Names()]
    lease: Annotated[timedelta, Duration("3s", "1h")]


@dataclass(frozen=True, slots=True)
class Ocsp:
    """What OCSP answers say, who signs them and how many processes do.

    ``workers``: processes that share public validation's port, 0 to answer in the CA's own;
    ``cached_answers``: kept by each process; ``request_anchors``: PEM of the CAs whose clients may
    sign requests; ``archive_cutoff``: how long the statuses of expired certificates are kept, zero
    not to say so.
    """

    lifetime: Annotated[timedelta, Duration("1m", "30d")]
    responder_lifetime: Annotated[timedelta, Duration("1h", "400d")]
    responder_id: Annotated[Literal["key", "name"], Choice(("key", "name"))]
    workers: Annotated[int, Whole(0, 256)]
    cached_answers: Annotated[int, Whole(0, 100_000_000)]
    signed_requests: Annotated[
        Literal["ignore", "verify", "require"], Choice(("ignore", "verify", "require"))
    ]
    request_anchors: Annotated[Path | None, OptionalPath()]
    extended_revoke: Annotated[bool, Switch()]
    archive_cutoff: Annotated[timedelta, Duration("0s", "5200w")]
    crl_reference: Annotated[bool, Switch()]
    access_log: Annotated[bool, Switch()]


@dataclass(frozen=True, slots=True)
class Feed:
    """Where a validation authority without a CA learns of statuses.

    ``url``: the application of the CA's instance, empty for none; ``key``: PEM, the public key
    that signs the feed; ``ca``: PEM, the CAs that may vouch for the URL's certificate, None for
    the system's; ``most_lag``: how old statuses may become before nothing is answered any more.
    """

    url: Annotated[str, BaseUrl()]
    token: Annotated[Secret, Reference()]
    key: Annotated[Path, FilePath()]
    ca: Annotated[Path | None, OptionalPath()]
    most_lag: Annotated[timedelta, Duration("2s", "7d")]


@dataclass(frozen=True, slots=True)
class Directory:
    """An LDAP directory that is kept equal to the ledger.

    ``url``: without what follows the host, empty for none; ``base``: the root of the tree;
    ``people``, ``enterprises``, ``authorities``: the branches, relative to it; ``person_rdn``,
    ``enterprise_rdn``: attributes that name an entry; ``bind_dn``: empty for SASL
    EXTERNAL; ``ca``: PEM of the CAs that may vouch for the URL, None for the system's;
    ``certificate``, ``key``: PEM, the client's own; ``replaced``, ``expired``, ``revoked``: what
    becomes of such certificates; ``max_crl``: octets; ``public_url``: as certificates say it;
    ``more``: a folder of further directories.
    """

    url: Annotated[str, DirectoryUrl()]
    start_tls: Annotated[bool, Switch()]
    allow_plain: Annotated[bool, Switch()]
    ca: Annotated[Path | None, OptionalPath()]
    bind: Annotated[Literal["simple", "external"], Choice(("simple", "external"))]
    bind_dn: Annotated[str, DN_OR_NONE]
    password: Annotated[Secret, Reference()]
    certificate: Annotated[Path | None, OptionalPath()]
    key: Annotated[Path | None, OptionalPath()]
    base: Annotated[str, DN]
    people: Annotated[str, DN]
    enterprises: Annotated[str, DN]
    authorities: Annotated[str, DN]
    person_rdn: Annotated[Literal["uid", "cn+uid"], Choice(("uid", "cn+uid"))]
    enterprise_rdn: Annotated[Literal["uid", "o+uid", "cn+uid"], Choice(("uid", "o+uid", "cn+uid"))]
    replaced: Annotated[Literal["keep", "remove"], Choice(("keep", "remove"))]
    expired: Annotated[Literal["keep", "remove"], Choice(("keep", "remove"))]
    revoked: Annotated[Literal["keep", "remove"], Choice(("keep", "remove"))]
    public_url: Annotated[str, DirectoryUrl()]
    connections: Annotated[int, Whole(1, 16)]
    in_flight: Annotated[int, Whole(1, 256)]
    timeout: Annotated[timedelta, Duration("1s", "5m")]
    max_crl: Annotated[int, Size("64KiB", "15MiB")]
    more: Annotated[Path | None, OptionalPath()]


@dataclass(frozen=True, slots=True)
class SlapdSettings:
    """A directory server of our own, for while ``directory.url`` names none.

    ``tls_port``: where TLS begins with the first octet, 0 for nowhere; it takes a certificate, with
    which StartTLS works on ``port``, too.
    """

    run: Annotated[Literal["auto", "on", "off"], Choice(("auto", "on", "off"))]
    host: Annotated[str, HOST]
    port: Annotated[int, Whole(0, 65535)]
    tls_port: Annotated[int, Whole(0, 65535)]
    tls_certificate: Annotated[Path | None, OptionalPath()]
    tls_key: Annotated[Path | None, OptionalPath()]


@dataclass(frozen=True, slots=True)
class Log:
    """The log and how often its head is signed; ``origin`` is the first line of each checkpoint."""

    origin: Annotated[str, ORIGIN]
    checkpoint_interval: Annotated[timedelta, Duration("1s", "30d")]


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the ledger is."""

    kind: Annotated[Literal["sqlite"], Choice(("sqlite",))]
    path: Annotated[Path, FilePath()]


@dataclass(frozen=True, slots=True)
class Logging:
    """What the service says about itself while it runs (the audit trail is ``log``)."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Choice(("debug", "info", "warning", "error")),
    ]
    format: Annotated[Literal["auto", "text", "json"], Choice(("auto", "text", "json"))]


@dataclass(frozen=True, slots=True)
class Expiry:
    """How long before the end of a certificate its operator is told: of a CA's, and of others."""

    authority: Annotated[timedelta, Duration("0s", "5200w")]
    certificate: Annotated[timedelta, Duration("0s", "5200w")]


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, checked. ``home``: the folder that holds all state, absolute."""

    home: Path
    http: Http
    keys: Keys
    issuance: Issuance
    crl: Crl
    ocsp: Ocsp
    feed: Feed
    directory: Directory
    slapd: SlapdSettings
    log: Log
    store: StoreSettings
    logging: Logging
    expiry: Expiry


def contradiction(settings: Settings) -> tuple[tuple[str, ...], str] | None:
    """The first keys that do not go together, with the reason."""
    http, crl, ocsp = settings.http, settings.crl, settings.ocsp
    keys: tuple[str, ...]
    if (http.tls_certificate is None) != (http.tls_key is None):
        keys = ("http.tls_certificate", "http.tls_key")
        return keys, "TLS needs both http.tls_certificate and http.tls_key"
    same_host = http.app_host == http.validation_host
    if same_host and http.app_port == http.validation_port != 0:
        keys = ("http.validation_port", "http.app_port")
        return keys, "http.app_port and http.validation_port must differ"
    if not http.public_url and (
        http.validation_port == 0 or http.validation_host in ("0.0.0.0", "::")  # noqa: S104
    ):
        keys = ("http.public_url", "http.validation_host", "http.validation_port")
        return keys, (
            "http.public_url must be set: it goes into certificates, and no relying party can "
            "reach the address that public validation listens on"
        )
    if crl.overlap >= crl.lifetime:
        keys = ("crl.overlap", "crl.lifetime")
        return keys, "crl.overlap must be shorter than crl.lifetime, or no CRL would stay current"
    if crl.delta and crl.delta_lifetime > crl.lifetime:
        keys = ("crl.delta_lifetime", "crl.lifetime")
        return keys, "crl.delta_lifetime must not be longer than crl.lifetime, that of its base"
    if crl.indirect and crl.partitions:
        keys = ("crl.indirect", "crl.partitions")
        return keys, "crl.indirect lists everything in one CRL; use it without crl.partitions"
    if crl.indirect in crl.offline:
        keys = ("crl.indirect", "crl.offline")
        return keys, "crl.indirect is signed here and cannot be in crl.offline"
    spread = [key for key in ("partitions", "by_kind", "indirect") if getattr(crl, key)]
    if spread and ocsp.crl_reference:
        keys = (f"crl.{spread[0]}", "ocsp.crl_reference")
        return keys, (
            "ocsp.crl_reference names the CRL of a whole CA, which lists nothing that another CRL "
            f"does; use it without crl.{spread[0]}"
        )
    if ocsp.lifetime >= ocsp.responder_lifetime:
        keys = ("ocsp.lifetime", "ocsp.responder_lifetime")
        return keys, "ocsp.lifetime must be shorter than ocsp.responder_lifetime, which signs it"
    if ocsp.signed_requests != "ignore" and ocsp.request_anchors is None:
        keys = ("ocsp.signed_requests", "ocsp.request_anchors")
        return keys, "ocsp.request_anchors must name the CAs whose clients may sign requests"
    return directory_contradiction(settings.directory) or slapd_contradiction(settings.slapd)


def directory_contradiction(directory: Directory) -> tuple[tuple[str, ...], str] | None:
    """The first keys of a directory that do not go together, with the reason."""
    url = directory.url
    if url.startswith("ldap://") and not (directory.start_tls or directory.allow_plain):
        host = url.removeprefix("ldap://").rpartition(":")[0] or url.removeprefix("ldap://")
        if host not in ("127.0.0.1", "[::1]", "localhost"):
            return ("directory.url", "directory.start_tls", "directory.allow_plain"), (
                "directory.url is ldap:// off this machine: use ldaps://, directory.start_tls, or "
                "directory.allow_plain for a network that nobody else is on"
            )
    if directory.start_tls and url and not url.startswith("ldap://"):
        return ("directory.start_tls", "directory.url"), (
            "directory.start_tls is for ldap:// only: ldaps:// begins with TLS, ldapi:// needs none"
        )
    if (directory.certificate is None) != (directory.key is None):
        return ("directory.certificate", "directory.key"), (
            "a client certificate needs both directory.certificate and directory.key"
        )
    if url and directory.bind == "simple" and not directory.bind_dn:
        return ("directory.bind_dn", "directory.bind", "directory.url"), (
            'directory.bind = "simple" needs the name in directory.bind_dn'
        )
    if url and directory.bind == "simple" and directory.password.scheme == "prompt":
        return ("directory.password", "directory.bind"), (
            "directory.password is read whenever the directory is reached: name a file or variable"
        )
    over_tcp = url.startswith(("ldap:", "ldaps:"))
    if over_tcp and directory.bind == "external" and directory.certificate is None:
        return ("directory.certificate", "directory.bind"), (
            'directory.bind = "external" over TCP needs directory.certificate'
        )
    return None


def slapd_contradiction(slapd: SlapdSettings) -> tuple[tuple[str, ...], str] | None:
    """The first keys of our own directory server that do not go together, with the reason."""
    keys: tuple[str, ...]
    if (slapd.tls_certificate is None) != (slapd.tls_key is None):
        keys = ("slapd.tls_certificate", "slapd.tls_key")
        return keys, "TLS of the directory needs both slapd.tls_certificate and slapd.tls_key"
    if slapd.tls_port and slapd.tls_certificate is None:
        keys = ("slapd.tls_port", "slapd.tls_certificate")
        return keys, "slapd.tls_port needs slapd.tls_certificate and slapd.tls_key"
    if slapd.tls_port and slapd.tls_port == slapd.port:
        return ("slapd.tls_port", "slapd.port"), "slapd.port and slapd.tls_port must differ"
    return None
