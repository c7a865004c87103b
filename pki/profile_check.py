"""Each profile is tried before it is used: a certificate of it, signed by a throwaway key, is
built, checked and linted whenever the profile is new or has changed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from infra.errors import Rejected
from infra.store.port import Collection, Duplicate, Store
from pki import conformance
from pki.algorithms import KeyType, load_public_key, usual_algorithm
from pki.certificate import assemble, build, parse_certificate
from pki.directory.naming import branch_url
from pki.findings import Finding, Severity, explain
from pki.general_name import encode_general_names, parse_general_name
from pki.issuer import Issuer, Urls
from pki.lint import Linter
from pki.names import parse_rfc4514
from pki.oids import SUBJECT_ALT_NAME
from pki.profile import Profile, Sample
from pki.request import CertificateRequest, RequestedExtension
from pki.throwaway import Throwaway

COLLECTION: Final = Collection("profile_checks")

_SERIAL: Final = 0x4DF6A7C2_90B8E1D3_5C7A9F10_2B4D6E81
_KEY_TYPES: Final[tuple[KeyType, ...]] = (
    KeyType.P_256,
    KeyType.P_384,
    KeyType.ED25519,
    KeyType.RSA_2048,
)
"""What a sample's key is, the first that the profile takes: quick ones first."""


def try_out(
    profile: Profile, issuer: Issuer | None, now: datetime
) -> tuple[bytes, tuple[Finding, ...]]:
    """A certificate (DER) for the profile's sample, and how it deviates from the profile.

    ``issuer``: a CA whose key is ``Throwaway.of(P-256)``, or None for a self-signed one.
    Errors: what ``build`` refuses, when the sample does not fit the profile.
    """
    sample = profile.sample
    if sample is None:
        raise Rejected(
            "profile-sample-missing",
            f"profile {profile.name} has no [sample] to try it out with; give it one",
        )
    quick = [known for known in _KEY_TYPES if known in profile.key_types]
    key_type = (*quick, *sorted(profile.key_types))[0]
    subject_key = Throwaway.of(key_type, usual_algorithm(key_type))
    signer = subject_key if issuer is None else _issuer_key()
    request = CertificateRequest(
        der=b"",
        subject=parse_rfc4514(sample.subject).der,
        public_key_info=subject_key.public_key_info,
        key_type=key_type,
        extensions=_names(sample),
    )
    tbs = build(
        profile, request, issuer, signature_algorithm=signer.algorithm, serial=_SERIAL, now=now
    )
    findings = conformance.check(
        tbs, profile, request, issuer, signature_algorithm=signer.algorithm, serial=_SERIAL, now=now
    )
    return assemble(tbs, signer.algorithm, signer.sign(tbs)), findings


async def check(profile: Profile, linter: Linter, now: datetime) -> tuple[Finding, ...]:
    """What our own check and pkilint find on a certificate of this profile.

    Errors: ``profile-sample-missing``, and what ``build`` refuses.
    """
    certificate, findings = try_out(profile, _issuer(profile), now)
    linted = await linter.certificate(certificate, profile.rulebook)
    return findings + tuple(
        finding for finding in linted if finding.code not in profile.waived_findings
    )


async def check_all(
    profiles: Mapping[str, Profile], store: Store, linter: Linter, now: datetime
) -> None:
    """Check every profile that is new or has changed since it was last found good, and keep its
    name (``require_profile``).

    Errors: ``profile-findings``, naming the profile and the codes.
    """
    for profile in profiles.values():
        if await store.get(COLLECTION, profile.fingerprint) is None:
            findings = await check(profile, linter, now)
            errors = [finding for finding in findings if finding.severity is Severity.ERROR]
            if errors:
                raise Rejected("profile-findings", f"profile {profile.name}: {explain(errors)}")
            with suppress(Duplicate):
                await store.insert(COLLECTION, profile.fingerprint, {"profile": profile.name})
        # Profiles of several names may have one fingerprint.
        if await store.get(COLLECTION, _by_name(profile.name)) is None:
            with suppress(Duplicate):
                await store.insert(COLLECTION, _by_name(profile.name), {"profile": profile.name})


async def require_profile(name: str, profiles: Mapping[str, Profile], store: Store) -> None:
    """Refuse the name of a profile that is not here and never was: certificates outlive theirs.
    Errors: ``unknown-profile``."""
    if name in profiles:
        return
    async for stored in store.scan(COLLECTION):
        if stored.body["profile"] == name:
            return
    raise Rejected(
        "unknown-profile",
        f"there is no profile {name[:80]!r}, and none of that name was in use; there are: "
        f"{', '.join(sorted(profiles))}",
    )


def _by_name(name: str) -> str:
    return f"name/{name}"


def _names(sample: Sample) -> tuple[RequestedExtension, ...]:
    if not sample.alternative_names:
        return ()
    names = [parse_general_name(name) for name in sample.alternative_names]
    return (RequestedExtension(SUBJECT_ALT_NAME, False, encode_general_names(names)),)


def _issuer_key() -> Throwaway:
    return Throwaway.of(KeyType.P_256, usual_algorithm(KeyType.P_256))


@lru_cache(maxsize=1)
def _ca_certificate() -> bytes:
    """A throwaway CA, made by cryptography: it is not what is tried out."""
    name = x509.Name.from_rfc4514_string("CN=Throwaway CA,O=Registry,C=AQ")
    key = _issuer_key()
    public_key = load_public_key(key.public_key_info)
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    builder = (
        x509.CertificateBuilder(name, name, public_key, 1, start, start + timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    return builder.sign(key.private_key, SHA256()).public_bytes(Encoding.DER)


def _issuer(profile: Profile) -> Issuer | None:
    if profile.self_signed:
        return None
    branch = branch_url("ldap://directory.example.org", "ou=authorities,o=Registry")
    urls = Urls.below("http://pki.example.org", "throwaway", branch)
    return parse_certificate(_ca_certificate()).as_issuer("throwaway", urls)
