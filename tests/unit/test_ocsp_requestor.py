"""Signed requests: who is believed, who is not, and how much work that may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infra.errors import Rejected
from ocsp.request import build_request, parse_request
from ocsp.requestor import MAX_CERTIFICATES, SignedRequests, check_requestor, read_anchors
from ocsp.responder import Answer, Practice
from ocsp.response import ResponseStatus
from pki import der
from pki.algorithms import SIGNATURE_ALGORITHMS
from pki.certificate import parse_certificate
from pki.status import Good
from tests.conformance.ocsp_fixtures import NOW, Ca, Statuses, cert_id, responder, signer

ECDSA = ec.ECDSA(hashes.SHA256())
DER = serialization.Encoding.DER
AT = NOW.replace(microsecond=0)


@dataclass
class Party:
    """Somebody with a key and a certificate, by default of itself."""

    name: str
    issuer: Party | None = None
    ca: bool = True
    path_length: int | None = None
    usages: tuple[str, ...] | None = None
    since: datetime = AT - timedelta(days=1)
    until: datetime = AT + timedelta(days=1)
    more: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    der: bytes = b""

    def __post_init__(self) -> None:
        above = self.issuer or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(self.name))
            .issuer_name(_name(above.name))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.since)
            .not_valid_after(self.until)
            .add_extension(x509.BasicConstraints(self.ca, self.path_length), True)
        )
        if self.usages is not None:
            names = (
                "digital_signature", "content_commitment", "key_encipherment", "key_agreement",
                "data_encipherment", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
            )  # fmt: skip
            usage = x509.KeyUsage(**{name: name in self.usages for name in names})
            builder = builder.add_extension(usage, True)
        for extension, critical in self.more:
            builder = builder.add_extension(extension, critical)
        self.der = builder.sign(above.key, hashes.SHA256()).public_bytes(DER)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


ROOT = Party("Root")
MIDDLE = Party("Middle", ROOT, usages=("key_cert_sign",))
CLIENT = Party("Client", MIDDLE, ca=False, usages=("digital_signature",))
CA = Ca("Asked about")
ASKED = build_request([cert_id(CA.issuer, 1)])


def signed(
    by: Party,
    certificates: tuple[bytes, ...] | None = None,
    *,
    name: bytes | None = None,
    change: Callable[[bytes], bytes] = bytes,
    algorithm: str = "ecdsa-with-sha256",
) -> bytes:
    """A request for one certificate, signed by ``by``. ``name``: GeneralName."""
    listed = der.sequence(der.sequence(cert_id(CA.issuer, 1)))
    tbs = der.sequence(b"" if name is None else der.explicit(1, name), listed)
    signature = change(by.key.sign(tbs, ECDSA))
    sent = (by.der,) if certificates is None else certificates
    whole = der.sequence(
        SIGNATURE_ALGORITHMS[algorithm].identifier,
        der.bit_string(signature),
        der.explicit(0, der.sequence(*sent)) if sent else b"",
    )
    return der.sequence(tbs, der.explicit(0, whole))


def refusal(request: bytes, *anchors: Party, at: datetime = AT) -> str:
    """The code with which it is refused; empty if it is not."""
    trusted = read_anchors([one.der for one in anchors or (ROOT,)])
    try:
        check_requestor(parse_request(request), trusted, at)
    except Rejected as error:
        return error.code
    return ""


def test_believes_who_leads_to_an_anchor() -> None:
    assert refusal(signed(CLIENT, (CLIENT.der, MIDDLE.der))) == ""
    assert refusal(signed(CLIENT, (CLIENT.der, ROOT.der, MIDDLE.der))) == ""
    assert refusal(signed(CLIENT), MIDDLE) == ""
    assert refusal(signed(CLIENT), CLIENT) == ""
    assert refusal(signed(Party("No usage", ROOT, ca=False))) == ""


def test_an_anchor_may_be_in_pem() -> None:
    pem = x509.load_der_x509_certificate(ROOT.der).public_bytes(serialization.Encoding.PEM)
    assert read_anchors([pem]) == (parse_certificate(ROOT.der),)


def test_takes_the_certificate_whose_key_fits_among_those_of_one_name() -> None:
    namesake = Party("Middle", ROOT)
    assert refusal(signed(CLIENT, (CLIENT.der, namesake.der, MIDDLE.der))) == ""
    assert refusal(signed(CLIENT, (CLIENT.der, namesake.der))) == "requestor-untrusted"


def test_does_not_believe_who_leads_nowhere() -> None:
    assert refusal(signed(CLIENT)) == "requestor-untrusted"
    stranger = Party("Root")
    assert refusal(signed(Party("Client", stranger, ca=False))) == "requestor-untrusted"
    assert refusal(signed(stranger)) == "requestor-untrusted"


def test_certificates_in_a_circle_end() -> None:
    one, other = Party("One"), Party("Other")
    one_by_other = Party("One", other, key=one.key)
    other_by_one = Party("Other", one, key=other.key)
    client = Party("Client", one, ca=False)
    sent = (client.der, one_by_other.der, other_by_one.der, one.der, other.der)
    assert refusal(signed(client, sent)) == "requestor-untrusted"


@pytest.mark.parametrize(
    "middle",
    [
        Party("Middle", ROOT, ca=False, key=MIDDLE.key),
        Party("Middle", ROOT, usages=("digital_signature",), key=MIDDLE.key),
        Party("Middle", ROOT, until=AT - timedelta(seconds=1), key=MIDDLE.key),
        Party("Middle", ROOT, since=AT + timedelta(seconds=1), key=MIDDLE.key),
        Party(
            "Middle",
            ROOT,
            key=MIDDLE.key,
            more=((x509.NameConstraints([x509.DNSName("a")], None), True),),
        ),
    ],
    ids=["no CA", "no keyCertSign", "expired", "not yet", "name constraints"],
)
def test_an_issuer_must_be_one(middle: Party) -> None:
    assert refusal(signed(CLIENT, (CLIENT.der, middle.der))) == "requestor-untrusted"
    assert refusal(signed(CLIENT), middle) == "requestor-untrusted"


def test_keeps_to_the_path_length() -> None:
    short = Party("Short", path_length=0)
    below = Party("Below", short)
    client = Party("Client", below, ca=False)
    assert refusal(signed(client, (client.der, below.der)), short) == "requestor-untrusted"
    assert refusal(signed(Party("Client", short, ca=False)), short) == ""


def test_both_ends_of_a_validity_count() -> None:
    client = Party("Client", ROOT, ca=False, since=AT, until=AT + timedelta(seconds=5))
    for seconds in (0, 5):
        assert refusal(signed(client), at=AT + timedelta(seconds=seconds)) == ""
    for seconds in (-1, 6):
        code = refusal(signed(client), at=AT + timedelta(seconds=seconds))
        assert code == "requestor-untrusted"


def test_the_name_must_be_the_subject_if_there_is_one() -> None:
    subject = parse_certificate(CLIENT.der).subject.der
    right = der.tlv(0xA4, subject)
    assert refusal(signed(CLIENT, name=right), MIDDLE) == ""
    for name in (der.tlv(0xA4, parse_certificate(MIDDLE.der).subject.der), der.tlv(0x86, b"x:y")):
        assert refusal(signed(CLIENT, name=name), MIDDLE) == "requestor-name"


def test_the_key_must_be_one_to_sign_with() -> None:
    client = Party("Client", ROOT, ca=False, usages=("key_agreement",))
    assert refusal(signed(client)) == "requestor-usage"


def test_the_signature_must_hold() -> None:
    def flip(signature: bytes) -> bytes:
        return signature[:-1] + bytes((signature[-1] ^ 1,))

    assert refusal(signed(CLIENT, change=flip), MIDDLE) == "requestor-signature"
    assert refusal(signed(CLIENT, algorithm="ed25519"), MIDDLE) == "requestor-signature"
    assert refusal(signed(CLIENT, (MIDDLE.der, CLIENT.der))) == "requestor-usage"
    whole = signed(CLIENT)
    moved = whole.replace(cert_id(CA.issuer, 1), cert_id(CA.issuer, 2))
    assert refusal(moved, MIDDLE) == "requestor-signature"


def test_a_weak_algorithm_is_no_signature() -> None:
    sha1_with_ecdsa = der.sequence(der.object_identifier("1.2.840.10045.4.1"))
    strong = SIGNATURE_ALGORITHMS["ecdsa-with-sha256"].identifier
    tbs = der.sequence(der.sequence(der.sequence(cert_id(CA.issuer, 1))))
    signature = CLIENT.key.sign(tbs, ec.ECDSA(hashes.SHA1()))  # noqa: S303 - what must not pass
    for algorithm in (sha1_with_ecdsa, strong):
        whole = der.sequence(
            algorithm, der.bit_string(signature), der.explicit(0, der.sequence(CLIENT.der))
        )
        asked = der.sequence(tbs, der.explicit(0, whole))
        assert refusal(asked, MIDDLE) == "requestor-signature"


def test_the_certificates_are_few_and_small() -> None:
    filler = tuple(MIDDLE.der for _ in range(MAX_CERTIFICATES - 1))
    assert refusal(signed(CLIENT, (CLIENT.der, *filler))) == ""
    for sent in ((CLIENT.der, *filler, ROOT.der), (), (CLIENT.der, der.sequence(bytes(16384)))):
        assert refusal(signed(CLIENT, sent)) == "requestor-certificates"


def test_what_is_no_certificate_is_refused_as_that() -> None:
    assert refusal(signed(CLIENT, (CLIENT.der, der.sequence()))) == "bad-der"


PRACTICES = {one: Practice(signed_requests=one, requestor_anchors=(ROOT.der,)) for one in (
    SignedRequests.ignore, SignedRequests.verify, SignedRequests.require
)}  # fmt: skip
DELEGATE = CA.delegate(signer("p-256"))


async def answer(practice: SignedRequests, request: bytes) -> Answer:
    statuses = Statuses({(CA.name, 1): Good()})
    ours = responder([DELEGATE], statuses, practice=PRACTICES[practice])
    said = await ours.answer(request)
    if said.status is not ResponseStatus.successful:
        assert statuses.asked == []
    return said


@pytest.mark.parametrize(
    ("practice", "plain", "good", "bad"),
    [
        (SignedRequests.ignore, "", "", ""),
        (SignedRequests.verify, "", "", "requestor-untrusted"),
        (SignedRequests.require, "request-unsigned", "", "requestor-untrusted"),
    ],
)
async def test_what_each_practice_does(
    practice: SignedRequests, plain: str, good: str, bad: str
) -> None:
    statuses: dict[str, Any] = {
        "": ResponseStatus.successful,
        "request-unsigned": ResponseStatus.sigRequired,
        "requestor-untrusted": ResponseStatus.unauthorized,
    }
    requests = ASKED, signed(CLIENT, (CLIENT.der, MIDDLE.der)), signed(CLIENT)
    for request, code in zip(requests, (plain, good, bad), strict=True):
        said = await answer(practice, request)
        assert (said.status, said.code) == (statuses[code], code)
        assert (said.freshness is not None) == (request is ASKED and not code)


def test_checking_needs_somebody_to_trust() -> None:
    for practice in (SignedRequests.verify, SignedRequests.require):
        with pytest.raises(Rejected, match="no-requestor-anchors"):
            Practice(signed_requests=practice)
