"""RFC 5280 §6: certification path validation, with openssl giving its own verdict beside ours."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import core as asn1_core
from asn1crypto import ocsp as asn1_ocsp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.errors import Rejected
from pki.purpose import Purpose
from pki.serial import format_serial
from pki.validation import Outcome, Revocation, validate

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
DER = serialization.Encoding.DER
PEM = serialization.Encoding.PEM
CA_USAGE = frozenset({"key_cert_sign", "crl_sign"})
USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
    "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip

MAKERS: dict[str, Callable[[], Any]] = {
    "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    "p-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ml-dsa-44": mldsa.MLDSA44PrivateKey.generate,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
    "ml-dsa-87": mldsa.MLDSA87PrivateKey.generate,
}


def digest(key: Any) -> hashes.HashAlgorithm | None:
    classical = isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    return hashes.SHA256() if classical else None


@dataclass(frozen=True)
class Entity:
    """A certificate with its private key."""

    key: Any
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(DER)


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def issue(
    subject: str,
    issuer: Entity | None = None,
    *,
    key_type: str = "p-256",
    key: Any = None,
    ca: bool = False,
    path_length: int | None = None,
    usage: frozenset[str] | None = None,
    extended: Sequence[x509.ObjectIdentifier] = (),
    not_before: datetime = START,
    lifetime: timedelta = 365 * DAY,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> Entity:
    key = key or MAKERS[key_type]()
    signing_key = issuer.key if issuer else key
    usage = usage if usage is not None else CA_USAGE if ca else frozenset({"digital_signature"})
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(issuer.certificate.subject if issuer else name(subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_before + lifetime - timedelta(seconds=1))
        .add_extension(x509.BasicConstraints(ca, path_length), True)
        .add_extension(x509.KeyUsage(**{one: one in usage for one in USAGES}), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), False
        )
        .add_extension(
            x509.AuthorityInformationAccess(
                [
                    x509.AccessDescription(
                        x509.AuthorityInformationAccessOID.OCSP,
                        x509.UniformResourceIdentifier("http://127.0.0.1:8081/ocsp"),
                    )
                ]
            ),
            False,
        )
    )
    if extended:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended), False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Entity(key, builder.sign(signing_key, digest(signing_key)))


def crl(
    issuer: Entity,
    *revoked: tuple[Entity, datetime, x509.ReasonFlags],
    this_update: datetime = NOW - DAY,
    lifetime: timedelta = 7 * DAY,
) -> bytes:
    entries = [
        x509.RevokedCertificateBuilder()
        .serial_number(entity.certificate.serial_number)
        .revocation_date(at)
        .add_extension(x509.CRLReason(reason), False)
        .build()
        for entity, at, reason in revoked
    ]
    builder = (
        x509.CertificateRevocationListBuilder(revoked_certificates=entries)
        .issuer_name(issuer.certificate.subject)
        .last_update(this_update)
        .next_update(this_update + lifetime)
        .add_extension(x509.CRLNumber(7), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), False
        )
    )
    return builder.sign(issuer.key, digest(issuer.key)).public_bytes(DER)


def ocsp_response(
    entity: Entity,
    issuer: Entity,
    responder: Entity,
    *,
    revoked: datetime | None = None,
    reason: x509.ReasonFlags | None = x509.ReasonFlags.key_compromise,
    this_update: datetime = NOW - timedelta(hours=1),
    produced_at: datetime | None = None,
    lifetime: timedelta = timedelta(hours=12),
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> bytes:
    """An OCSP response; ``produced_at``: ``this_update`` if nothing else is said."""
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            entity.certificate,
            issuer.certificate,
            hashes.SHA256(),
            ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD,
            this_update,
            this_update + lifetime,
            revoked,
            reason if revoked else None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, responder.certificate)
        .certificates([responder.certificate])
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    made = builder.sign(responder.key, digest(responder.key)).public_bytes(DER)
    return signed_anew(made, responder, produced_at=produced_at or this_update)


def signed_anew(response: bytes, responder: Entity, **fields: Any) -> bytes:
    """An OCSP response with other ``fields`` of its ResponseData: cryptography takes producedAt
    from the clock."""
    made = asn1_ocsp.OCSPResponse.load(response)
    basic = made["response_bytes"]["response"].parsed
    for field, value in fields.items():
        basic["tbs_response_data"][field] = value
    basic["signature"] = sign(responder.key, basic["tbs_response_data"].dump(force=True))
    made["response_bytes"]["response"] = asn1_core.ParsableOctetString(basic.dump(force=True))
    return bytes(made.dump(force=True))


def sign(key: Any, data: bytes) -> bytes:
    match key:
        case rsa.RSAPrivateKey():
            made = key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePrivateKey():
            made = key.sign(data, ec.ECDSA(hashes.SHA256()))
        case _:
            made = key.sign(data)
    return bytes(made)


ROOT = issue("Root", key_type="p-384", ca=True, lifetime=3650 * DAY)
ISSUING = issue("Issuing", ROOT, ca=True, path_length=0, lifetime=1000 * DAY)
ADA = issue("Ada", ISSUING)
NO_CHECK = (x509.OCSPNoCheck(), False)
RESPONDER = issue(
    "Responder", ISSUING, extended=[ExtendedKeyUsageOID.OCSP_SIGNING], extensions=[NO_CHECK]
)
CLEAN = (crl(ROOT, lifetime=30 * DAY), crl(ISSUING))
COMPROMISED = x509.ReasonFlags.key_compromise


async def check(
    leaf: Entity,
    *,
    anchors: Sequence[Entity] = (ROOT,),
    via: Sequence[Entity] = (ISSUING,),
    at: datetime = NOW,
    now: datetime | None = None,
    **how: Any,
) -> Outcome:
    """``now``: when it is asked, if not ``NOW`` or, later than that, ``at`` itself."""
    outcome = await validate(
        leaf.der,
        anchors=[anchor.der for anchor in anchors],
        intermediates=[one.der for one in via],
        at=at,
        now=now or max(at, NOW),
        **how,
    )
    assert outcome.valid == (outcome.code == "valid")
    assert outcome.explanation
    return outcome


def openssl(
    folder: Path,
    leaf: Entity,
    *,
    anchors: Sequence[Entity] = (ROOT,),
    via: Sequence[Entity] = (ISSUING,),
    at: datetime = NOW,
    crls: Sequence[bytes] = (),
    partial: bool = False,
) -> str:
    """What ``openssl verify`` says, empty if it is content."""
    if shutil.which("openssl") is None:
        pytest.skip("apt install openssl")
    (folder / "leaf.pem").write_bytes(leaf.certificate.public_bytes(PEM))
    for file, entities in (("anchors.pem", anchors), ("via.pem", via)):
        text = b"".join(one.certificate.public_bytes(PEM) for one in entities)
        (folder / file).write_bytes(text)
    command = ["openssl", "verify", "-x509_strict", "-attime", str(int(at.timestamp()))]
    command += ["-no-CApath", "-no-CAstore", "-CAfile", "anchors.pem"]
    if via:
        command += ["-untrusted", "via.pem"]
    if partial:
        command.append("-partial_chain")
    if crls:
        loaded = [x509.load_der_x509_crl(data).public_bytes(PEM) for data in crls]
        (folder / "crls.pem").write_bytes(b"".join(loaded))
        command += ["-crl_check_all", "-CRLfile", "crls.pem"]
    done = subprocess.run([*command, "leaf.pem"], cwd=folder, capture_output=True, text=True)
    assert (done.returncode == 0) == (done.stdout.strip() == "leaf.pem: OK")
    return done.stderr if done.returncode else ""


# §6.1.3 (a) (1) and §6.1.4: signatures and names


@pytest.mark.parametrize("key_type", MAKERS)
async def test_chains_of_every_key_type_hold(key_type: str, tmp_path: Path) -> None:
    root = issue("R", key_type=key_type, ca=True)
    issuing = issue("I", root, key_type=key_type, ca=True)
    leaf = issue("L", issuing, key_type=key_type)
    lists = (crl(root), crl(issuing))
    outcome = await check(
        leaf, anchors=[root], via=[issuing], crls=lists, revocation=Revocation.CRL
    )
    assert outcome.code == "valid", outcome.explanation
    assert outcome.path == (leaf.der, issuing.der, root.der)
    if not key_type.startswith("ml-dsa"):  # OpenSSL 3.0 does not know ML-DSA
        assert not openssl(tmp_path, leaf, anchors=[root], via=[issuing], crls=lists)
    answer = ocsp_response(leaf, issuing, issuing)
    outcome = await check(
        leaf, anchors=[root], via=[issuing], ocsp_responses=[answer], crls=lists[:1],
        revocation=Revocation.OCSP,
    )  # fmt: skip
    assert outcome.code == "valid", outcome.explanation


async def test_the_explanation_names_the_path_and_its_dates() -> None:
    outcome = await check(ADA)
    ada, issuing, root, *rest = outcome.explanation
    assert ada == (
        f"certificate CN=Ada, serial {format_serial(ADA.certificate.serial_number)}: "
        "2026-01-01T00:00:00Z to 2026-12-31T23:59:59Z"
    )
    assert "CN=Issuing" in issuing
    assert root.endswith("(trust anchor)")
    assert rest == ["revocation was not asked about", "valid at 2026-06-01T12:00:00Z"]


@pytest.mark.parametrize("key_type", ["p-256", "rsa-2048", "ed25519", "ml-dsa-44"])
async def test_a_forged_signature_is_found(key_type: str, tmp_path: Path) -> None:
    root = issue("R", key_type=key_type, ca=True)
    impostor = Entity(MAKERS[key_type](), root.certificate)
    forged = issue("L", impostor)
    # The impostor's AKI would give it away before its signature does: leave it to the names.
    stripped = (
        x509.CertificateBuilder()
        .subject_name(name("L"))
        .issuer_name(name("R"))
        .public_key(forged.key.public_key())
        .serial_number(1)
        .not_valid_before(START)
        .not_valid_after(START + 365 * DAY)
        .sign(impostor.key, digest(impostor.key))
    )
    leaf = Entity(forged.key, stripped)
    assert (await check(leaf, anchors=[root], via=[])).code == "bad-signature"
    assert (await check(forged, anchors=[root], via=[])).code == "issuer-missing"
    if key_type != "ml-dsa-44":
        assert "signature failure" in openssl(tmp_path, leaf, anchors=[root], via=[])


async def test_without_the_anchor_there_is_no_trust(tmp_path: Path) -> None:
    other = issue("Root", key_type="p-384", ca=True)
    outcome = await check(ADA, anchors=[other], via=[ISSUING, ROOT])
    assert outcome.code == "untrusted-root"
    assert outcome.path == (ADA.der, ISSUING.der, ROOT.der)
    assert openssl(tmp_path, ADA, anchors=[other], via=[ISSUING, ROOT])
    outcome = await check(ADA, via=[])
    assert outcome.code == "issuer-missing"
    assert "Issuing" in outcome.explanation[-1]
    assert openssl(tmp_path, ADA, via=[])
    assert (await check(ROOT, anchors=[])).code == "untrusted-root"


async def test_an_anchor_vouches_for_itself_and_need_not_be_a_root(tmp_path: Path) -> None:
    assert (await check(ROOT)).code == "valid"
    assert (await check(ADA, anchors=[ISSUING], via=[])).code == "valid"
    assert not openssl(tmp_path, ADA, anchors=[ISSUING], via=[], partial=True)


async def test_the_right_one_of_two_issuers_of_a_name_is_found() -> None:
    twin = issue("Issuing", ROOT, ca=True)
    for via in ([twin, ISSUING], [ISSUING, twin]):
        outcome = await check(ADA, via=via)
        assert outcome.path == (ADA.der, ISSUING.der, ROOT.der)


async def test_cross_certificates_in_circles_end() -> None:
    keys = [MAKERS["p-256"]() for _ in range(3)]
    circle = [
        issue("C", Entity(keys[(number + 1) % 3], issue("C", key=keys[0], ca=True).certificate),
              key=keys[number % 3], ca=True)
        for number in range(30)
    ]  # fmt: skip
    leaf = issue("L", Entity(keys[0], circle[0].certificate))
    assert not (await check(leaf, via=circle)).valid


async def test_sha1_is_too_weak() -> None:
    root = issue("R", key_type="rsa-2048", ca=True)
    leaf = issue("L", root).certificate
    # ecdsa/rsa with SHA-1 cannot be made by cryptography any more: rename the algorithm instead.
    sha256 = bytes.fromhex("06092a864886f70d01010b")
    sha1 = bytes.fromhex("06092a864886f70d010105")
    weak = leaf.public_bytes(DER).replace(sha256, sha1)
    outcome = await validate(weak, anchors=[root.der], at=NOW, now=NOW)
    assert outcome.code == "weak-algorithm"


# §6.1.3 (a) (2): validity


@pytest.mark.parametrize(
    ("at", "code"),
    [
        (START - DAY, "not-yet-valid"),
        (START, "valid"),
        (START + 365 * DAY - timedelta(seconds=1), "valid"),
        (START + 365 * DAY - timedelta(microseconds=1), "valid"),
        (START + 365 * DAY, "expired"),
        (START + 500 * DAY, "expired"),
    ],
)
async def test_both_ends_of_a_validity_count(at: datetime, code: str) -> None:
    assert (await check(ADA, at=at)).code == code


async def test_openssl_agrees_on_expiry(tmp_path: Path) -> None:
    assert "expired" in openssl(tmp_path, ADA, at=START + 366 * DAY)
    assert "not yet valid" in openssl(tmp_path, ADA, at=START - DAY)


async def test_an_expired_ca_or_anchor_carries_nothing() -> None:
    old = issue("Old", ROOT, ca=True, lifetime=30 * DAY)
    leaf = issue("L", old)
    outcome = await check(leaf, via=[old])
    assert outcome.code == "expired"
    assert any("CN=Old" in line and "expired at" in line for line in outcome.explanation)
    assert (await check(leaf, via=[old], at=START + DAY)).code == "valid"
    root = issue("R", ca=True, lifetime=30 * DAY)
    assert (await check(issue("L", root), anchors=[root], via=[])).code == "expired"


# §6.1.4: CAs


async def test_a_leaf_is_no_ca(tmp_path: Path) -> None:
    below = issue("Below", ADA)
    assert (await check(below, via=[ADA, ISSUING])).code == "not-a-ca"
    assert openssl(tmp_path, below, via=[ADA, ISSUING])
    assert (await check(below, anchors=[ADA], via=[])).code == "not-a-ca"


async def test_a_ca_needs_key_cert_sign(tmp_path: Path) -> None:
    mute = issue("Mute", ROOT, ca=True, usage=frozenset({"crl_sign"}))
    leaf = issue("L", mute)
    assert (await check(leaf, via=[mute])).code == "ca-key-usage"
    assert openssl(tmp_path, leaf, via=[mute])


async def test_path_lengths_hold(tmp_path: Path) -> None:
    deeper = issue("Deeper", ISSUING, ca=True)
    leaf = issue("L", deeper)
    assert (await check(leaf, via=[deeper, ISSUING])).code == "path-too-long"
    assert "path length" in openssl(tmp_path, leaf, via=[deeper, ISSUING])
    root = issue("R", ca=True, path_length=0)
    middle = issue("M", root, ca=True)
    outcome = await check(issue("L", middle), anchors=[root], via=[middle])
    assert outcome.code == "path-too-long"


@pytest.mark.parametrize("on_the_root", [False, True])
async def test_name_constraints_hold(on_the_root: bool, tmp_path: Path) -> None:
    only = [(x509.NameConstraints([x509.DNSName("example.org")], None), True)]
    root = issue("R", ca=True, extensions=only if on_the_root else [])
    issuing = issue("I", root, ca=True, extensions=[] if on_the_root else only)
    for host, code in (("www.example.org", "valid"), ("www.example.com", "name-constraint")):
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        leaf = issue("L", issuing, extensions=[(names, False)])
        assert (await check(leaf, anchors=[root], via=[issuing])).code == code
        assert bool(openssl(tmp_path, leaf, anchors=[root], via=[issuing])) == (code != "valid")


async def test_an_unknown_critical_extension_stops_everything(tmp_path: Path) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    leaf = issue("L", ISSUING, extensions=[(unknown, True)])
    assert (await check(leaf)).code == "unknown-critical-extension"
    assert openssl(tmp_path, leaf)
    leaf = issue("L", ISSUING, extensions=[(unknown, False)])
    assert (await check(leaf)).code == "valid"


# §6.3: CRLs


async def test_a_clean_crl_is_named_in_the_explanation(tmp_path: Path) -> None:
    outcome = await check(ADA, crls=CLEAN, revocation=Revocation.CRL)
    assert outcome.code == "valid", outcome.explanation
    serial = ADA.certificate.serial_number
    assert (
        "CRL 7 of CN=Issuing: 2026-05-31T12:00:00Z to 2026-06-07T12:00:00Z; "
        f"does not list {format_serial(serial)}"
    ) in outcome.explanation
    assert not openssl(tmp_path, ADA, crls=CLEAN)


async def test_a_revoked_certificate_is_refused_with_when_and_why(tmp_path: Path) -> None:
    revoked_at = NOW - 2 * DAY
    crls = (CLEAN[0], crl(ISSUING, (ADA, revoked_at, COMPROMISED)))
    outcome = await check(ADA, crls=crls, revocation=Revocation.CRL)
    assert outcome.code == "revoked"
    assert any("2026-05-30T12:00:00Z, keyCompromise" in line for line in outcome.explanation)
    assert "revoked" in openssl(tmp_path, ADA, crls=crls)


async def test_before_its_revocation_it_was_good() -> None:
    revoked_at = NOW - 2 * DAY
    crls = (CLEAN[0], crl(ISSUING, (ADA, revoked_at, COMPROMISED)))
    for at, code in (
        (revoked_at - timedelta(seconds=1), "valid"),
        (revoked_at, "revoked"),
        (revoked_at + timedelta(microseconds=5), "revoked"),
        (revoked_at + timedelta(seconds=1), "revoked"),
        (NOW, "revoked"),
    ):
        outcome = await check(ADA, crls=crls, revocation=Revocation.CRL, at=at)
        assert outcome.code == code, at
        assert any("issued after the time" in line for line in outcome.explanation) == (at != NOW)


async def test_a_crl_from_after_expiry_says_nothing() -> None:
    short = issue("Short", ISSUING, lifetime=30 * DAY)
    how = {"revocation": Revocation.CRL, "at": START + 20 * DAY}
    assert (await check(short, crls=CLEAN, **how)).code == "revocation-unknown"
    in_time = [
        crl(issuer, this_update=START + 25 * DAY, lifetime=7 * DAY) for issuer in (ROOT, ISSUING)
    ]
    assert (await check(short, crls=in_time, **how)).code == "valid"


async def test_a_hold_is_a_revocation_until_it_is_released() -> None:
    held = (CLEAN[0], crl(ISSUING, (ADA, NOW - 2 * DAY, x509.ReasonFlags.certificate_hold)))
    outcome = await check(ADA, crls=held, revocation=Revocation.CRL)
    assert outcome.code == "revoked"
    assert any("certificateHold" in line for line in outcome.explanation)


async def test_a_revoked_ca_takes_everything_below_with_it(tmp_path: Path) -> None:
    crls = (
        crl(ROOT, (ISSUING, NOW - 2 * DAY, x509.ReasonFlags.ca_compromise), lifetime=30 * DAY),
        CLEAN[1],
    )
    assert (await check(ADA, crls=crls, revocation=Revocation.CRL)).code == "revoked"
    assert "revoked" in openssl(tmp_path, ADA, crls=crls)


async def test_missing_and_stale_crls_are_told_apart(tmp_path: Path) -> None:
    how = {"revocation": Revocation.CRL}
    assert (await check(ADA, crls=(), **how)).code == "revocation-unknown"
    assert (await check(ADA, crls=CLEAN[:1], **how)).code == "revocation-unknown"
    stale = (CLEAN[0], crl(ISSUING, this_update=NOW - 20 * DAY))
    outcome = await check(ADA, crls=stale, **how)
    assert outcome.code == "revocation-stale"
    assert any("stale at" in line for line in outcome.explanation)
    assert "expired" in openssl(tmp_path, ADA, crls=stale)
    assert (await check(ADA, crls=stale, at=NOW - 15 * DAY, **how)).code == "valid"


async def test_a_crl_by_another_key_says_nothing() -> None:
    impostor = Entity(MAKERS["p-256"](), ISSUING.certificate)
    outcome = await check(ADA, crls=(CLEAN[0], crl(impostor)), revocation=Revocation.CRL)
    assert outcome.code == "revocation-unknown"


async def test_a_ca_without_crl_sign_cannot_revoke() -> None:
    silent = issue("Silent", ROOT, ca=True, usage=frozenset({"key_cert_sign"}))
    leaf = issue("L", silent)
    outcome = await check(
        leaf, via=[silent], crls=(CLEAN[0], crl(silent)), revocation=Revocation.CRL
    )
    assert outcome.code == "revocation-unknown"


# RFC 6960


@pytest.mark.parametrize("revocation", [Revocation.OCSP, Revocation.EITHER])
@pytest.mark.parametrize("responder", [RESPONDER, ISSUING], ids=["delegated", "the CA itself"])
async def test_a_good_answer_is_enough(responder: Entity, revocation: Revocation) -> None:
    answer = ocsp_response(ADA, ISSUING, responder)
    outcome = await check(ADA, ocsp_responses=[answer], crls=CLEAN[:1], revocation=revocation)
    assert outcome.code == "valid", outcome.explanation
    assert any("is good" in line for line in outcome.explanation)


async def test_a_revoked_answer_is_refused() -> None:
    answer = ocsp_response(ADA, ISSUING, RESPONDER, revoked=NOW - 3 * DAY)
    outcome = await check(ADA, ocsp_responses=[answer], crls=CLEAN[:1], revocation=Revocation.OCSP)
    assert outcome.code == "revoked"
    assert any("since 2026-05-29T12:00:00Z, keyCompromise" in one for one in outcome.explanation)


@pytest.mark.parametrize(
    ("responder", "why"),
    [
        (issue("Stranger", ISSUING, extensions=[NO_CHECK]), "no id-kp-OCSPSigning"),
        (
            issue("Other", ROOT, extended=[ExtendedKeyUsageOID.OCSP_SIGNING]),
            "not by the CA asked about",
        ),
        (
            issue(
                "Expired", ISSUING, extended=[ExtendedKeyUsageOID.OCSP_SIGNING],
                extensions=[NO_CHECK], lifetime=DAY,
            ),
            "expired",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
async def test_answers_by_others_say_nothing(responder: Entity, why: str) -> None:
    answer = ocsp_response(ADA, ISSUING, responder)
    outcome = await check(ADA, ocsp_responses=[answer], crls=CLEAN[:1], revocation=Revocation.OCSP)
    assert outcome.code == "revocation-unknown", why


async def test_an_answer_changed_after_signing_says_nothing() -> None:
    answer = ocsp_response(ADA, ISSUING, RESPONDER)
    signature = ocsp.load_der_ocsp_response(answer).signature
    changed = answer.replace(signature, signature[:-1] + bytes((signature[-1] ^ 1,)))
    outcome = await check(ADA, ocsp_responses=[changed], crls=CLEAN[:1], revocation=Revocation.OCSP)
    assert outcome.code == "revocation-unknown"
    assert "signature" in outcome.explanation[-1]


async def test_answers_on_others_and_old_answers_say_nothing() -> None:
    how: dict[str, Any] = {"crls": CLEAN[:1], "revocation": Revocation.OCSP}
    other = ocsp_response(RESPONDER, ISSUING, RESPONDER)
    assert (await check(ADA, ocsp_responses=[other], **how)).code == "revocation-unknown"
    old = ocsp_response(ADA, ISSUING, RESPONDER, this_update=NOW - 2 * DAY)
    assert (await check(ADA, ocsp_responses=[old], **how)).code == "revocation-stale"
    assert (await check(ADA, crls=CLEAN, revocation=Revocation.OCSP)).code == "revocation-unknown"


# §4.2.1.3 and §4.2.1.12: purposes


@pytest.mark.parametrize(
    ("usage", "extended", "allowed"),
    [
        (
            {"digital_signature"},
            [ExtendedKeyUsageOID.SERVER_AUTH],
            {Purpose.TLS_SERVER, Purpose.SIGNATURE},
        ),
        (
            {"digital_signature"},
            [],
            {Purpose.TLS_SERVER, Purpose.TLS_CLIENT, Purpose.EMAIL, Purpose.SIGNATURE},
        ),
        ({"content_commitment"}, [], {Purpose.EMAIL, Purpose.SIGNATURE}),
        ({"digital_signature"}, [ExtendedKeyUsageOID.TIME_STAMPING],
         {Purpose.TIME_STAMPING, Purpose.SIGNATURE}),
        ({"digital_signature"}, [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
         {Purpose.TLS_SERVER, Purpose.TLS_CLIENT, Purpose.EMAIL, Purpose.SIGNATURE}),
        ({"key_agreement"}, [ExtendedKeyUsageOID.CLIENT_AUTH],
         {Purpose.TLS_CLIENT, Purpose.ENCRYPTION}),
    ],
)  # fmt: skip
async def test_purposes(
    usage: set[str], extended: list[x509.ObjectIdentifier], allowed: set[Purpose]
) -> None:
    leaf = issue("L", ISSUING, usage=frozenset(usage), extended=extended)
    for purpose in Purpose:
        code = (await check(leaf, purpose=purpose)).code
        expected = purpose is Purpose.ANY or purpose in allowed
        assert code == ("valid" if expected else "wrong-purpose"), purpose


# What is given


@pytest.mark.parametrize("data", [b"", b"garbage", ADA.der[:-1], ADA.der + b"\x00", CLEAN[0]])
async def test_octets_that_are_no_certificate_are_refused(data: bytes) -> None:
    for how in (
        {"certificate": data, "anchors": [ROOT.der]},
        {"certificate": ADA.der, "anchors": [data]},
        {"certificate": ADA.der, "anchors": [ROOT.der], "intermediates": [data]},
    ):
        with pytest.raises(Rejected) as caught:
            await validate(**how, at=NOW, now=NOW)  # type: ignore[arg-type]
        assert caught.value.code == "bad-certificate"


async def test_octets_that_are_no_revocation_data_are_refused() -> None:
    with pytest.raises(Rejected, match="bad-crl"):
        await check(ADA, crls=[ADA.der])
    with pytest.raises(Rejected, match="bad-ocsp-response"):
        await check(ADA, ocsp_responses=[ADA.der])
    later = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    with pytest.raises(Rejected, match="try_later"):
        await check(ADA, ocsp_responses=[later.public_bytes(DER)])


async def test_too_many_certificates_are_refused() -> None:
    with pytest.raises(Rejected, match="too-many-certificates"):
        await check(ADA, via=[ISSUING] * 101)
