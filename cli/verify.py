"""``digitalid verify``: is this certificate to be trusted, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cli import certificate, files
from cli.command import Command, Session
from cli.output import BAD, DONE, GOOD, NEGATIVE, QUIET, Answer, Json, Line
from infra.errors import Failure, Rejected

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from pki.validation import Outcome, Revocation

FILE: Final = click.Path(path_type=Path, exists=True, dir_okay=False)
FETCH: Final = "fetch"
CA_ISSUERS: Final = "1.3.6.1.5.5.7.48.2"
OCSP: Final = "1.3.6.1.5.5.7.48.1"
MAX_FETCHED_ISSUERS: Final = 5
PURPOSES: Final = (
    "any",
    "tls-server",
    "tls-client",
    "email",
    "code-signing",
    "time-stamping",
    "ocsp-signing",
    "signature",
    "encryption",
)
"""The values of ``pki.purpose.Purpose``, which is not imported for ``--help``."""


@dataclass(slots=True)
class Material:
    """What a validation is given, in DER, and remarks on what could not be had."""

    leaf: bytes
    anchors: list[bytes]
    intermediates: list[bytes]
    crls: list[bytes] = field(default_factory=list)
    ocsp_responses: list[bytes] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@click.command("verify", cls=Command)
@click.argument("which", metavar="CERT")
@click.option(
    "--anchor",
    "anchors",
    multiple=True,
    type=FILE,
    help="Trust this root (PEM, may hold several; or DER); else the instance's roots.",
)
@click.option(
    "--intermediate",
    "intermediates",
    multiple=True,
    type=FILE,
    help="A CA in between; those after CERT in its file count too.",
)
@click.option("--at", type=certificate.MOMENT, help="As of this time instead of now.")
@click.option(
    "--crl",
    "crls",
    multiple=True,
    metavar="FILE|fetch",
    help="Revocation by this CRL, or by those that the certificates point to.",
)
@click.option(
    "--ocsp",
    "responses",
    multiple=True,
    metavar="FILE|fetch",
    help="Revocation by this OCSP response, or by asking the responder.",
)
@click.option("--no-revocation", is_flag=True, help="Do not ask about revocation.")
@click.option(
    "--purpose",
    type=click.Choice(PURPOSES),
    default="any",
    metavar="PURPOSE",
    help="What it is going to be used for: any (default), tls-server, tls-client, email, "
    "code-signing, time-stamping, ocsp-signing, signature or encryption.",
)
@click.pass_obj
async def verify(
    session: Session,
    which: str,
    anchors: tuple[Path, ...],
    intermediates: tuple[Path, ...],
    at: datetime | None,
    crls: tuple[str, ...],
    responses: tuple[str, ...],
    no_revocation: bool,
    purpose: str,
) -> Answer:
    """Validate a certificate (file or serial number) up to a trust anchor, and say why.

    The rules are RFC 5280 §6. Without --crl and --ocsp, revocation is looked up where the
    certificates say. Exit code 1: it is not to be trusted.

    \b
    Example:
      digitalid verify web.pem --at 2026-11-01
      digitalid verify web.pem --anchor root.pem --crl issuing.crl --crl root.crl
    """
    from cli.progress import working
    from pki.purpose import Purpose
    from pki.validation import Revocation, validate

    if no_revocation and (crls or responses):
        raise click.UsageError("--no-revocation excludes --crl and --ocsp")
    material = await _material(session, which, anchors, intermediates)

    # Asked anew after the fetching, or what was fetched would seem to be of the future.
    now = datetime.now(UTC)

    async def outcome(revocation: Revocation) -> Outcome:
        nonlocal now
        now = datetime.now(UTC)
        return await validate(
            material.leaf,
            anchors=material.anchors,
            intermediates=material.intermediates,
            crls=material.crls,
            ocsp_responses=material.ocsp_responses,
            at=at or now,
            now=now,
            revocation=revocation,
            purpose=Purpose(purpose),
        )

    with working("validating"):
        found = await outcome(Revocation.NONE)
        for _ in range(MAX_FETCHED_ISSUERS):
            last = certificate.load(found.path[-1], "the path")
            if found.code != "issuer-missing" or not await _fetch_issuer(material, last):
                break
            found = await outcome(Revocation.NONE)
        if found.valid and not no_revocation:
            await _revocation_data(material, found.path, crls, responses)
            found = await outcome(_required(crls, responses, Revocation))
            if found.code.startswith("revocation-") and not crls and not responses:
                # What the responder said does not hold; the CRL may.
                await _fetch_crl(material, found.path[0])
                found = await outcome(Revocation.EITHER)
    return _answer(found, material, at or now)


def _required(
    crls: tuple[str, ...], responses: tuple[str, ...], kinds: type[Revocation]
) -> Revocation:
    if crls and not responses:
        return kinds.CRL
    return kinds.OCSP if responses and not crls else kinds.EITHER


async def _material(
    session: Session, which: str, anchors: tuple[Path, ...], intermediates: tuple[Path, ...]
) -> Material:
    """The certificate and the CAs that are given; the instance's own fill what is not."""
    given = _several(Path(which)) if Path(which).is_file() else None
    trusted = [der for path in anchors for der in _several(path)]
    between = [der for path in intermediates for der in _several(path)]
    if given is None or not trusted:
        async with session.connect() as client:
            if given is None:
                located = await certificate.locate(client, which, None)
                view = await client.get(located.path, located.query)
                if not view.get("pem"):
                    raise Rejected("not-issued", f"{which} was never issued: it is {view['state']}")
                given = [_der(certificate.load(view["pem"].encode(), which))]
            for authority in (await client.get("/authorities"))["authorities"]:
                own = certificate.load(authority["pem"].encode(), str(authority["name"]))
                is_root = own.subject == own.issuer
                if is_root and not anchors:
                    trusted.append(_der(own))
                elif not is_root:
                    between.append(_der(own))
    if not trusted:
        raise Rejected("no-anchor", "the instance has no root yet; name one with --anchor FILE")
    return Material(given[0], trusted, between + given[1:])


def _several(path: Path) -> list[bytes]:
    """Every certificate of a PEM file, or the one of a DER file, in DER."""
    from cryptography import x509

    content = files.read(path)
    if content.count(b"-----BEGIN CERTIFICATE-----") < 2:
        return [_der(certificate.load(content, str(path)))]
    try:
        return [_der(each) for each in x509.load_pem_x509_certificates(content)]
    except Exception as error:  # the library raises more kinds than it documents
        raise Rejected("bad-certificate", f"{path}: not all of it is certificates") from error


def _der(found: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return found.public_bytes(Encoding.DER)


async def _fetch_issuer(material: Material, issued: Any) -> bool:
    """Add the certificate of who issued a certificate or CRL, from where that says; whether there
    was one to add."""
    from cli import fetch
    from cli.ocsp import access

    for url in access(issued, CA_ISSUERS):
        try:
            content = await fetch.get(url, limit=fetch.MAX_CERTIFICATE)
            issuer = _der(certificate.load(content, url))
        except Failure as failure:
            material.remarks.append(f"no CA certificate: {failure.detail}")
            continue
        if issuer not in material.intermediates:
            material.intermediates.append(issuer)
            return True
    return False


async def _revocation_data(
    material: Material,
    path: tuple[bytes, ...],
    crls: tuple[str, ...],
    responses: tuple[str, ...],
) -> None:
    """Read the files that are named; fetch what is asked for, or what is needed when nothing is
    named: OCSP for the certificate itself, CRLs for the CAs above it and where OCSP fails."""
    from cli import fetch

    material.crls += [_crl_file(Path(name)) for name in crls if name != FETCH]
    material.ocsp_responses += [
        files.read(Path(name), limit=fetch.MAX_OCSP) for name in responses if name != FETCH
    ]
    anything = not crls and not responses
    below = list(path[:-1])
    answered = False
    if below and (anything or FETCH in responses):
        answered = await _fetch_ocsp(material, path)
    if anything or FETCH in crls or FETCH in responses:
        # CRLs of the CAs serve an OCSP validation too; nobody keeps OCSP for CAs.
        start = 0 if FETCH in crls or (anything and not answered) else 1
        for der in below[start:]:
            await _fetch_crl(material, der)


def _crl_file(path: Path) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from cli import fetch

    content = files.read(path, limit=fetch.MAX_CRL)
    if certificate.PEM_BEGIN not in content:
        return content
    try:
        return x509.load_pem_x509_crl(content).public_bytes(Encoding.DER)
    except Exception as error:  # the library raises more kinds than it documents
        raise Rejected("bad-crl", f"{path}: no CRL in PEM or DER") from error


async def _fetch_ocsp(material: Material, path: tuple[bytes, ...]) -> bool:
    from cli import fetch
    from cli.ocsp import access
    from cli.ocsp_client import request_for

    leaf, issuer = (certificate.load(der, "the path") for der in path[:2])
    for url in access(leaf, OCSP):
        try:
            content = await fetch.ocsp(url, request_for(leaf, issuer, "sha1", None))
            _check_successful(content, url)
        except Failure as failure:
            material.remarks.append(f"no OCSP response: {failure.detail}")
            continue
        material.ocsp_responses.append(content)
        return True
    return False


def _check_successful(content: bytes, url: str) -> None:
    """Refuse what is no answer here already, so that a CRL can take its place."""
    from cryptography.x509.ocsp import OCSPResponseStatus, load_der_ocsp_response

    try:
        status = load_der_ocsp_response(content).response_status
    except Exception as error:  # the library raises more kinds than it documents
        raise Rejected("bad-answer", f"{url} does not answer with an OCSP response") from error
    if status is not OCSPResponseStatus.SUCCESSFUL:
        raise Rejected("bad-answer", f"{url} answers {status.name.lower().replace('_', ' ')}")


async def _fetch_crl(material: Material, der: bytes, *, indirect: bool = True) -> None:
    """The CRL of a certificate and the delta that it names as the freshest; of an ``indirect``
    one, which says where the certificate of its signer is, also that and its own CRL."""
    from cryptography import x509

    holder = certificate.load(der, "the path")
    found = await _crl_at(material, _points(holder, x509.CRLDistributionPoints))
    if found is None:
        return
    await _crl_at(material, _points(found, x509.FreshestCRL))
    if indirect and await _fetch_issuer(material, found):
        await _fetch_crl(material, material.intermediates[-1], indirect=False)


def _points(holder: Any, kind: Any) -> list[str]:
    """The URLs in an extension of distribution points, in their order."""
    from cryptography import x509

    try:
        points = holder.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return []
    names = [name for point in points for name in point.full_name or ()]
    return [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]


async def _crl_at(material: Material, urls: list[str]) -> Any:
    """The first of these that is a CRL, as cryptography reads it, added to the material."""
    from cryptography import x509

    from cli import fetch

    for url in urls:
        try:
            content = await fetch.get(url, limit=fetch.MAX_CRL)
            read = x509.load_der_x509_crl(content)
        except Failure as failure:
            material.remarks.append(f"no CRL: {failure.detail}")
        except Exception:  # the library raises more kinds than it documents
            material.remarks.append(f"no CRL: {url} does not answer with a CRL")
        else:
            material.crls.append(content)
            return read
    return None


def _answer(found: Outcome, material: Material, moment: datetime) -> Answer:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    path: list[Json] = [
        x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
        for der in found.path
    ]
    document: dict[str, Json] = {
        "valid": found.valid,
        "code": found.code,
        "at": certificate.text_of(moment),
        "retroactive": found.retroactive,
        "explanation": list(found.explanation),
        "remarks": list(material.remarks),
        "path": path,
    }
    verdict = "Valid." if found.valid else f"NOT VALID: {found.code}."
    return Answer(
        document,
        (
            Line(verdict, GOOD if found.valid else BAD),
            *(Line(f"  {line}") for line in found.explanation),
            *(Line(f"  {line}", QUIET) for line in material.remarks),
        ),
        DONE if found.valid else NEGATIVE,
    )
