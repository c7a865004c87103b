"""A CA that is revoked issues nothing more, wherever its revocation is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from cli.compose import running
from cli.service.parts import Instance
from conf.load import load
from conf.schema import Settings
from infra.errors import Rejected
from infra.store.port import Document
from pki.algorithms import KeyType, usual_algorithm
from pki.authority import Application
from pki.certificate import parse_certificate
from pki.hierarchy import Plan
from pki.issuer import Issuer
from pki.names import parse_rfc4514
from pki.offline import import_certificate, request_certificate
from pki.record import Record, State
from pki.request import assemble_request, build_request_info
from pki.serial import SerialNumber
from pki.status import RevocationReason
from pki.throwaway import Throwaway

PROFILE = "citizen-authentication"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(tmp_path, {}, {"keys.store": "file", "issuance.lint_share": "0"}).settings


@pytest.fixture
async def instance(settings: Settings) -> AsyncIterator[Instance]:
    async with running(settings, create=True, serving=False) as made:
        yield made


class Cut(BaseException):
    """The process ends here."""


def application(request_id: str | None = None) -> Application:
    key = Throwaway.of(KeyType.P_256, usual_algorithm(KeyType.P_256))
    info = build_request_info(parse_rfc4514("CN=A,C=AQ").der, key.public_key_info, ())
    request = assemble_request(info, key.algorithm, key.sign(info))
    return Application(PROFILE, request, "test", request_id)


async def issue(instance: Instance, ca: str = "issuing") -> Record:
    return await instance.hierarchy.authority(ca).issue(application())


async def refused(instance: Instance, ca: str = "issuing") -> str:
    with pytest.raises(Rejected) as rejected:
        await issue(instance, ca)
    assert rejected.value.code == "ca-revoked"
    return rejected.value.detail


def issuer(instance: Instance, ca: str = "issuing") -> Issuer:
    found = instance.hierarchy.authority(ca).issuer
    assert found is not None
    return found


def serial(instance: Instance, ca: str = "issuing") -> SerialNumber:
    return SerialNumber(parse_certificate(issuer(instance, ca).certificate).serial)


async def test_a_revoked_ca_issues_nothing_more_but_goes_on_answering(
    settings: Settings,
) -> None:
    async with running(settings, create=True, serving=False) as instance:
        await issue(instance)
        await instance.ledger.revoke(
            "root", serial(instance), reason=RevocationReason.cACompromise, by="test"
        )
        assert "Issuing CA" in await refused(instance)
    async with running(settings, create=False, serving=False) as again:
        assert "cACompromise" in await refused(again)
        key = await again.hierarchy.responder_key("issuing", lifetime=timedelta(days=7))
        assert parse_certificate(key.certificate).issuer.der == issuer(again).subject


@pytest.mark.parametrize("during", ["built", "checked", "intended"])
async def test_nor_what_is_under_way_when_it_is_revoked(settings: Settings, during: str) -> None:
    """To look for findings, or to wait for one's turn at the store, takes its time."""
    made: list[Instance] = []

    def step(name: str) -> None:
        if made and name == during:
            made[0].hierarchy.authority("issuing").barred = "CA issuing was revoked"

    async with running(settings, create=True, serving=False, step=step) as instance:
        made.append(instance)
        newest = await instance.ledger.sequence()
        await refused(instance)
        assert [one.state for one in await instance.ledger.changed(newest)] == [State.void]
        assert await instance.ledger.unfinished() == []


@pytest.mark.parametrize("restarts", [True, False])
async def test_nor_does_it_finish_what_was_interrupted(settings: Settings, restarts: bool) -> None:
    """Its asker comes back with the same id, or the service starts again."""
    armed = False

    def step(name: str) -> None:
        if armed and name == "intended":
            raise Cut

    async with running(settings, create=True, serving=False, step=step) as instance:
        authority, asked = instance.hierarchy.authority("issuing"), application("application/1")
        armed = True
        with pytest.raises(Cut):
            await authority.issue(asked)
        armed = False
        [intent] = await instance.ledger.unfinished()
        await instance.ledger.revoke(
            "root", serial(instance), reason=RevocationReason.cACompromise, by="test"
        )
        if not restarts:
            with pytest.raises(Rejected) as rejected:
                await authority.issue(asked)
            assert rejected.value.code == "ca-revoked"
    async with running(settings, create=False, serving=False) as again:
        void = await again.ledger.record("issuing", intent.serial)
        assert (void.state, void.stored.body["void"]) == (State.void, "ca-revoked")


class Offline:
    """A root whose key never was here."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name.from_rfc4514_string("CN=Offline Root,O=Registry,C=AQ")
        self.at = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
        self.certificate = self.certify(self.name, self.key.public_key(), None)

    def certify(
        self, subject: x509.Name, key: CertificatePublicKeyTypes, crl_url: str | None
    ) -> bytes:
        builder = x509.CertificateBuilder(
            self.name, subject, key, 77, self.at, self.at + timedelta(days=300)
        )
        builder = builder.add_extension(x509.BasicConstraints(True, None), True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
        if crl_url is not None:
            point = x509.DistributionPoint([x509.UniformResourceIdentifier(crl_url)], *[None] * 3)
            builder = builder.add_extension(x509.CRLDistributionPoints([point]), False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)

    def crl(self, number: int, *revoked: int) -> bytes:
        at = self.at + timedelta(minutes=number)
        entries = [x509.RevokedCertificateBuilder(one, self.at).build() for one in revoked]
        key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return (
            x509.CertificateRevocationListBuilder(
                self.name, at, at + timedelta(days=90), revoked_certificates=entries
            )
            .add_extension(key, False)
            .add_extension(x509.CRLNumber(number), False)
            .sign(self.key, hashes.SHA256())
            .public_bytes(Encoding.DER)
        )


async def below(root: Offline, settings: Settings) -> None:
    """A home folder with a CA ``issuing`` below that root."""
    subject = "CN=Issuing,O=Registry,C=AQ"
    async with running(settings, create=False, serving=False) as instance:
        store, hierarchy = instance.store, instance.hierarchy
        asked = x509.load_der_x509_csr(
            await request_certificate(store, hierarchy, "issuing", subject, KeyType.P_256)
        )
        body: Document = {"certificate": root.certificate, "chain": []}
        made = root.certify(
            asked.subject, asked.public_key(), hierarchy.issuer("root", body).crl_url
        )
        now = instance.ledger.now()
        chain = [made, root.certificate]
        await import_certificate(
            store, hierarchy, instance.log, "issuing", chain, by="test", now=now
        )


@pytest.fixture
def offline(tmp_path: Path) -> Settings:
    return load(
        tmp_path, {}, {"keys.store": "file", "issuance.lint_share": "0", "crl.offline": "root"}
    ).settings


async def cut_off(settings: Settings, *crls: bytes, at: str = "") -> SerialNumber:
    """The CA has written down what it is to sign when these CRLs of its root come in, and ends
    there, or at the step ``at`` of the last import; the serial number of that."""
    armed = ""

    def step(name: str) -> None:
        if name == armed:
            raise Cut

    async with running(settings, create=False, serving=False, step=step) as instance:
        armed = "intended"
        with pytest.raises(Cut):
            await instance.hierarchy.authority("issuing").issue(application("application/1"))
        armed = ""
        [intent] = await instance.ledger.unfinished()
        for crl in crls:
            armed = at if crl is crls[-1] else ""
            with pytest.raises(Cut) if armed else nullcontext():
                await instance.crls.of("root").series.adopt(crl)
        armed = ""
        return intent.serial


async def found(settings: Settings, serial: SerialNumber) -> tuple[State, str | None]:
    """What became of it at the next start, and why no other certificate is issued, if so."""
    async with running(settings, create=False, serving=False) as instance:
        record = await instance.ledger.record("issuing", serial)
        return record.state, instance.hierarchy.authority("issuing").barred


@pytest.mark.parametrize("at", ["", "logged", "published"])
async def test_nor_if_only_a_crl_that_was_signed_elsewhere_tells_it(
    offline: Settings, at: str
) -> None:
    root = Offline()
    await below(root, offline)
    serial = await cut_off(offline, root.crl(1), root.crl(2, 77), at=at)
    state, why = await found(offline, serial)
    assert state is State.void
    assert why is not None and "CN=Issuing" in why


async def test_what_such_a_crl_does_not_list_is_signed(offline: Settings) -> None:
    root = Offline()
    await below(root, offline)
    assert await found(offline, await cut_off(offline, root.crl(1, 78))) == (State.issued, None)
    revoked, other = root.crl(2, 77), root.crl(3, 78)
    async with running(offline, create=False, serving=False) as instance:
        await instance.crls.of("root").series.adopt(revoked)
        instance.hear_crl("root")
        assert "is revoked" in await refused(instance)
        await instance.crls.of("root").series.adopt(other)
        instance.hear_crl("root")
        await issue(instance)


async def test_nor_if_the_settings_name_its_crl_no_more(offline: Settings) -> None:
    root = Offline()
    await below(root, offline)
    serial = await cut_off(offline, root.crl(2, 77))
    state, why = await found(replace(offline, crl=replace(offline.crl, offline=())), serial)
    assert state is State.void
    assert why is not None and "CN=Issuing" in why


@pytest.mark.parametrize("gone", [True, False])
async def test_nor_if_its_crl_cannot_be_read_any_more(offline: Settings, gone: bool) -> None:
    root = Offline()
    await below(root, offline)
    serial = await cut_off(offline, root.crl(1))
    file = offline.home / "crl" / "root" / "1.crl"
    kept = file.read_bytes()
    file.unlink() if gone else file.write_bytes(kept[:-1])
    state, why = await found(offline, serial)
    assert state is State.void
    assert why is not None and str(file) in why and "put its file back" in why
    file.write_bytes(kept)
    async with running(offline, create=False, serving=False) as again:
        await issue(again)


async def test_who_revokes_a_ca_is_not_overruled_by_who_does_not(instance: Instance) -> None:
    """A CRL from before, and the ledger."""
    root = issuer(instance, "root")
    await instance.ledger.revoke(
        "root", serial(instance), reason=RevocationReason.cACompromise, by="test"
    )
    name = x509.load_der_x509_certificate(root.certificate).subject
    empty = Offline()
    empty.name = name
    instance.revoked_authorities.read("root", empty.crl(1))
    await refused(instance)


async def test_a_ca_on_hold_issues_again_when_it_is_released(instance: Instance) -> None:
    await instance.ledger.hold("root", serial(instance), by="test")
    assert "on hold" in await refused(instance)
    await instance.ledger.release("root", serial(instance), by="test")
    assert (await issue(instance)).state is State.issued


async def test_nor_does_a_ca_below_it(instance: Instance) -> None:
    plan = Plan("below", "CN=Below,O=Registry,C=AQ", KeyType.P_256, "subordinate-ca", "root")
    await instance.hierarchy.create(plan)
    instance.revoked_authorities.hear(
        issuer(instance, "below").chain[0], (await revoked(instance)).status
    )
    await refused(instance, "below")


async def revoked(instance: Instance) -> Record:
    person = await issue(instance)
    return await instance.ledger.revoke(
        "issuing", person.serial, reason=RevocationReason.superseded, by="test"
    )


async def test_what_people_hold_bars_no_ca(instance: Instance) -> None:
    await revoked(instance)
    assert (await issue(instance)).state is State.issued


async def test_a_root_is_not_revoked(instance: Instance) -> None:
    root, ledger = serial(instance, "root"), instance.ledger
    for act in (
        ledger.hold("root", root, by="test"),
        ledger.revoke("root", root, reason=RevocationReason.cACompromise, by="test"),
    ):
        with pytest.raises(Rejected) as rejected:
            await act
        assert rejected.value.code == "root-certificate"


@pytest.mark.parametrize("reason", [None, x509.ReasonFlags.ca_compromise])
async def test_a_crl_that_was_signed_elsewhere_bars_a_ca(
    instance: Instance, reason: x509.ReasonFlags | None
) -> None:
    root, now = issuer(instance, "root"), instance.ledger.now().replace(microsecond=0)
    entry = x509.RevokedCertificateBuilder().serial_number(serial(instance)).revocation_date(now)
    if reason is not None:
        entry = entry.add_extension(x509.CRLReason(reason), critical=False)
    key = ec.generate_private_key(ec.SECP256R1())  # whether it is the root's is judged before
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.load_der_x509_certificate(root.certificate).subject)
        .last_update(now)
        .next_update(now + timedelta(days=1))
    )
    crl = builder.add_revoked_certificate(entry.build()).sign(key, hashes.SHA256())
    instance.revoked_authorities.read("root", crl.public_bytes(Encoding.DER))
    said = await refused(instance)
    assert ("unspecified" if reason is None else "cACompromise") in said
    instance.revoked_authorities.read(
        "root", builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    )
    assert (await issue(instance)).state is State.issued


@pytest.mark.parametrize(("asked", "days"), [(7, 7), (30, 30), (400, 90)])
async def test_a_responder_s_certificate_lasts_as_long_as_is_set(
    instance: Instance, asked: int, days: int
) -> None:
    key = await instance.hierarchy.responder_key("issuing", lifetime=timedelta(days=asked))
    said = parse_certificate(key.certificate)
    assert said.not_after - said.not_before + timedelta(seconds=1) == timedelta(days=days)
    again = await instance.hierarchy.responder_key("issuing", lifetime=timedelta(days=asked))
    assert again.certificate == key.certificate


async def test_the_usual_ca_is_the_only_one_that_is_no_root(tmp_path: Path) -> None:
    settings = load(tmp_path, {}, {"keys.store": "file", "issuance.lint_share": "0"}).settings
    async with running(settings, create=False, serving=False) as instance:
        root = Plan("top", "CN=Top,O=Registry,C=AQ", KeyType.P_256, "root", None)
        await instance.hierarchy.create(root)
        with pytest.raises(Rejected):
            instance.hierarchy.usual()
        gov = Plan("gov", "CN=Gov,O=Registry,C=AQ", KeyType.P_256, "subordinate-ca", "top")
        await instance.hierarchy.create(gov)
        assert instance.hierarchy.usual().name == "gov"
        other = Plan("other", "CN=Other,O=Registry,C=AQ", KeyType.P_256, "subordinate-ca", "top")
        await instance.hierarchy.create(other)
        with pytest.raises(Rejected) as rejected:
            instance.hierarchy.usual()
        assert rejected.value.code == "no-such-authority"
