"""The life of a root at a real terminal, on SoftHSM, with three of five custodians: root,
issuing CA, CRL, rollover. What is made is served, and judged by openssl before, during, after."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import pytest

from pki.signer.softhsm import find_module
from tests.journeys.ceremony_terminal import Terminal
from tests.journeys.product import Product, require, run
from tests.unit.ceremony_fixtures import Cast, shipped

pytestmark = pytest.mark.skipif(find_module() is None, reason="apt-get install softhsm2")

URL = "http://pki.example.org"


class Vault:
    """The offline machine: each ceremony at a terminal of its own, which three others of the five
    custodians open."""

    def __init__(self, home: Path, public_url: str) -> None:
        self.home = home
        self.public_url = public_url
        self.held: list[Path] = []

    def hold(
        self,
        kind: str,
        *opening: int,
        name: str = "",
        changes: Mapping[str, str] = MappingProxyType({}),
        **incoming: Path,
    ) -> Path:
        """Hold the shipped ceremony of this kind; the medium that takes its files."""
        name = name or kind
        script = self.home / f"{name}.toml"
        script.write_text(shipped(kind, **{URL: self.public_url}, **changes))
        medium = self.home / "media" / name
        medium.mkdir(parents=True)
        cast = Cast(self.home / "ceremonies" / name, medium, opening, incoming)
        terminal = Terminal(["--home", self.home, "ceremony", "run", script, "--name", name])
        try:
            terminal.play(cast.answer)
        finally:
            terminal.close()
        assert terminal.code == 0, terminal.screen[-2000:]
        self.held.append(cast.folder / "transcript.jsonl")
        return medium


@pytest.fixture
def online(tmp_path: Path) -> Iterator[Product]:
    require("openssl", "curl")
    product = Product(tmp_path / "online", keys="file", crl={"offline": "root"})
    yield product
    if product.process is not None:
        product.stop()


def pem(der: Path) -> Path:
    """The same certificate or CRL for openssl."""
    out = der.with_name(f"{der.name}.pem")
    run("openssl", "crl" if der.suffix == ".crl" else "x509", "-in", der, "-out", out)
    return out


def judged(anchor: Path, leaf: Path, *more: str | Path) -> bool:
    """Whether openssl finds a path from one certificate to the other."""
    said = run("openssl", "verify", "-x509_strict", "-CAfile", anchor, *more, leaf, ok=False)
    return said.strip().endswith(b": OK")


def test_a_root_from_its_creation_to_its_successor(tmp_path: Path, online: Product) -> None:
    offline = tmp_path / "offline"
    offline.mkdir()
    vault = Vault(offline, online.validation)
    created = vault.hold("root-creation", 1, 3, 5)

    asked = tmp_path / "request"
    asked.mkdir()
    subject = "CN=Issuing CA,O=Registry,C=AQ"
    online.json("ceremony", "request", "issuing", "--subject", subject, "--out", asked)
    certified = vault.hold("subordinate-ca", 5, 4, 3, issuing=asked) / "issuing.cer"
    fingerprint = hashlib.sha256(certified.read_bytes()).hexdigest()
    chain = ("--chain", created / "root.cer", "--sha256", fingerprint)
    online.json("ceremony", "import", "issuing", certified, *chain)
    online.start()
    assert online.get("/health")[1]["crl_awaited"] == {"root": "no-crl-yet"}

    # The root's lists are published where its certificates say.
    online.json("crl", "import", created / "root.crl")
    second = vault.hold("root-crl", 2, 3, 4) / "root.crl"
    taken = online.json("crl", "import", second)["crl"]
    assert (taken["ca"], taken["entries"]) == ("root", 0)
    online.refused("crl", "import", created / "root.crl", code="crl-out-of-date", says="newer")
    assert online.get("/health")[1]["crl_awaited"] == {}
    served = {name: tmp_path / name for name in ("root.crl", "issuing.crl", "root.cer")}
    for name, path in served.items():
        folder = "crl" if path.suffix == ".crl" else "aia"
        run("curl", "-fsS", "-o", path, f"{online.validation}/{folder}/{name}")
    assert served["root.crl"].read_bytes() == second.read_bytes()
    assert served["root.cer"].read_bytes() == (created / "root.cer").read_bytes()

    person = online.issue("person", "/C=AQ/CN=Person", "citizen-authentication")
    root, issuing = pem(served["root.cer"]), pem(certified)
    lists = [word for name in ("root.crl", "issuing.crl")
             for word in ("-CRLfile", pem(served[name]))]  # fmt: skip
    below = ("-untrusted", issuing)
    assert judged(root, person, "-crl_check_all", *below, *lists)

    rolled = vault.hold("rollover", 1, 2, 5)
    new, with_old, with_new = (
        pem(rolled / f"{name}.cer") for name in ("root-2", "new-with-old", "old-with-new")
    )
    # During: each reaches what the other key has signed, by the link and not without it.
    last = ["-CRLfile", pem(rolled / "root.crl"), "-CRLfile", pem(served["issuing.crl"]),
            "-CRLfile", pem(rolled / "root-2.crl")]  # fmt: skip
    assert judged(root, person, "-crl_check_all", *below, *last)
    assert not judged(new, person, *below)
    assert judged(new, person, "-crl_check_all", *below, "-untrusted", with_new, *last)
    assert judged(root, with_old)

    # After: a CA below the new root, for who trusts either of the two.
    asked = tmp_path / "request-2"
    asked.mkdir()
    subject = "CN=Issuing CA 2,O=Registry,C=AQ"
    online.json("ceremony", "request", "issuing-2", "--subject", subject, "--out", asked)
    last_one = vault.hold(
        "subordinate-ca", 3, 1, 4, name="issuing-2", changes={'"root"\ninp': '"root-2"\ninp',
        '"issuing': '"issuing-2'}, **{"issuing-2": asked},
    ) / "issuing-2.cer"  # fmt: skip
    fingerprint = hashlib.sha256(last_one.read_bytes()).hexdigest()
    chain = ("--chain", rolled / "root-2.cer", "--sha256", fingerprint)
    online.json("ceremony", "import", "issuing-2", last_one, *chain)
    assert online.stop() == 0
    settings = online.home / "digitalid.toml"
    settings.write_text(settings.read_text().replace('"root"', '"root root-2"'))
    online.start()
    for name in ("root", "root-2"):
        online.json("crl", "import", rolled / f"{name}.crl")
    assert online.get("/health")[1]["crl_awaited"] == {}
    lists = []
    for name in ("root", "root-2", "issuing-2"):
        path = tmp_path / f"last-{name}.crl"
        run("curl", "-fsS", "-o", path, f"{online.validation}/crl/{name}.crl")
        lists += ["-CRLfile", pem(path)]
    member = online.home / "member.pem"
    request = online.request("member", "/C=AQ/CN=Member")
    online.cli("cert", "issue", "--ca", "issuing-2", "--profile", "citizen-authentication",
               "--csr", request, "--out", member)  # fmt: skip
    below = ("-untrusted", pem(last_one))
    assert judged(new, member, "-crl_check_all", *below, *lists)
    assert not judged(root, member, *below)
    assert judged(root, member, "-crl_check_all", *below, "-untrusted", with_old, *lists)

    # Each transcript holds by itself, follows the one before, and is recorded in the log.
    for before, held in pairwise([None, *vault.held]):
        after = [] if before is None else ["--before", before]
        assert held is not None
        assert online.json("ceremony", "verify", held, *after)["good"] is True
        online.json("ceremony", "record", held)
    assert online.json("log", "verify")["ok"] is True
