"""Findings of pkilint on certificates, CRLs and OCSP responses.

pkilint takes most of a second to load and milliseconds a certificate, so a ``Linter`` runs it in
one process of its own; a process that only holds a ``Linter`` never loads it.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias

import msgspec

from infra.errors import Broken, Rejected, Unavailable
from infra.framing import MAX_MESSAGE
from infra.worker import Worker, work
from pki.findings import Finding, Severity

TIMEOUT: Final = 30.0  # seconds
MAXIMUM_SIZE: Final = 64 * 1024  # octets of a certificate or an OCSP response
MAXIMUM_CRL_SIZE: Final = 1024 * 1024

PKIX: Final = "pkix"
ETSI: Final = "etsi"
CABF_SERVERAUTH: Final = "cabf-serverauth"
_CRL: Final = "crl"
_OCSP_RESPONSE: Final = "ocsp-response"

_Lint: TypeAlias = Callable[[bytes], tuple[Finding, ...]]


def lint_certificate(der: bytes, rulebook: str = PKIX) -> tuple[Finding, ...]:
    """Lint a certificate in this process.

    ``rulebook``: ``pkix`` (RFC 5280); ``etsi`` (EN 319 412) or ``cabf-serverauth`` (Baseline
    Requirements), which take the type of certificate from its policies and qcStatements, unless
    it is named as in ``etsi/qcp-n-qscd-eidas-final-certificate``. Errors: ``bad-der``,
    ``object-too-large``, ``no-such-rulebook``.
    """
    _limit(der, MAXIMUM_SIZE)
    book, _, kind = rulebook.partition("/")
    if book == PKIX and not kind:
        return _pkix_certificate()(der)
    if book in (ETSI, CABF_SERVERAUTH):
        return _typed(der, book, kind)
    raise _no_such_rulebook(rulebook)


def lint_crl(der: bytes) -> tuple[Finding, ...]:
    """Lint a CRL by RFC 5280 §5 in this process. Errors: ``bad-der``, ``object-too-large``."""
    _limit(der, MAXIMUM_CRL_SIZE)
    return _pkix_crl()(der)


def lint_ocsp_response(der: bytes) -> tuple[Finding, ...]:
    """Lint an OCSP response by RFC 6960 in this process. Errors: ``bad-der``,
    ``object-too-large``."""
    _limit(der, MAXIMUM_SIZE)
    return _pkix_ocsp_response()(der)


class Linter:
    """Lints in one other process, which starts with the first object and again if it dies.

    One object at a time: callers queue. ``timeout``: seconds for one object, the start of the
    process included.
    """

    def __init__(self, *, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._worker = Worker(__name__, patience=2 * timeout)
        self._turn = asyncio.Lock()
        self._closed = False

    async def certificate(self, der: bytes, rulebook: str = PKIX) -> tuple[Finding, ...]:
        """``lint_certificate``, elsewhere. Errors besides its own: ``Unavailable`` with
        ``lint-timeout`` or ``linter-unavailable``, ``Broken("lint-failed")``."""
        _limit(der, MAXIMUM_SIZE)
        return await self._lint(rulebook, der)

    async def crl(self, der: bytes) -> tuple[Finding, ...]:
        """``lint_crl``, elsewhere. Errors: as ``certificate``."""
        _limit(der, MAXIMUM_CRL_SIZE)
        return await self._lint(_CRL, der)

    async def ocsp_response(self, der: bytes) -> tuple[Finding, ...]:
        """``lint_ocsp_response``, elsewhere. Errors: as ``certificate``."""
        _limit(der, MAXIMUM_SIZE)
        return await self._lint(_OCSP_RESPONSE, der)

    async def close(self) -> None:
        """End the process, after the object that it is at, and wait until it is gone."""
        async with self._turn:
            self._closed = True
            await self._worker.close()

    async def _lint(self, subject: str, der: bytes) -> tuple[Finding, ...]:
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout):
                    reply = await self._ask(_encode(_Question(subject, der)))
            except TimeoutError as error:
                await self._worker.kill()
                raise Unavailable(
                    "lint-timeout", f"pkilint took more than {self._timeout:g} seconds"
                ) from error
        match reply:
            case _Found():
                return reply.findings
            case _Refused():
                raise Rejected(reply.code, reply.detail)
            case _Failed():
                raise Broken("lint-failed", reply.detail)

    async def _ask(self, question: bytes) -> _Reply:
        if self._closed:
            raise Unavailable("linter-unavailable", "the linter is closed")
        for _ in range(2):  # a process that died since the last object is replaced once
            with suppress(Unavailable):
                return _REPLY.decode(await self._worker.ask(question))
        raise Unavailable("linter-unavailable", "the process that runs pkilint keeps dying")


# ── Between the processes: MessagePack ────────────────────────────────────────────────────────────


class _Question(msgspec.Struct, frozen=True, array_like=True):
    subject: str
    der: bytes


class _Found(msgspec.Struct, frozen=True, tag=True):
    findings: tuple[Finding, ...]


class _Refused(msgspec.Struct, frozen=True, tag=True):
    code: str
    detail: str


class _Failed(msgspec.Struct, frozen=True, tag=True):
    detail: str


_Reply: TypeAlias = _Found | _Refused | _Failed

_REPLY: Final[msgspec.msgpack.Decoder[_Reply]] = msgspec.msgpack.Decoder(_Reply)
_QUESTION: Final = msgspec.msgpack.Decoder(_Question)
_encode: Final = msgspec.msgpack.encode


def _reply(question: bytes) -> bytes:
    asked = _QUESTION.decode(question)
    reply = _encode(_answer(asked.subject, asked.der))
    if len(reply) > MAX_MESSAGE:
        return _encode(_Failed(f"pkilint: its findings take {len(reply)} octets"))
    return reply


def _answer(subject: str, der: bytes) -> _Reply:
    try:
        if subject == _CRL:
            return _Found(lint_crl(der))
        if subject == _OCSP_RESPONSE:
            return _Found(lint_ocsp_response(der))
        return _Found(lint_certificate(der, subject))
    except Rejected as rejected:
        return _Refused(rejected.code, rejected.detail)
    except Exception as error:
        return _Failed(f"pkilint: {type(error).__name__}: {error}")


# ── pkilint itself; loaded on first use, which in production is in the other process ──────────────


@functools.cache
def _pkix_certificate() -> _Lint:
    from pkilint.pkix import certificate, extension, name

    validators = certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(
            name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS
        ),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )
    return lambda der: _findings(validators, _certificate(der), PKIX)


@functools.cache
def _pkix_crl() -> _Lint:
    from pkilint import loader, pkix
    from pkilint.pkix import crl, extension, name

    validators = crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            crl.create_issuer_validator_container([]),
            crl.create_validity_validator_container([]),
            crl.create_extensions_validator_container([]),
        ],
    )
    load = loader.RFC5280CertificateListDocumentLoader().load_der_document
    return lambda der: _findings(validators, _document(load, der, "CRL"), PKIX)


@functools.cache
def _pkix_ocsp_response() -> _Lint:
    from pkilint import loader, pkix
    from pkilint.pkix import extension, name, ocsp

    validators = ocsp.create_pkix_ocsp_response_validator_container(
        [
            ocsp.create_response_decoder(),
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [],
    )
    load = loader.RFC6960OCSPResponseDocumentLoader().load_der_document
    return lambda der: _findings(validators, _document(load, der, "OCSP response"), PKIX)


def _typed(der: bytes, book: str, kind: str) -> tuple[Finding, ...]:
    from pkilint import etsi
    from pkilint.cabf import serverauth

    document = _certificate(der)
    rules = etsi if book == ETSI else serverauth
    kind = kind or rules.determine_certificate_type(document).to_option_str
    validators, filters = _typed_rules(book, kind.upper())
    return _findings(validators, document, book, filters)


@functools.cache
def _typed_rules(book: str, kind: str) -> tuple[Any, Any]:
    from pkilint import etsi
    from pkilint.cabf import serverauth
    from pkilint.cabf.serverauth import serverauth_constants
    from pkilint.pkix import certificate

    kinds = etsi.CertificateType if book == ETSI else serverauth_constants.CertificateType
    chosen = next((one for one in kinds if one.to_option_str == kind), None)
    if chosen is None:
        raise _no_such_rulebook(f"{book}/{kind.lower()}")
    if book == ETSI:
        decoders = etsi.create_decoding_validators(chosen)
        validators = etsi.create_validators(chosen)
        filters = etsi.create_etsi_finding_filters(chosen)
    else:
        decoders = serverauth.create_decoding_validators()
        validators = serverauth.create_validators(chosen)
        filters = serverauth.create_serverauth_finding_filters(chosen)
    return certificate.create_pkix_certificate_validator_container(decoders, validators), filters


def _certificate(der: bytes) -> Any:
    from pkilint import loader

    load = loader.RFC5280CertificateDocumentLoader().load_der_document
    return _document(load, der, "certificate")


def _document(load: Callable[[bytes], Any], der: bytes, what: str) -> Any:
    from pyasn1.error import PyAsn1Error

    try:
        return load(der)
    except (ValueError, PyAsn1Error) as error:
        raise Rejected("bad-der", f"these octets are not a {what}: {error}") from error


def _findings(
    validators: Any, document: Any, rulebook: str, filters: Any = ()
) -> tuple[Finding, ...]:
    from pkilint import finding_filter
    from pkilint.validation import ValidationFindingSeverity as Weight

    severities = {
        Weight.FATAL: Severity.ERROR,
        Weight.ERROR: Severity.ERROR,
        Weight.WARNING: Severity.WARNING,
        Weight.NOTICE: Severity.NOTICE,
        Weight.INFO: Severity.INFO,
    }
    results = validators.validate(document.root)
    if filters:
        results, _ = finding_filter.filter_results(filters, results)
    return tuple(
        Finding(
            described.finding.code,
            severities[described.finding.severity],
            result.node.path + (f": {described.message}" if described.message else ""),
            rulebook,
        )
        for result in results
        for described in result.finding_descriptions
        if described.finding.severity in severities
    )


def _limit(der: bytes, maximum: int) -> None:
    if len(der) > maximum:
        raise Rejected(
            "object-too-large", f"{len(der)} octets are more than the {maximum} that are linted"
        )


def _no_such_rulebook(name: str) -> Rejected:
    return Rejected(
        "no-such-rulebook",
        f"there is no rulebook {name!r}; use {PKIX}, {ETSI} or {CABF_SERVERAUTH}, the latter two "
        "with a type of certificate after a slash if need be",
    )


if __name__ == "__main__":
    os.dup2(2, 1)  # what a library prints is none of what the parent prints
    work(_reply)
