"""A CA of each kind of key issues, revokes and answers; others verify what it signed."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import ocsp as x509_ocsp

from cli.compose import running
from conf.load import load
from ocsp.request import HASH_OIDS, build_cert_id, build_request
from ocsp.responder import Responder
from ocsp.response import subject_public_key
from pki.algorithms import SIGNATURE_ALGORITHMS, KeyType, usual_algorithm, verify
from pki.authority import Application
from pki.certificate import parse_certificate
from pki.hierarchy import Plan
from pki.names import parse_rfc4514
from pki.request import assemble_request, build_request_info
from pki.status import RevocationReason
from pki.throwaway import Throwaway

ISSUER = "CN=Issuing CA,O=Registry,C=AQ"


@pytest.mark.parametrize(
    ("key_type", "algorithm"),
    [
        (KeyType.RSA_3072, None),
        (KeyType.RSA_4096, "rsa-pss-sha384"),
        (KeyType.P_256, None),
        (KeyType.P_384, None),
        (KeyType.P_521, None),
        (KeyType.ED25519, None),
        (KeyType.ML_DSA_44, None),
        (KeyType.ML_DSA_65, None),
        (KeyType.ML_DSA_87, None),
    ],
)
async def test_a_ca_of_this_key(tmp_path: Path, key_type: KeyType, algorithm: str | None) -> None:
    flags = {"keys.store": "file", "issuance.lint_share": "1.0", "slapd.run": "off"}
    settings = load(tmp_path, {}, flags).settings
    name = algorithm or usual_algorithm(key_type).name
    async with running(settings, create=True, serving=False) as instance:
        plan = Plan("other", ISSUER, key_type, "subordinate-ca", "root", algorithm)
        authority = await instance.hierarchy.create(plan)
        record = await authority.issue(
            Application("citizen-authentication", _request("CN=Alice,C=AQ"), "test")
        )
        await instance.hierarchy.responder_key("other", lifetime=settings.ocsp.responder_lifetime)
    # Opened again, it knows its algorithm, has a CRL and a responder.
    async with running(settings, create=False, serving=True) as instance:
        authority = instance.hierarchy.authority("other")
        assert authority.signer.algorithm.name == name
        issuer = authority.issuer
        assert issuer is not None
        await instance.ledger.revoke(
            "other", record.serial, reason=RevocationReason.superseded, by="test"
        )
        await instance.crls.of("other").schedule.caught_up(
            await instance.ledger.status_sequence("other")
        )
        crl = instance.crls.of("other").series.current().read()
        assert instance.statuses is not None
        table = instance.statuses.reader()
        lifetime = settings.ocsp.lifetime
        responder = Responder(instance.delegates, table, instance.clock, lifetime)
        answer = await responder.answer(
            build_request(
                [
                    build_cert_id(
                        HASH_OIDS["sha256"],
                        _digest("sha256", issuer.subject),
                        _digest("sha256", subject_public_key(issuer.public_key_info)),
                        record.serial,
                    )
                ]
            )
        )
        table.close()
    certificate = parse_certificate(record.certificate)
    verify(
        SIGNATURE_ALGORITHMS[name],
        issuer.public_key_info,
        certificate.signature,
        certificate.tbs,
    )
    theirs = x509.load_der_x509_certificate(record.certificate)
    ca = x509.load_der_x509_certificate(issuer.certificate)
    theirs.verify_directly_issued_by(ca)
    loaded = x509.load_der_x509_crl(crl)
    assert loaded.is_signature_valid(ca.public_key())  # type: ignore[arg-type]
    assert loaded.get_revoked_certificate_by_serial_number(record.serial) is not None
    said = x509_ocsp.load_der_ocsp_response(answer.body)
    assert said.certificate_status is x509_ocsp.OCSPCertStatus.REVOKED
    if key_type.family.value != "ml-dsa":  # OpenSSL knows ML-DSA from 3.5 on
        _openssl(tmp_path, record.certificate, issuer.certificate, issuer.chain[0])


def _openssl(folder: Path, certificate: bytes, issuer: bytes, root: bytes) -> None:
    for name, der in (("leaf", certificate), ("issuer", issuer), ("root", root)):
        pem = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        (folder / f"{name}.pem").write_bytes(pem)
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", folder / "root.pem",
         "-untrusted", folder / "issuer.pem", folder / "leaf.pem"],
        capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert b"OK" in done.stdout, done.stderr


def _request(subject: str) -> bytes:
    key = Throwaway.of(KeyType.P_256, usual_algorithm(KeyType.P_256))
    info = build_request_info(parse_rfc4514(subject).der, key.public_key_info, ())
    return assemble_request(info, key.algorithm, key.sign(info))


def _digest(name: str, data: bytes) -> bytes:
    return hashlib.new(name, data).digest()
