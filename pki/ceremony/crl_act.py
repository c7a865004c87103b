"""The step that signs a revocation list; what is signed is read back by other code first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509

from infra.errors import Rejected
from pki.algorithms import key_type_of, load_public_key, usual_algorithm, verify
from pki.ceremony.decoded import moment
from pki.ceremony.desk import Desk, Fields, Shown, Wrong
from pki.ceremony.people_acts import with_files
from pki.ceremony.script import SignCrl
from pki.ceremony.sign_acts import check_here
from pki.ceremony.state import Authority, Listed, State, known
from pki.ceremony.text import say
from pki.ceremony.transcript import read_octets, write_octets
from pki.certificate import assemble, parse_certificate
from pki.names import parse_name
from pki.serial import format_serial, parse_serial

_SPANS: Final = {"h": timedelta(hours=1), "d": timedelta(days=1), "y": timedelta(days=365)}


class SignCrlAct:
    """A CRL: of a root, what the world calls an ARL."""

    def intend(self, step: SignCrl, desk: Desk) -> dict[str, Any]:
        authority = known(desk.state.kept.authorities, step.issuer, "CA")
        check_here(authority.key, desk)
        now = desk.tools.clock.now().astimezone(UTC).replace(microsecond=0)
        this_update = max(now, datetime.fromtimestamp(authority.this_update, UTC))
        number = max(int(desk.tools.clock.now().timestamp() * 1000), authority.crl_number + 1)
        listed = [*authority.listed, *_new_entries(step, desk.state, this_update)]
        span = _SPANS[step.lifetime[-1]]
        next_update = this_update + int(step.lifetime[:-1]) * span
        issuer = authority.issuer(step.issuer)
        algorithm = usual_algorithm(key_type_of(issuer.public_key_info))
        tbs = desk.tools.build_crl(
            issuer,
            algorithm.identifier,
            number=number,
            this_update=this_update,
            next_update=min(next_update, issuer.not_after),
            listed=listed,
        )
        return {
            "tbs": write_octets(tbs),
            "number": number,
            "listed": [[entry.serial, entry.at, entry.reason] for entry in listed],
        }

    def show(self, step: SignCrl, intent: Fields, state: State, language: str) -> Shown:
        authority = known(state.kept.authorities, step.issuer, "CA")
        signed = _as_crl(read_octets(intent["tbs"]), authority)
        if signed.next_update_utc is None:
            raise Rejected("bad-crl", "the CRL has no nextUpdate")
        shown: Shown = [
            [say(language, "This revocation list is signed by CA {issuer}.", issuer=step.issuer)],
            [say(language, "issuer"), parse_name(signed.issuer.public_bytes()).rfc4514()],
            [say(language, "number"), str(intent["number"])],
            [say(language, "this update"), moment(signed.last_update_utc)],
            [say(language, "next update"), moment(signed.next_update_utc)],
            [say(language, "entries"), str(len(intent["listed"]))],
        ]
        names = {
            format_serial(parse_certificate(der).serial): name
            for name, der in state.kept.issued.items()
        }
        for serial, at, reason in _entries(signed):
            when = moment(datetime.fromtimestamp(at, UTC))
            shown.append(
                [say(language, "revoked"), f"{serial} {names.get(serial, '')} {reason} {when}"]
            )
        return shown

    def perform(self, step: SignCrl, intent: Fields, desk: Desk) -> dict[str, Any]:
        authority = desk.state.kept.authorities[step.issuer]
        key = known(desk.state.kept.keys, authority.key, "key")
        algorithm = usual_algorithm(key_type_of(key.public_key_info))
        tbs = read_octets(intent["tbs"])
        secret = desk.secret(desk.script.token.set_label)
        signature = desk.place.sign(authority.key, algorithm, tbs, secret)
        verify(algorithm, key.public_key_info, signature, tbs)
        return {"crl": write_octets(assemble(tbs, algorithm, signature))}

    def fold(self, step: SignCrl, intent: Fields, result: Fields, state: State) -> State:
        der = read_octets(result["crl"])
        crl = x509.load_der_x509_crl(der)
        authority = replace(
            state.kept.authorities[step.issuer],
            crl_number=int(intent["number"]),
            this_update=int(crl.last_update_utc.timestamp()),
            listed=tuple(Listed(*entry) for entry in intent["listed"]),
        )
        state = state.keep(authorities={**state.kept.authorities, step.issuer: authority})
        files = {f"{step.issuer}.crl": der}
        return with_files(state, files)

    def check(self, step: SignCrl, intent: Fields, result: Fields, state: State) -> Wrong:
        authority = known(state.kept.authorities, step.issuer, "CA")
        # Read by cryptography: what built it has no say here.
        crl = x509.load_der_x509_crl(read_octets(result["crl"]))
        if crl.tbs_certlist_bytes != read_octets(intent["tbs"]):
            yield "wrong-crl", "what was signed is not what was confirmed"
        issuer = parse_certificate(authority.certificate)
        if crl.issuer.public_bytes() != issuer.subject.der:
            yield "wrong-crl", "the CRL names another issuer"
        if not _signed(crl, issuer.public_key_info):
            yield "wrong-signature", "the signature is not by the key of the issuer"
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        if number != intent["number"] or number <= authority.crl_number:
            yield "wrong-crl", "the CRL number does not grow"
        if int(crl.last_update_utc.timestamp()) < authority.this_update:
            yield "wrong-crl", "thisUpdate goes back"
        listed = [Listed(*entry) for entry in intent["listed"]]
        if list(_entries(crl)) != [(e.serial, e.at, e.reason) for e in listed]:
            yield "wrong-crl", "the entries are not those that were confirmed"
        if tuple(listed[: len(authority.listed)]) != authority.listed:
            yield "wrong-crl", "an entry of the CRL before is gone"
        wanted = [
            (entry.serial, entry.reason) for entry in _new_entries(step, state, crl.last_update_utc)
        ]
        if [(e.serial, e.reason) for e in listed[len(authority.listed) :]] != wanted:
            yield "wrong-crl", "the new entries are not those of the script"


def _new_entries(step: SignCrl, state: State, at: datetime) -> Iterator[Listed]:
    for each in step.revoke:
        if each.name is not None:
            certificate = parse_certificate(known(state.kept.issued, each.name, "certificate"))
            issuer = parse_certificate(state.kept.authorities[step.issuer].certificate)
            if certificate.issuer.der != issuer.subject.der:
                raise Rejected("not-ours", f"{each.name} was not issued by CA {step.issuer}")
            serial = certificate.serial
        else:
            serial = parse_serial(each.serial or "")
        yield Listed(format_serial(serial), int(at.timestamp()), each.reason)


def _as_crl(tbs: bytes, authority: Authority) -> x509.CertificateRevocationList:
    """To be read back: with a signature that is none."""
    info = parse_certificate(authority.certificate).public_key_info
    return x509.load_der_x509_crl(assemble(tbs, usual_algorithm(key_type_of(info)), b"\0"))


def _entries(crl: x509.CertificateRevocationList) -> Iterator[tuple[str, int, str]]:
    for entry in crl:
        reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
        yield format_serial(entry.serial_number), int(entry.revocation_date_utc.timestamp()), reason


def _signed(crl: x509.CertificateRevocationList, public_key_info: bytes) -> bool:
    try:
        return crl.is_signature_valid(load_public_key(public_key_info))
    except (TypeError, ValueError):
        return False
