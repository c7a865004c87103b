"""Every setting with its type; ``default.toml`` beside this file has their values and meaning."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from conf.kinds import (
    HOST,
    LABEL,
    ORIGIN,
    BaseUrl,
    Choice,
    Duration,
    FilePath,
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
    request_timeout: Annotated[timedelta, Duration("1s", "1h")]
    shutdown_timeout: Annotated[timedelta, Duration("0s", "1h")]


@dataclass(frozen=True, slots=True)
class Keys:
    """Where private keys are; ``module`` None: the first SoftHSM that is installed."""

    store: Annotated[Literal["auto", "pkcs11", "file"], Choice(("auto", "pkcs11", "file"))]
    module: Annotated[Path | None, OptionalPath()]
    token_label: Annotated[str, LABEL]
    pin: Annotated[Secret, Reference()]
    folder: Annotated[Path, FilePath()]
    passphrase: Annotated[Secret, Reference()]


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
    all that are younger; ``partitions``: how many CRLs new certificates are spread over, 0 for one
    CRL of the whole CA; ``lease``: how long a process that died keeps others from making CRLs.
    """

    lifetime: Annotated[timedelta, Duration("1m", "400d")]
    overlap: Annotated[timedelta, Duration("0s", "399d")]
    debounce: Annotated[timedelta, Duration("0s", "1h")]
    delta: Annotated[bool, Switch()]
    delta_lifetime: Annotated[timedelta, Duration("1m", "400d")]
    retention: Annotated[timedelta, Duration("0s", "5200w")]
    keep: Annotated[int, Whole(1, 10_000)]
    keep_for: Annotated[timedelta, Duration("0s", "5200w")]
    partitions: Annotated[int, Whole(0, 100_000)]
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
class Settings:
    """All settings, checked. ``home``: the folder that holds all state, absolute."""

    home: Path
    http: Http
    keys: Keys
    issuance: Issuance
    crl: Crl
    ocsp: Ocsp
    feed: Feed
    log: Log
    store: StoreSettings
    logging: Logging


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
    if crl.partitions and ocsp.crl_reference:
        keys = ("crl.partitions", "ocsp.crl_reference")
        return keys, (
            "ocsp.crl_reference names the CRL of a whole CA, which lists nothing of a partition; "
            "use it without crl.partitions"
        )
    if ocsp.lifetime >= ocsp.responder_lifetime:
        keys = ("ocsp.lifetime", "ocsp.responder_lifetime")
        return keys, "ocsp.lifetime must be shorter than ocsp.responder_lifetime, which signs it"
    if ocsp.signed_requests != "ignore" and ocsp.request_anchors is None:
        keys = ("ocsp.signed_requests", "ocsp.request_anchors")
        return keys, "ocsp.request_anchors must name the CAs whose clients may sign requests"
    return None
