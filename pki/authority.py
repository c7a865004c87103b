"""One CA: reserve → build → check → intend → sign → complete → announce.

The order is the promise. The serial number is reserved and the to-be-signed octets are written
down in one change of the ledger before the key is used, so no signature exists that the ledger
does not know; the certificate is kept and logged before anybody sees it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from infra.errors import Broken, Failure, Rejected, Unavailable
from infra.store.port import Conflict, Duplicate
from pki import conformance
from pki.algorithms import verify
from pki.certificate import Order, assemble, is_self_issued
from pki.findings import Severity, explain
from pki.issuer import Issuer
from pki.ledger import Ledger
from pki.lint import Linter
from pki.partition import ONE_CRL, Partitioning, partition_url
from pki.preparation import Prepare, Task, hash_of
from pki.profile import Profile
from pki.profile.issuers import refusal
from pki.record import Intent, Record, State
from pki.request import parse_request
from pki.serial import RANDOM_OCTETS, SerialNumber, new_serial
from pki.signer.port import Signer
from pki.throwaway import Throwaway

ALTERED: Final = "altered"
"""Why an intent is void that was found in the store and is not as a CA wrote it."""


@dataclass(frozen=True, slots=True)
class Application:
    """What somebody asks a CA for.

    ``request``: PKCS#10 in PEM or DER; ``by``: who asks, for the log (never a personal name);
    ``request_id``: the asker's own name for this application, so that asking twice gives one
    certificate; ``order``: what the asker sets beyond the request; ``consent``: whether the holder
    agreed that the directory shows the certificate.
    """

    profile: str
    request: bytes
    by: str
    request_id: str | None = None
    order: Order = field(default_factory=Order)
    consent: bool = False


@dataclass(frozen=True, slots=True)
class Checks:
    """How much is checked beyond what is always checked.

    ``lint_share``: the share of certificates that pkilint sees before they are signed, 0 to 1;
    ``waived_findings``: codes of pkilint's that do not count here; ``verify_signatures``: a
    signature that a token has made is verified before it is kept (one of a key in a file is made
    by the very library that would verify it).
    """

    lint_share: float = 0.0
    waived_findings: frozenset[str] = frozenset()
    verify_signatures: bool = True


class Authority:
    """A CA with its key.

    ``issuer`` is None only while its own root certificate is made; ``crl_issuer``: who lists what
    is issued from now on in an indirect CRL, None for the CA itself.
    """

    def __init__(
        self,
        name: str,
        issuer: Issuer | None,
        signer: Signer,
        profiles: Mapping[str, Profile],
        ledger: Ledger,
        linter: Linter,
        *,
        prepare: Prepare,
        checks: Checks = Checks(),
        partitioning: Partitioning = ONE_CRL,
        step: Callable[[str], None] = lambda step: None,
    ) -> None:
        """``partitioning``: how its new certificates are spread over CRLs."""
        self.name = name
        self.issuer = issuer
        self.signer = signer
        self._profiles = profiles
        self._ledger = ledger
        self._linter = linter
        self._prepare = prepare
        self._checks = checks
        self._partitioning = partitioning
        self._is_root = issuer is not None and is_self_issued(issuer.certificate)
        self.crl_issuer: Issuer | None = None
        self.barred: str | None = None
        """Why it issues nothing more (``pki.revoked_authorities``)."""
        self._step = step
        self._requests_in_flight: dict[str, asyncio.Future[None]] = {}

    def profile(self, name: str) -> Profile:
        """A profile by its name. Errors: ``unknown-profile``."""
        profile = self._profiles.get(name)
        if profile is None:
            offered = sorted(one.name for one in self._profiles.values() if not one.reserved)
            raise Rejected(
                "unknown-profile",
                f"there is no profile {name!r}; choose one of {', '.join(offered)}",
            )
        return profile

    def refusal(self, profile: Profile) -> Rejected | None:
        """Why it issues nothing under this profile now, if so: ``ca-revoked``,
        ``profile-not-for-ca``."""
        # Its answers about what it has issued go on, and need certificates.
        if self.barred is not None and not profile.ocsp_no_check:
            return Rejected("ca-revoked", f"{self.barred}; issue from another CA")
        # One that has no certificate yet makes its own.
        return None if self.issuer is None else self.not_for(profile)

    def not_for(self, profile: Profile) -> Rejected | None:
        """Why this CA is none of those that issue under a profile, if so:
        ``profile-not-for-ca``."""
        return refusal(profile, self.name, root=self._is_root)

    async def issue(self, application: Application) -> Record:
        """Issue one certificate, durably recorded and logged on return.

        Errors: everything that ``pki.request``, ``pki.profile`` and ``pki.weak_keys`` refuse;
        ``unknown-profile``, ``profile-not-for-ca``, ``request-id-reused``, ``key-reused``,
        ``key-compromised``, ``ca-expired``, ``ca-revoked``, ``lint-findings``; ``Unavailable`` from
        the token or the store.
        """
        profile = self.profile(application.profile)
        if application.request_id is None:
            return await self._issue(profile, application)
        return await self._issue_once(profile, application, application.request_id)

    async def _issue_once(self, profile: Profile, application: Application, id: str) -> Record:
        while (other := self._requests_in_flight.get(id)) is not None:
            await asyncio.wait([other])
        self._requests_in_flight[id] = asyncio.get_running_loop().create_future()
        try:
            known = await self._ledger.by_request(self.name, id)
            if known is None:
                return await self._issue(profile, application)
            request = parse_request(application.request)
            if (
                known.request_hash != hash_of(profile, request, application.order)
                or known.consent != application.consent
            ):
                raise Rejected(
                    "request-id-reused",
                    f"request id {id!r} was used for another request; use a new one",
                )
            if known.state is State.intended:
                why = self._why_void(known)
                if why is None:
                    return await self._sign(known)
                await self._ledger.void(known, why)
                return await self._issue(profile, application)
            await self._ledger.logged(known)
            return known
        finally:
            self._requests_in_flight.pop(id).set_result(None)

    async def _issue(self, profile: Profile, application: Application) -> Record:
        refused = self.refusal(profile)
        if refused is not None:
            raise refused
        now = self._ledger.now()
        if self.issuer is not None and now >= self.issuer.not_after:
            raise Rejected(
                "ca-expired",
                f"CA {self.name} ended at {self.issuer.not_after:%Y-%m-%dT%H:%M:%SZ}; "
                "issue from a newer CA",
            )
        while True:
            serial = new_serial(now, os.urandom(RANDOM_OCTETS))
            self._step("reserved")
            partition, issuer = self._place(profile, serial)
            task = Task(
                profile,
                issuer,
                self.signer.algorithm,
                application.request,
                serial,
                now,
                application.order,
            )
            prepared = await self._prepare(task)
            self._step("built")
            request = prepared.request
            findings = conformance.check(
                prepared.tbs_certificate,
                profile,
                request,
                issuer,
                signature_algorithm=self.signer.algorithm,
                serial=serial,
                now=now,
                order=application.order,
            )
            if findings:
                raise Broken("check-findings", explain(findings))
            # A root is not linted: signed by a throwaway key it is not self-signed, and is judged
            # as what it is not. Its profile has been, by ``pki.profile_check``.
            if self.issuer is not None and _in_share(serial, self._checks.lint_share):
                await self._lint(profile, prepared.tbs_certificate)
            self._step("checked")
            intent = Intent(
                ca=self.name,
                serial=serial,
                profile=profile.name,
                tbs_certificate=prepared.tbs_certificate,
                key_hash=hashlib.sha256(request.public_key_info).digest(),
                key_number=0,
                subject=prepared.subject,
                not_before=prepared.not_before,
                not_after=prepared.not_after,
                by=application.by,
                request_id=application.request_id,
                request_hash=b""
                if application.request_id is None
                else hash_of(profile, request, application.order),
                partition=partition,
                consent=application.consent,
            )
            record = await self._intend(intent)
            if record is None:
                continue  # this serial number is taken: draw another
            self._step("intended")
            refused = self.refusal(profile)
            if refused is not None:  # the CA was revoked meanwhile: to look for findings takes long
                await self._ledger.void(record, refused.code)
                raise refused
            return await self._sign(record)

    def _place(self, profile: Profile, serial: SerialNumber) -> tuple[str | None, Issuer | None]:
        """Which CRL is to list a new certificate: its partition, and the issuer as it names it."""
        issuer, signer = self.issuer, self.crl_issuer
        if issuer is None or not profile.crl_distribution_points:
            return None, issuer
        if signer is not None:
            named = replace(issuer, crl_url=signer.crl_url, crl_issuer=signer.subject)
            return signer.name, named
        partition = self._partitioning.of(self.name, serial, ca=profile.ca)
        if partition is None:
            return None, issuer
        return partition, replace(issuer, crl_url=partition_url(issuer.crl_url, partition))

    async def _intend(self, intent: Intent) -> Record | None:
        """Write the intent down; nothing when its serial number is taken."""
        while True:
            try:
                record = await self._ledger.intend(intent)
            except Duplicate as duplicate:
                match duplicate.index:
                    case "id":
                        return None
                    case "key":
                        intent = await self._once_more(intent)
                    case _:
                        raise Unavailable(
                            "request-in-progress",
                            "another node works on this request id; ask again",
                            retry_after=1.0,
                        ) from duplicate
            else:
                # A revocation may have come between the look at the key and the intent.
                if intent.key_number and (await self._ledger.key_use(intent.key_hash)).compromised:
                    await self._ledger.void(record, "key-compromised")
                    raise _compromised()
                return record

    async def _once_more(self, intent: Intent) -> Intent:
        """The intent for another certificate of a key that has some, if it may have it."""
        use = await self._ledger.key_use(intent.key_hash)
        if use.compromised:
            raise _compromised()
        if use.subjects - {intent.subject}:
            raise Rejected(
                "key-reused", "this key is certified for another subject; make a new key"
            )
        return replace(intent, key_number=use.next_number)

    async def _sign(self, record: Record) -> Record:
        """Sign an intent and keep the certificate. An intent whose asker cannot come back for
        it is void when its signature cannot be made."""
        try:
            signature = await self.signer.sign(record.tbs_certificate)
            self._step("signed")
            if self._checks.verify_signatures and self.signer.uri.startswith("pkcs11:"):
                verify(
                    self.signer.algorithm,
                    self.signer.public_key_info,
                    signature,
                    record.tbs_certificate,
                )
        except Failure as failure:
            if record.request_id is None:
                await self._ledger.void(record, failure.code)
            raise
        certificate = assemble(record.tbs_certificate, self.signer.algorithm, signature)
        done = await self._ledger.complete(record, certificate)
        self._step("completed")
        return done

    def _why_void(self, intent: Record) -> str | None:
        """Why an intent that was found in the store must not be signed, if so."""
        if not self._ledger.wrote(intent):
            return ALTERED
        profile = self._profiles.get(intent.profile)
        if profile is None:
            return "unknown-profile"
        refused = self.refusal(profile)
        return None if refused is None else refused.code

    async def recover(self) -> list[Record]:
        """Finish what a crash has interrupted, and return what became of it.

        An intent with a request id is completed: its asker comes back for the certificate. One
        without is void: its asker has seen an error, and a second application must not lead to
        two certificates. One that must not be signed any more is void in any case.
        """
        finished = []
        for record in await self._ledger.unfinished():
            if record.ca != self.name:
                continue
            try:
                why = self._why_void(record)
                if why is None and record.request_id is None:
                    why = "interrupted"
                if why is not None:
                    finished.append(await self._ledger.void(record, why))
                else:
                    finished.append(await self._sign(record))
            except Conflict:
                continue  # another node was faster
        return finished

    async def _lint(self, profile: Profile, tbs: bytes) -> None:
        algorithm, key_type = self.signer.algorithm, self.signer.key_type
        signature = Throwaway.of(key_type, algorithm).sign(tbs)
        findings = await self._linter.certificate(
            assemble(tbs, algorithm, signature), profile.rulebook
        )
        waived = profile.waived_findings | self._checks.waived_findings
        errors = [
            finding
            for finding in findings
            if finding.severity is Severity.ERROR and finding.code not in waived
        ]
        if errors:
            raise Rejected("lint-findings", explain(errors))


def _compromised() -> Rejected:
    return Rejected(
        "key-compromised",
        "a certificate for this key was revoked because the key is compromised; make a new key",
    )


def _in_share(serial: int, share: float) -> bool:
    # Serial numbers are random, so their last digits draw lots.
    return serial % 1_000_000 < share * 1_000_000
