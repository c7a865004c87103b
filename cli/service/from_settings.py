"""What the parts of an instance are told, made of the settings."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from conf.schema import Directory, Http, Settings
from infra.errors import Rejected
from infra.http.limits import Limits
from pki.directory.naming import branch_url
from pki.issuer import Urls
from pki.profile import Profile, load_profiles
from pki.weak_keys import NO_BLOCKLIST, KeyBlocklist, parse_blocklist


def limits(settings: Settings, body: int | None = None) -> Limits:
    """How much a client may send. ``body``: octets beyond which no body is of any use there, and
    none is kept until it is whole."""
    http = settings.http
    return Limits(
        body=http.max_request if body is None else min(http.max_request, body),
        wait=http.request_timeout.total_seconds(),
        read=http.request_timeout.total_seconds(),
        connections=http.max_connections,
        per_address=http.max_connections_per_address,
        stop=http.shutdown_timeout.total_seconds(),
    )


def all_profiles(settings: Settings) -> dict[str, Profile]:
    """Every profile, by its name. Errors: ``bad-profile``."""
    found = load_profiles(files("conf") / "profiles")
    if settings.issuance.profiles is not None:
        found |= load_profiles(settings.issuance.profiles)
    return found


def blocked_keys(path: Path | None) -> KeyBlocklist:
    """Keys that are refused. Errors: ``bad-blocklist``."""
    if path is None:
        return NO_BLOCKLIST
    try:
        return parse_blocklist(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected("bad-blocklist", f"{path} cannot be read: {error}") from error


def public_url(http: Http) -> str:
    """Where relying parties find public validation."""
    return http.public_url or url_of(http.validation_host, http.validation_port)


def url_of(host: str, port: int) -> str:
    """Plain HTTP at this address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def waived_findings(http: Http) -> frozenset[str]:
    """Findings of pkilint's that are true and meant while the URLs in certificates are this
    machine's: whoever issues to others sets ``http.public_url``."""
    local = urlsplit(public_url(http)).hostname in ("127.0.0.1", "::1", "localhost")
    return frozenset({"etsi.internal_domain_name"} if local else ())


def urls(http: Http, directory: Directory, name: str) -> Urls:
    """What certificates say of where things are."""
    base, server = public_url(http), directory.public_url
    branch = f"{directory.authorities},{directory.base}"
    return Urls.below(base, name, branch_url(server, branch) if server else "")
