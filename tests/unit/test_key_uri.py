"""Key URIs: RFC 7512 by its own examples, the file scheme, and what is refused."""

from __future__ import annotations

import pytest

from infra.errors import Rejected
from pki.signer.uri import MAX_URI, FileUri, Pkcs11Uri, check_label, parse

EXAMPLES = {  # RFC 7512 §3, but for pin-value and vendor attributes
    "pkcs11:": Pkcs11Uri(),
    "pkcs11:object=my-pubkey;type=public": Pkcs11Uri(object="my-pubkey", type="public"),
    "pkcs11:object=my-key;type=private?pin-source=file:/etc/token": Pkcs11Uri(
        object="my-key", type="private", pin_source="file:/etc/token"
    ),
    "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;"
    "model=1.0;object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=?"
    "pin-source=file:/etc/token_pin": Pkcs11Uri(
        token="The Software PKCS#11 Softtoken",
        manufacturer="Snake Oil, Inc.",
        model="1.0",
        serial="",
        object="my-certificate",
        type="cert",
        id=bytes.fromhex("69953e5cf4bdec91"),
        pin_source="file:/etc/token_pin",
    ),
    "pkcs11:object=my-sign-key;type=private?module-name=mypkcs11": Pkcs11Uri(
        object="my-sign-key", type="private", module_name="mypkcs11"
    ),
    "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1": Pkcs11Uri(
        object="my-sign-key", type="private", module_path="/mnt/libmypkcs11.so.1"
    ),
    "pkcs11:slot-description=Sun%20Metaslot": Pkcs11Uri(slot_description="Sun Metaslot"),
    "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;"
    "library-version=1.23": Pkcs11Uri(
        library_manufacturer="Snake Oil, Inc.",
        library_description="Soft Token Library",
        library_version="1.23",
    ),
    "pkcs11:slot-id=327;slot-manufacturer=x": Pkcs11Uri(slot_id=327, slot_manufacturer="x"),
    "pkcs11:token=%C4%8Cesko": Pkcs11Uri(token="Česko"),
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples(text: str) -> None:
    assert parse(text) == EXAMPLES[text]
    assert parse(str(EXAMPLES[text])) == EXAMPLES[text]


def test_one_text_for_one_key() -> None:
    """The order of attributes and needless percent-encoding do not matter (RFC 7512 §2.6)."""
    one = parse("pkcs11:id=%01%02;object=%6bey;token=T")
    two = parse("PKCS11:token=T;object=key;id=%01%02")
    assert str(one) == str(two) == "pkcs11:token=T;object=key;id=%01%02"


def test_what_divides_a_uri_is_encoded_in_a_value() -> None:
    name = Pkcs11Uri(object="a;b?c/d%e=f&g#h", module_path="/a;b&c?d#e", id=b"\0;?")
    assert parse(str(name)) == name


def test_file_uris() -> None:
    assert parse("file:issuing-2026") == FileUri("issuing-2026")
    assert parse("file:/var/keys/root.pem") == FileUri("/var/keys/root.pem")
    assert parse("file:///var/keys/root.pem") == FileUri("/var/keys/root.pem")
    assert str(parse("file:/var/my%20keys/%C3%A9.pem")) == "file:/var/my%20keys/%C3%A9.pem"
    assert not FileUri("issuing").is_path
    assert FileUri("/issuing").is_path


def test_a_pin_in_a_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(Rejected, match="pin-in-uri") as caught:
        parse("pkcs11:object=x?pin-value=1234-secret")
    assert "1234" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "issuing",
        "http://example.org/",
        "pkcs11",
        "pkcs11:object",
        "pkcs11:object=a;object=b",
        "pkcs11:object=a;",
        "pkcs11:;",
        "pkcs11:object=a?",
        "pkcs11:?module-path=/a&module-path=/b",
        "pkcs11:?module-path=",
        "pkcs11:?pin-source=",
        "pkcs11:module-path=/a",
        "pkcs11:?object=a",
        "pkcs11:x-vendor=1",
        "pkcs11:unknown=1",
        "pkcs11:slot_id=1",
        "pkcs11:Object=a",
        "pkcs11:object=a b",
        "pkcs11:object=a/b",
        "pkcs11:object=%",
        "pkcs11:object=%4",
        "pkcs11:object=%zz",
        "pkcs11:object=%FF",
        "pkcs11:object=é",
        "pkcs11:object=a#b",
        "pkcs11:id=",
        "pkcs11:type=secret",
        "pkcs11:slot-id=",
        "pkcs11:slot-id=-1",
        "pkcs11:slot-id=٣",
        "pkcs11:slot-id=1e3",
        "pkcs11:library-version=1.2.3",
        "pkcs11:library-version=x",
        "file:",
        "file:a/b",
        "file:../a",
        "file:/a/../b",
        "file://host/a",
        "file:////a",
        "file:/a%00b",
        "file:a b",
        "file:.hidden",
        "file:" + "a" * 65,
        "pkcs11:object=" + "a" * MAX_URI,
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(Rejected, match="bad-key-uri"):
        parse(text)


def test_labels() -> None:
    assert check_label("issuing-2026.a_b") == "issuing-2026.a_b"
    for label in ("", "-a", ".a", "a b", "a\n", "é", "a" * 65):
        with pytest.raises(Rejected, match="bad-key-label"):
            check_label(label)
