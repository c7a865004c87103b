"""The parts of a validation authority that need no socket: table, keys, other CAs, health."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cli.service import foreign, responders, validation_api, validation_authority
from cli.service.keys import open_keys
from cli.service.responders import Responders, ends_soon
from cli.service.validation_authority import ValidationAuthority
from cli.service.validation_source import Statuses, accept_restored, feed_key_of, origin_of
from conf.load import load
from conf.schema import Settings
from infra.clock import FixedClock
from infra.errors import Failure, Rejected, Unavailable
from ocsp.delegate import Delegate, ResponderIdType
from ocsp.follower import Origin
from ocsp.tree_head import NO_LEAVES, TreeHead
from pki.certificate import Certificate, parse_certificate
from pki.export import encode_pem
from pki.issuer import Issuer
from pki.request import parse_request
from pki.signer import Keys
from pki.status import CertStatus, Good, RevocationReason, Revoked, Unknown

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
CA_KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name(
    [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "AQ"),
        x509.NameAttribute(NameOID.COMMON_NAME, "Acme CA"),
    ]
)
REVOKED = Revoked(NOW - DAY, RevocationReason.superseded, None, 1)


def certificate(
    key: Any,
    *extensions: x509.ExtensionType,
    signer: Any = CA_KEY,
    subject: x509.Name = NAME,
    start: datetime = NOW - DAY,
    end: datetime = NOW + 29 * DAY,
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(NAME)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER)


IS_CA = x509.BasicConstraints(ca=True, path_length=None)
CA = certificate(CA_KEY.public_key(), IS_CA)
FOR_OCSP = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])


def responder(request: bytes, *extensions: x509.ExtensionType, **named: Any) -> bytes:
    """What the CA makes of a request."""
    asked = x509.load_der_x509_csr(parse_request(request).der)
    return certificate(
        asked.public_key(), *(extensions or (FOR_OCSP,)), subject=asked.subject, **named
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    flags = {"keys.store": "file", "feed.url": "http://127.0.0.1:1"}
    return load(tmp_path / "home", {}, flags).settings


@pytest.fixture
async def keys(settings: Settings) -> AsyncIterator[Keys]:
    opened, _ = await open_keys(settings, new=True)
    yield opened
    await opened.close()


def refusal(code: str) -> Any:
    return pytest.raises(Failure, match=rf"^{code}: ")


# Other CAs


async def test_a_ca_is_added_certified_and_removed(settings: Settings, keys: Keys) -> None:
    home = settings.home
    made = await foreign.add(settings, keys, "acme", CA, "http://acme.example/a.crl")
    assert list(foreign.names(home)) == ["acme"]
    request = parse_request(made.request.read_bytes())
    asked = x509.load_der_x509_csr(request.der)
    assert asked.subject.rfc4514_string() == "CN=Acme CA OCSP,C=AQ"
    usage = asked.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.OCSP_SIGNING]
    assert asked.extensions.get_extension_for_class(x509.OCSPNoCheck)
    assert made.certificate is None
    with refusal("not-certified"):
        await foreign.delegate(made, keys, ResponderIdType.byKey)

    clock = FixedClock(NOW)
    kept = await foreign.certify(made, keys, responder(request.der), ResponderIdType.byKey, clock)
    loaded = foreign.load(home, "acme")
    assert loaded == made
    assert loaded.certificate == kept
    delegate = await foreign.delegate(loaded, keys, ResponderIdType.byName)
    assert delegate.certificate == kept.der
    assert delegate.issuer.crl_url == "http://acme.example/a.crl"
    with refusal("authority-exists"):
        await foreign.add(settings, keys, "acme", CA, "http://acme.example/a.crl")
    foreign.remove(loaded)
    assert list(foreign.names(home)) == []
    with refusal("no-such-authority"):
        foreign.load(home, "acme")


async def test_a_ca_is_there_once_under_the_name_that_it_was_given(
    settings: Settings, keys: Keys
) -> None:
    made = await foreign.add(settings, keys, "acme", CA, "http://acme.example/a.crl")
    with pytest.raises(Failure, match=r"^authority-exists: .* as acme"):
        await foreign.add(settings, keys, "beta", CA, "http://acme.example/b.crl")
    assert foreign.shown(made.issuer.name) == foreign.shown("crl:acme") == "crl:acme"
    assert foreign.shown("issuing") == "issuing"


async def test_another_ca_of_a_name_that_was_free_again_has_other_statuses(
    settings: Settings, keys: Keys
) -> None:
    first = await foreign.add(settings, keys, "acme", CA, "/a.crl")
    foreign.remove(first)
    other = ec.generate_private_key(ec.SECP256R1())
    root = certificate(other.public_key(), IS_CA, signer=other)
    second = await foreign.add(settings, keys, "acme", root, "/a.crl")
    assert second.issuer.name != first.issuer.name
    assert len(second.issuer.name.encode()) <= 64
    assert second.issuer.name.startswith(foreign.PREFIX + "acme:")
    assert second.issuer.crl_url == ""  # nobody else can read our disk


NOT_OCSP = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
WRONG: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another key": (lambda request: certificate(CA_KEY.public_key(), FOR_OCSP), "delegate-key"),
    "not for OCSP": (
        lambda request: responder(request, NOT_OCSP),
        "delegate-purpose",
    ),
    "another CA": (
        lambda request: responder(request, signer=ec.generate_private_key(ec.SECP256R1())),
        "delegate-issuer",
    ),
    "over": (lambda request: responder(request, end=NOW - timedelta(hours=1)), "delegate-expired"),
    "nothing": (lambda request: b"nothing", "bad-certificate"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
async def test_a_certificate_that_clients_would_not_believe(
    settings: Settings, keys: Keys, what: str
) -> None:
    make, code = WRONG[what]
    made = await foreign.add(settings, keys, "acme", CA, "/a.crl")
    request = parse_request(made.request.read_bytes()).der
    with refusal(code):
        await foreign.certify(made, keys, make(request), ResponderIdType.byKey, FixedClock(NOW))
    assert made.certificate is None


@pytest.mark.parametrize("name", ["", "Acme", "-a", "a/b", "..", "a" * 33, "crl:x"])
async def test_a_name_that_is_none(settings: Settings, keys: Keys, name: str) -> None:
    with refusal("bad-authority-name"):
        await foreign.add(settings, keys, name, CA, "/a.crl")
    with refusal("no-such-authority"):
        foreign.load(settings.home, name)


@pytest.mark.parametrize(
    "crl", ["ftp://acme.example/a.crl", "http://acme.example/\n", "", "ldap://"]
)
async def test_a_place_that_is_none(settings: Settings, keys: Keys, crl: str) -> None:
    with refusal("bad-crl-source"):
        await foreign.add(settings, keys, "acme", CA, crl)
    assert list(foreign.names(settings.home)) == []


async def test_only_a_ca_that_signs_crls(settings: Settings, keys: Keys) -> None:
    usages = dict.fromkeys(
        (
            "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
            "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    signs = x509.KeyUsage(**(usages | {"crl_sign": True}))
    issues = x509.KeyUsage(**(usages | {"key_cert_sign": True}))
    public = CA_KEY.public_key()
    for wrong in (certificate(public), certificate(public, IS_CA, issues)):
        with refusal("not-a-ca"):
            await foreign.add(settings, keys, "acme", wrong, "/a.crl")
    await foreign.add(settings, keys, "acme", certificate(public, IS_CA, signs), "/a.crl")


async def test_a_source_that_was_damaged(settings: Settings, keys: Keys) -> None:
    made = await foreign.add(settings, keys, "acme", CA, "/a.crl")
    (made.folder / "source.json").write_text("{")
    with refusal("bad-authority"):
        foreign.load(settings.home, "acme")


# The responders of a feed's CAs


class Ca:
    """A CA that certifies, or fails; counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.lifetime = 30 * DAY
        self.fails: Failure | None = None
        self.at = NOW
        self.requests: set[bytes] = set()

    async def enrol(self, origin: Origin, issuer: Issuer, request: bytes) -> Certificate:
        self.asked += 1
        self.requests.add(x509.load_der_x509_csr(request).tbs_certrequest_bytes)
        if self.fails is not None:
            raise self.fails
        return parse_certificate(
            responder(request, start=self.at, end=self.at + self.lifetime - timedelta(seconds=1))
        )


@pytest.fixture
def ca(monkeypatch: pytest.MonkeyPatch) -> Ca:
    ca = Ca()
    monkeypatch.setattr(responders, "enrol", ca.enrol)
    return ca


def issuer(name: str = "issuing") -> Issuer:
    said = parse_certificate(CA)
    return Issuer(
        name, CA, said.subject.der, said.public_key_info, b"", NOW, NOW + DAY, (), "", "", ""
    )


async def test_a_certificate_is_kept_and_renewed_in_its_last_third(
    settings: Settings, keys: Keys, ca: Ca
) -> None:
    clock = FixedClock(NOW)
    origin = Origin("http://127.0.0.1:1", "token")

    def host() -> Responders:
        return Responders(settings, keys, origin, clock)

    first = await host().delegate(issuer())
    again = host()
    assert (await again.delegate(issuer())).certificate == first.certificate
    assert ca.asked == 1
    clock.at = ca.at = NOW + 21 * DAY
    renewed = await again.delegate(issuer())
    assert (ca.asked, renewed.certificate != first.certificate) == (2, True)
    assert (await host().delegate(issuer())).certificate == renewed.certificate
    # The CA is away: what there is serves until it ends, and no longer.
    ca.fails = Unavailable("feed-unreachable", "away")
    clock.at = NOW + 45 * DAY
    assert (await again.delegate(issuer())).certificate == renewed.certificate
    clock.at = NOW + 51 * DAY
    with refusal("feed-unreachable"):
        await again.delegate(issuer())
    assert len(ca.requests) == 1  # the same each time, as the CA wants it


async def test_a_certificate_that_is_of_no_use_is_asked_for_anew(
    settings: Settings, keys: Keys, ca: Ca
) -> None:
    host = Responders(settings, keys, Origin("http://127.0.0.1:1", "token"), FixedClock(NOW))
    first = await host.delegate(issuer())
    [path] = (settings.home / "responders").iterdir()
    for content in (b"", encode_pem("CERTIFICATE", CA)):
        path.write_bytes(content)
        found = await host.delegate(issuer())
        assert found.certificate != first.certificate
        assert parse_certificate(path.read_bytes()).der == found.certificate


async def test_what_a_ca_is_called_leaves_no_folder(settings: Settings, keys: Keys, ca: Ca) -> None:
    host = Responders(settings, keys, Origin("http://127.0.0.1:1", "token"), FixedClock(NOW))
    for name in ("../issuing", "a/b", "", "x" * 70, ".issuing"):
        with refusal("bad-key-label"):
            await host.delegate(issuer(name))
    assert ca.asked == 0
    ca.fails = Rejected("responder-revoked", "make a new key")
    with refusal("responder-revoked"):
        await host.delegate(issuer())


def test_the_last_third() -> None:
    whole = parse_certificate(certificate(CA_KEY.public_key(), start=NOW, end=NOW + 30 * DAY))
    assert not ends_soon(whole, NOW + 19 * DAY)
    assert ends_soon(whole, NOW + 20 * DAY)


# What keeps them certified


class Processes:
    """The processes that answer, as far as they are told who signs."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.signing: dict[str, Delegate] = {}
        self.restarted = 0

    async def install(self, delegates: Sequence[Delegate]) -> None:
        self.told.append([one.issuer.name for one in delegates])
        self.signing |= {one.issuer.name: one for one in delegates}

    def only(self, delegates: Sequence[Delegate]) -> None:
        self.signing = {one.issuer.name: one for one in delegates}

    async def restart(self) -> None:
        self.restarted += 1


@pytest.fixture
async def running(settings: Settings, keys: Keys) -> AsyncIterator[ValidationAuthority]:
    """A validation authority that follows nothing, on a home folder with all it needs."""
    token = settings.home / "secrets" / "feed.token"
    token.touch(mode=0o600)
    token.write_text("a-token\n")
    (settings.home / "status").mkdir()
    info = CA_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    settings.feed.key.write_bytes(encode_pem("PUBLIC KEY", info))
    made = ValidationAuthority(settings, keys, "in files", lambda text: None)
    made.clock = FixedClock(NOW)
    made._responders = Responders(settings, keys, origin_of(settings), made.clock)
    made.apart = Processes()  # type: ignore[assignment]
    made.follower = Followed(issuers=(issuer("root"),))  # type: ignore[assignment]
    yield made
    await made.stop()


async def test_whoever_appears_is_certified_and_installed(
    running: ValidationAuthority, ca: Ca
) -> None:
    processes: Any = running.apart
    await running._certify()
    await running._certify()
    assert processes.told == [["root"]]  # once
    running.follower.issuers = (issuer("root"), issuer("a/b"), issuer("issuing"))  # type: ignore[union-attr]
    await running._certify()
    assert processes.told == [["root"], ["issuing"]]
    assert {name: why.code for name, why in running.uncertified.items()} == {"a/b": "bad-key-label"}
    assert set(running.delegates) == {"root", "issuing"}


async def test_a_renewed_certificate_is_handed_to_the_processes(
    running: ValidationAuthority, ca: Ca
) -> None:
    processes: Any = running.apart
    await running._certify()
    first = processes.signing["root"]
    running.clock.at = ca.at = NOW + 21 * DAY  # type: ignore[attr-defined]
    await running._certify()
    assert processes.told == [["root"], ["root"]]
    assert processes.signing["root"].certificate != first.certificate
    assert processes.restarted == 0  # so nobody noticed


async def test_reload_takes_other_cas_in_and_out(
    running: ValidationAuthority, settings: Settings, keys: Keys, ca: Ca
) -> None:
    processes: Any = running.apart
    await running._certify()
    made = await foreign.add(settings, keys, "acme", CA, "/nowhere/a.crl")
    await running.reload()
    assert set(processes.signing) == {"root"}
    assert [one.code for one in running.uncertified.values()] == ["not-certified"]
    request = parse_request(made.request.read_bytes()).der
    await foreign.certify(made, keys, responder(request), ResponderIdType.byKey, running.clock)
    await running.reload()
    assert set(processes.signing) == {"root", made.issuer.name}
    assert set(running.sources) == {made.issuer.name}
    assert running.uncertified == {}
    foreign.remove(made)
    await running.reload()
    assert set(processes.signing) == {"root"}
    assert running.sources == {}
    assert processes.restarted == 3


async def test_a_feed_that_knows_less_than_nothing(
    running: ValidationAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what was filled is filled again, so that no such answer, again and again, does harm."""
    monkeypatch.setattr(validation_authority, "_PATIENCE", 0.0)
    table = running.settings.home / "status" / "table"
    inode = table.stat().st_ino
    ahead = Rejected("feed-ahead", "nothing beyond 0 ever happened here")
    await running._begin_again(ahead)
    assert not running.retaining
    running._statuses.applied = 3
    await running._begin_again(ahead)
    assert table.stat().st_ino == inode
    assert running._statuses.applied == 0
    assert running.retaining


async def test_a_ca_with_another_history_is_followed_from_its_beginning(
    running: ValidationAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when nothing is applied yet, but something of the history that is lost may be there."""
    running._statuses.head = TreeHead(5, bytes(32))
    await running._begin_again(Rejected("feed-forked", "the first 5 leaves are others"))
    assert (running._statuses.applied, running._statuses.head) == (0, NO_LEAVES)
    assert running.retaining
    assert "feed-restored" in caplog.text
    assert "digitalid ocsp accept-restored" in caplog.text
    assert "the first 5 leaves are others" in caplog.text


@pytest.mark.parametrize("code", ["feed-ahead", "feed-forked"])
async def test_following_goes_on_after_it(
    running: ValidationAuthority, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """The next follower begins with nothing, over what is in the table."""
    made: list[tuple[int, TreeHead]] = []
    again = asyncio.Event()

    class Once:
        def __init__(self, origin: object, key: object, sink: Statuses, *_: object, **more: object):
            made.append((sink.applied, sink.head))
            self.second = len(made) > 1

        async def run(self) -> None:
            if self.second:
                again.set()
                await asyncio.Event().wait()
            raise Rejected(code, "it is another history")

    monkeypatch.setattr(validation_authority, "Follower", Once)
    running._statuses.applied, running._statuses.head = 7, TreeHead(5, bytes(32))
    task = asyncio.create_task(running._follow(origin_of(running.settings), b""))
    async with asyncio.timeout(20):
        await again.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert made == [(7, TreeHead(5, bytes(32))), (0, NO_LEAVES)]
    assert running.retaining


# Where statuses are kept


@pytest.fixture
def statuses(tmp_path: Path) -> Iterator[Statuses]:
    (tmp_path / "status").mkdir()
    with closing(Statuses(tmp_path / "status" / "table")) as made:
        yield made


def test_a_table_belongs_to_one_feed(statuses: Statuses) -> None:
    statuses.belong_to(b"one key")
    statuses.issuer("issuing", complete=True)
    statuses.put_many("issuing", [(1, REVOKED)])
    statuses.applied = 7
    statuses.belong_to(b"one key")
    assert statuses.applied == 7
    statuses.belong_to(b"another key")
    assert statuses.applied == 0
    statuses.applied = 5
    statuses.belong_to(b"another key")
    assert statuses.applied == 5


HELD = Revoked(REVOKED.at, RevocationReason.certificateHold, None, 2)


def filled(statuses: Statuses) -> None:
    statuses.belong_to(b"a key")
    statuses.issuer("issuing", complete=True)
    statuses.put_many("issuing", [(1, REVOKED), (2, HELD), (3, Good()), (4, REVOKED)])
    statuses.applied = 7
    statuses.retain("nothing beyond 4 ever happened here")


def said(statuses: Statuses, *serials: int) -> list[CertStatus]:
    return [statuses._table.status("issuing", serial) for serial in serials]


def test_nothing_that_is_revoked_becomes_good_by_a_ca_that_was_restored(
    statuses: Statuses,
) -> None:
    filled(statuses)
    assert (statuses.applied, statuses.retaining) == (0, True)
    later = Revoked(REVOKED.at, RevocationReason.superseded, None, 9)
    statuses.put_many("issuing", [(1, Good()), (2, Good()), (3, later), (4, HELD), (5, Good())])
    assert said(statuses, 1, 2, 3, 4, 5) == [REVOKED, HELD, later, REVOKED, Good()]
    statuses.put_many("issuing", [(2, later)])
    assert said(statuses, 2) == [later]
    # What a CRL says counts as ever.
    other = f"{foreign.PREFIX}acme:0123456789abcdef"
    statuses.issuer(other, complete=False)
    statuses.put_many(other, [(1, HELD)])
    statuses.put_many(other, [(1, Good())])
    assert statuses._table.status(other, 1) == Good()


def test_that_stays_so_until_the_operator_accepts_it(tmp_path: Path) -> None:
    folder = tmp_path / "status"
    folder.mkdir()
    with refusal("nothing-retained"):
        accept_restored(folder)
    with closing(Statuses(folder / "table")) as statuses:
        filled(statuses)
    with closing(Statuses(folder / "table")) as statuses:
        assert statuses.retaining
        statuses.belong_to(b"a key")
        statuses.put_many("issuing", [(1, Good())])
        assert said(statuses, 1) == [REVOKED]
        accept_restored(folder)
        # Nobody has told it to look yet.
        statuses.put_many("issuing", [(1, Good())])
        assert said(statuses, 1) == [REVOKED]
        assert statuses.accepted
        statuses.accept()
        assert not statuses.retaining
        statuses.issuer("issuing", complete=True)
        assert said(statuses, 1) == [Unknown()]
        statuses.put_many("issuing", [(1, Good())])
        assert said(statuses, 1) == [Good()]
    with closing(Statuses(folder / "table")) as statuses:
        assert not statuses.retaining
        assert said(statuses, 1) == [Good()]


def test_what_was_accepted_while_it_was_down_counts_at_its_start(tmp_path: Path) -> None:
    folder = tmp_path / "status"
    folder.mkdir()
    with closing(Statuses(folder / "table")) as statuses:
        filled(statuses)
    accept_restored(folder)
    with closing(Statuses(folder / "table")) as statuses:
        assert (statuses.retaining, statuses.accepted) == (False, False)
        statuses.issuer("issuing", complete=True)
        assert said(statuses, 1) == [Unknown()]


def test_a_ca_that_is_restored_once_more_has_to_be_accepted_once_more(
    statuses: Statuses, tmp_path: Path
) -> None:
    filled(statuses)
    accept_restored(tmp_path / "status")
    statuses.retain("once more")
    statuses.accept()
    assert (statuses.retaining, statuses.accepted) == (True, False)
    assert said(statuses, 1) == [REVOKED]


def test_another_feed_ends_it(statuses: Statuses) -> None:
    filled(statuses)
    statuses.belong_to(b"another key")
    assert not statuses.retaining
    statuses.issuer("issuing", complete=True)
    assert said(statuses, 1) == [Unknown()]


def test_no_feed_writes_what_a_crl_says(statuses: Statuses) -> None:
    name = f"{foreign.PREFIX}acme:0123456789abcdef"
    statuses.issuer(name, complete=False)
    with refusal("name-taken"):
        statuses.issuer(name, complete=True)


def test_the_feed_s_key_and_token(settings: Settings) -> None:
    with refusal("cannot-read"):
        feed_key_of(settings)
    settings.home.mkdir(parents=True)
    for wrong in (b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        settings.feed.key.write_bytes(wrong)
        with refusal("feed-key"):
            feed_key_of(settings)
    public = CA_KEY.public_key()
    info = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    settings.feed.key.write_bytes(encode_pem("PUBLIC KEY", info))
    assert feed_key_of(settings) == info
    with refusal("no-such-secret"):
        origin_of(settings)
    token = settings.home / "secrets" / "feed.token"
    token.parent.mkdir()
    token.touch(mode=0o600)
    token.write_text("a-token\n")
    assert origin_of(settings).token == "a-token"


# Health


AWAY = Unavailable("token-unavailable", "plug it in")


@dataclass
class Followed:
    """How far a follower is."""

    seconds: float = 0.4
    behind: int = 0
    applied: int = 9
    failing: Failure | None = None
    issuers: tuple[Issuer, ...] = ()

    def lag(self, now: datetime) -> float:
        return self.seconds


@dataclass
class Source:
    current: Any = None
    count: int = 3
    failing: Failure | None = None


@dataclass
class Authority:
    """A validation authority as its health sees it."""

    settings: Settings
    clock: FixedClock = field(default_factory=lambda: FixedClock(NOW))
    follower: Any = field(default_factory=Followed)
    delegates: dict[str, Delegate] = field(default_factory=dict)
    uncertified: dict[str, Failure] = field(default_factory=dict)
    sources: dict[str, Any] = field(default_factory=dict)
    apart: Any = True
    key_watch: Any = field(default_factory=lambda: KeysFound({}))
    keys_note: str = "encrypted files"
    since: datetime = NOW
    retaining: bool = False
    tls: tuple[Any, ...] = ()


@dataclass
class KeysFound:
    """What was found out about keys a moment ago."""

    found: dict[str, Failure | None]
    age: float | None = 1.25

    @property
    def failing(self) -> dict[str, str]:
        return {name: why.code for name, why in self.found.items() if why is not None}


@pytest.fixture
def authority(settings: Settings) -> Any:
    made = Authority(settings)
    key: Any = None
    delegate = Delegate(issuer(), key, certificate(CA_KEY.public_key()))
    head = SimpleNamespace(number=4, this_update=NOW - DAY, next_update=NOW + DAY)
    made.delegates = {"issuing": delegate, "crl:acme:0": delegate}
    made.sources = {"crl:acme:0": Source(head)}
    return made


def test_health_in_order(authority: Any) -> None:
    health = validation_api.health(authority)
    assert health["status"] == "ok"
    assert health["feed"] == {
        "url": "http://127.0.0.1:1", "lag": 0.4, "behind": 0, "applied": 9, "failing": None,
    }  # fmt: skip
    assert [one["source"] for one in health["authorities"]] == ["feed", "crl"]
    assert health["authorities"][1]["crl_number"] == 4
    authority.apart = None
    assert validation_api.health(authority)["status"] == "starting"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"follower": Followed(behind=2)}, "behind"),
        ({"follower": Followed(failing=Rejected("not-authenticated", ""))}, "behind"),
        ({"retaining": True}, "behind"),
        ({"retaining": True, "follower": Followed(seconds=61)}, "cut off"),
        ({"follower": Followed(seconds=61)}, "cut off"),
        ({"follower": Followed(seconds=math.inf)}, "cut off"),
        ({"uncertified": {"root": Rejected("responder-revoked", "")}}, "behind"),
        ({"uncertified": {"issuing": Rejected("responder-revoked", "")}}, "behind"),
        ({"sources": {"crl:acme:0": Source()}}, "cut off"),
        ({"sources": {}}, "cut off"),
        ({"clock": FixedClock(NOW + 2 * DAY)}, "cut off"),  # the CRL is over
        ({"key_watch": KeysFound({"issuing-ocsp": AWAY, "acme-ocsp": None})}, "cut off"),
        ({"key_watch": KeysFound({"issuing-ocsp": None, "acme-ocsp": AWAY})}, "cut off"),
    ],
)
def test_health_out_of_order(authority: Any, change: dict[str, Any], status: str) -> None:
    health = validation_api.health(replace(authority, **change))
    assert health["status"] == status, health
    assert "state" not in str(health)


def test_health_says_that_the_ca_was_restored(authority: Any) -> None:
    authority.retaining = True
    assert validation_api.health(authority)["feed"]["failing"] == "feed-restored"
    [failing] = validation_api.status(authority)["failing"]
    assert (failing["what"], failing["code"], failing["stops"]) == ("feed", "feed-restored", False)
    authority.follower = Followed(failing=Rejected("not-authenticated", ""), seconds=61)
    codes = [one["code"] for one in validation_api.status(authority)["failing"]]
    assert codes == ["not-authenticated"]


def test_health_names_the_key_that_cannot_sign(authority: Any) -> None:
    authority.key_watch = KeysFound({"issuing-ocsp": None, "acme-ocsp": AWAY})
    health = validation_api.health(authority)
    assert (health["keys_failing"], health["keys_age"]) == (
        {"acme-ocsp": "token-unavailable"},
        1.25,
    )
    assert [one["failing"] for one in health["authorities"]] == [None, "token-unavailable"]
    [key] = validation_api.status(authority)["failing"]
    assert key == {
        "what": "key acme-ocsp", "code": "token-unavailable", "detail": "plug it in", "stops": True,
    }  # fmt: skip


def test_status_says_what_stops_and_what_does_not(authority: Any) -> None:
    assert validation_api.status(authority)["failing"] == []
    late = Unavailable("crl-unreachable", "see to it")
    authority.sources["crl:acme:0"].failing = late
    authority.follower = Followed(failing=Rejected("not-authenticated", "get a new token"))
    authority.uncertified = {"root": Rejected("responder-revoked", "make a new key")}

    def told(status: dict[str, Any]) -> list[tuple[str, str, bool]]:
        return [(one["what"], one["code"], one["stops"]) for one in status["failing"]]

    assert told(validation_api.status(authority)) == [
        ("feed", "not-authenticated", False),
        ("responder for root", "responder-revoked", False),
        ("CRL of crl:acme", "crl-unreachable", False),
    ]
    gone = replace(authority, follower=Followed(seconds=math.inf), sources={"crl:acme:0": Source()})
    assert told(validation_api.status(gone)) == [
        ("feed", "status-source-cut-off", True),
        ("responder for root", "responder-revoked", False),
        ("CRL of crl:acme", "status-outdated", True),
    ]
    over = replace(authority, clock=FixedClock(NOW + 4000 * DAY), uncertified={})
    assert ("responder for issuing", "delegate-expired", True) in told(validation_api.status(over))


def test_health_of_a_crl_that_is_late(authority: Any) -> None:
    authority.sources["crl:acme:0"].failing = Unavailable("crl-unreachable", "")
    health = validation_api.health(authority)
    assert health["status"] == "behind"
    assert health["authorities"][1]["failing"] == "crl-unreachable"
