"""What ceremonies make, as others see it: OpenSSL, GnuTLS and pkilint, before, during and after a
rollover; and every ceremony that is shipped, held one after the other on SoftHSM."""

from __future__ import annotations

import datetime
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pki.ceremony import seal as seals
from pki.ceremony.replay import Replay
from pki.ceremony.verify import verify_transcript
from pki.findings import Severity
from pki.lint import lint_certificate, lint_crl
from pki.signer.softhsm import find_module
from tests.unit.ceremony_fixtures import hold, shipped, transcript

pytestmark = pytest.mark.skipif(find_module() is None, reason="apt-get install softhsm2")


class Story:
    """A home folder in which one ceremony follows the other, and what came of them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.told: Replay | None = None
        self.names: list[str] = []
        self.keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in
                     ("issuing", "root-ocsp", "log", "neighbour")}  # fmt: skip

    def hold(self, name: str, *, kind: str | None = None, inputs: dict[str, bytes] | None = None,
             share_set: str = "", **changes: str) -> Replay:  # fmt: skip
        incoming = {}
        for called, content in (inputs or {}).items():
            medium = self.home / "in" / name / called
            medium.mkdir(parents=True)
            (medium / f"{called}.der").write_bytes(content)
            incoming[called] = medium
        script = shipped(kind or name, **changes)
        self.told, _ = hold(self.home, name, script, incoming=incoming, share_set=share_set)
        self.names.append(name)
        return self.told

    def request(self, name: str, subject: str) -> bytes:
        builder = x509.CertificateSigningRequestBuilder(x509.Name.from_rfc4514_string(subject))
        return builder.sign(self.keys[name], hashes.SHA256()).public_bytes(Encoding.DER)

    def file(self, name: str) -> Path:
        """The newest of this name that a ceremony gave out."""
        found = list(self.home.glob(f"ceremonies/*/out/{name}"))
        return max(found, key=lambda path: path.stat().st_mtime)

    def certificate(self, name: str) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.file(f"{name}.cer").read_bytes())


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Every ceremony in the life of a root."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seals, "_MEMORY", 64)
        patch.setattr(seals, "_PASSES", 1)
        story = Story(tmp_path_factory.mktemp("home"))
        story.hold("root-creation")
        request = story.request("issuing", "CN=Issuing CA,O=Registry,C=AQ")
        story.hold("subordinate-ca", inputs={"issuing": request})
        story.hold(
            "service-certificates",
            inputs={
                "root-ocsp": story.request("root-ocsp", "CN=Root OCSP,O=Registry,C=AQ"),
                "log": story.request("log", "CN=Log,O=Registry,C=AQ"),
            },
        )
        story.hold("cross-certificate", inputs={"neighbour": neighbour(story)})
        story.hold("rollover")
        yield story


def neighbour(story: Story) -> bytes:
    """Another hierarchy's root, made by another program."""
    key, name = story.keys["neighbour"], x509.Name.from_rfc4514_string("CN=Other,O=Else,C=AQ")
    start = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    builder = (
        x509.CertificateBuilder(
            name, name, key.public_key(), 7, start, start + datetime.timedelta(days=3650)
        )
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def leaf(story: Story) -> x509.Certificate:
    """A certificate by the issuing CA, which is online and has its own key."""
    issuer = story.certificate("issuing")
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    start = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    builder = (
        x509.CertificateBuilder(
            issuer.subject,
            x509.Name.from_rfc4514_string("CN=leaf"),
            key,
            9,
            start,
            start + datetime.timedelta(days=30),
        )
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()),  # type: ignore[arg-type]
            False,
        )
    )
    return builder.sign(story.keys["issuing"], hashes.SHA256())


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def openssl_accepts(tmp_path: Path, story: Story, anchor: str, *between: str) -> bool:
    files = {
        "anchor.pem": pem(story.certificate(anchor)),
        "between.pem": pem(*(story.certificate(name) for name in between)),
        "leaf.pem": pem(leaf(story)),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(tmp_path / "anchor.pem"),
               "-untrusted", str(tmp_path / "between.pem"), str(tmp_path / "leaf.pem")]  # fmt: skip
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def gnutls_accepts(tmp_path: Path, story: Story, anchor: str, *between: str) -> bool:
    (tmp_path / "chain").write_bytes(pem(leaf(story), *map(story.certificate, between)))
    (tmp_path / "anchor").write_bytes(pem(story.certificate(anchor)))
    command = ["certtool", "--verify", "--load-ca-certificate", str(tmp_path / "anchor"),
               "--infile", str(tmp_path / "chain")]  # fmt: skip
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


PATHS = {
    "before: the old root": ("root", "issuing"),
    "during: who trusts the new root only": ("root-2", "issuing", "old-with-new"),
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_openssl_accepts(story: Story, tmp_path: Path, path: tuple[str, ...]) -> None:
    assert openssl_accepts(tmp_path, story, *path)


def test_openssl_finds_no_path_without_the_link(story: Story, tmp_path: Path) -> None:
    assert not openssl_accepts(tmp_path, story, "root-2", "issuing")


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_gnutls_accepts(story: Story, tmp_path: Path, path: tuple[str, ...]) -> None:
    if shutil.which("certtool") is None:
        pytest.skip("install with apt-get: gnutls-bin")
    assert gnutls_accepts(tmp_path, story, *path)


def test_after_the_rollover_who_trusts_the_old_root_finds_what_the_new_one_issues(
    story: Story, tmp_path: Path
) -> None:
    new, link, old = (story.certificate(n) for n in ("root-2", "new-with-old", "root"))
    assert link.public_key() == new.public_key()
    assert link.subject == new.subject == link.issuer == old.subject
    for name, content in (("a", pem(old)), ("b", pem(link))):
        (tmp_path / name).write_bytes(content)
    command = ["openssl", "verify", "-x509_strict", "-CAfile", tmp_path / "a", tmp_path / "b"]
    subprocess.run(command, check=True, capture_output=True)


def test_links_end_where_rfc_4210_wants_them_to(story: Story) -> None:
    old, with_new = story.certificate("root"), story.certificate("old-with-new")
    assert with_new.public_key() == old.public_key()
    assert with_new.not_valid_after_utc == old.not_valid_after_utc  # §4.4.1
    assert story.certificate("new-with-old").not_valid_after_utc <= old.not_valid_after_utc


NAMES = ("issuing", "root-ocsp", "log", "neighbour", "new-with-old", "old-with-new",
         "root", "root-2")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_pkilint_finds_no_error_in_certificates(story: Story, name: str) -> None:
    findings = lint_certificate(story.certificate(name).public_bytes(Encoding.DER))
    assert [each for each in findings if each.severity is Severity.ERROR] == []


@pytest.mark.parametrize("name", ["root", "root-2"])
def test_crls_are_good_for_pkilint_and_openssl(story: Story, name: str, tmp_path: Path) -> None:
    crl = story.file(f"{name}.crl")
    findings = lint_crl(crl.read_bytes())
    assert [each for each in findings if each.severity is Severity.ERROR] == []
    (tmp_path / "ca").write_bytes(pem(story.certificate(name)))
    command = ["openssl", "crl", "-inform", "DER", "-in", crl, "-CAfile", tmp_path / "ca", "-noout"]
    assert b"verify OK" in subprocess.run(command, check=True, capture_output=True).stderr


def test_each_transcript_verifies_and_follows_the_one_before(story: Story) -> None:
    before: bytes | None = None
    for name in story.names:
        data = transcript(story.home, name).read_bytes()
        verdict = verify_transcript(data, before=before)
        assert verdict.good, (name, verdict.wrong)
        if before is not None:
            other = verify_transcript(data, before=data)
            assert [found.code for found in other.wrong] == ["wrong-before"]
        before = data


def test_custodians_change_then_the_key_is_restored_revokes_and_is_destroyed(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "_MEMORY", 64)
    monkeypatch.setattr(seals, "_PASSES", 1)
    old_set = next(iter(transcript_sets(story)))
    story.hold("custodians-change")
    (new_set,) = transcript_sets(story) - {old_set}
    told = story.hold("key-restore", share_set=new_set)
    assert set(told.state.kept.keys["root"].tokens) == {"root", "root-spare"}
    told = story.hold("compromise", share_set=new_set)
    crl = x509.load_der_x509_crl(story.file("root.crl").read_bytes())
    entry = crl.get_revoked_certificate_by_serial_number(story.certificate("issuing").serial_number)
    assert entry is not None
    reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    assert reason is x509.ReasonFlags.ca_compromise
    told = story.hold("destruction", share_set=new_set)
    assert told.state.kept.keys["root"].tokens == ("root-spare",)
    for name in story.names[-4:]:
        assert verify_transcript(transcript(story.home, name).read_bytes()).good


def transcript_sets(story: Story) -> set[str]:
    return {path.name.split("-")[-2] for path in story.home.glob("sticks/*/root-*.share")}
