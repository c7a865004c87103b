"""Checks a log proof, with nothing of ours: ``verifier.py PROOF.json --log-key log.pem``.

It stands alone on purpose: copy it, read it, run it wherever Python and ``cryptography`` are. The
leaf must speak of the certificate, be in the tree, and the log's key must have signed the tree
(RFC 9162 §2.1.3.2, C2SP tlog-checkpoint). Exit status: 0 proven, 1 not proven, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import base64
import json
import ssl
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

LIMIT = 1_000_000  # octets of any file


class NotProvenError(Exception):
    """Why the proof does not hold."""


def decoded(text: Any, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError):
        raise NotProvenError(f"{what} is not base64") from None


def parsed(data: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(data))
    except (ValueError, TypeError, RecursionError):
        raise NotProvenError("the proof or its leaf is not a JSON object") from None


def member(proof: dict[str, Any], name: str, kind: type) -> Any:
    value = proof.get(name)
    if type(value) is not kind:
        raise NotProvenError(f"the proof has no {name}, or it is not a {kind.__name__}")
    return value


def tree_root(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """The root that the inclusion path leads to (RFC 9162 §2.1.3.2)."""
    fn, sn, root = index, size - 1, sha256(b"\0" + leaf).digest()
    if not 0 <= fn <= sn or len(path) > 64:
        raise NotProvenError("the leaf is not within the tree")
    for sibling in path:
        if sn == 0:
            raise NotProvenError("the inclusion path is too long")
        if fn & 1 or fn == sn:
            root = sha256(b"\1" + sibling + root).digest()
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            root = sha256(b"\1" + root + sibling).digest()
        fn, sn = fn >> 1, sn >> 1
    if sn:
        raise NotProvenError("the inclusion path is too short")
    return root


def check_signature(text: bytes, lines: bytes, origin: str, pem: bytes) -> None:
    """That one signature line of the note is by this key under the name of the log."""
    try:
        key = serialization.load_pem_public_key(pem)
    except Exception:
        raise NotProvenError("the log key is not a public key in PEM") from None
    scheme: tuple[Any, ...] = ()
    if isinstance(key, ed25519.Ed25519PublicKey):
        key_id = sha256(origin.encode() + b"\n\x01" + key.public_bytes_raw()).digest()[:4]
    elif isinstance(key, ec.EllipticCurvePublicKey):
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        key_id = sha256(key.public_bytes(serialization.Encoding.DER, form)).digest()[:4]
        scheme = (ec.ECDSA(hashes.SHA256()),)
    else:
        raise NotProvenError("the log key is neither Ed25519 nor ECDSA")
    start = f"\N{EM DASH} {origin} ".encode()
    found = [line[len(start) :] for line in lines.split(b"\n") if line.startswith(start)]
    blobs = [decoded(line, "a signature") for line in found]
    for signature in (blob[4:] for blob in blobs if blob[:4] == key_id):
        try:
            return key.verify(signature, text, *scheme)
        except InvalidSignature:
            raise NotProvenError("the signature of the checkpoint is wrong") from None
    raise NotProvenError("the checkpoint is not signed by this log key")


def verify(proof_json: bytes, log_key: bytes, certificate: bytes | None = None) -> dict[str, Any]:
    """What the proof shows. Raises NotProvenError, and nothing else, when it shows nothing."""
    if len(proof_json) > LIMIT:
        raise NotProvenError(f"the proof is longer than {LIMIT} octets")
    proof = parsed(proof_json)
    if member(proof, "format", str) != "digitalid-log-proof/1":
        raise NotProvenError("the proof is of another format; get a newer verifier")
    der = decoded(member(proof, "certificate", str), "the certificate")
    if certificate is not None and certificate != der:
        raise NotProvenError("the proof is about another certificate")
    names = ("leaf", "checkpoint", "origin")
    leaf, note, origin = (member(proof, name, str).encode(errors="replace") for name in names)
    act = parsed(leaf)
    if member(act, "object_hash", str) != sha256(der).hexdigest():
        raise NotProvenError("the leaf is about another certificate")
    text, _, lines = note.rpartition(b"\n\n")
    head = text.split(b"\n")
    index, size = member(proof, "index", int), member(proof, "size", int)
    if len(head) < 3 or head[:2] != [origin, b"%d" % size]:
        raise NotProvenError("the checkpoint is of another log or size than the proof says")
    check_signature(text + b"\n", lines, origin.decode(), log_key)
    path = [decoded(hash_, "the path") for hash_ in member(proof, "path", list)]
    if tree_root(leaf, index, size, path) != decoded(head[2], "the root"):
        raise NotProvenError("the inclusion path does not lead to the root of the checkpoint")
    return {
        "log": origin.decode(),
        "size": size,
        "index": index,
        "act": act,
        "sha256": sha256(der).hexdigest(),
    }


def read(path: Path) -> bytes:
    data = path.read_bytes() if path.stat().st_size <= LIMIT else b""
    if not data:
        raise NotProvenError(f"{path} is empty, or longer than {LIMIT} octets")
    return data


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check that a certificate is in the log.")
    parser.add_argument("proof", type=Path, help="the proof, JSON")
    parser.add_argument("--log-key", type=Path, required=True, help="the log's public key, PEM")
    parser.add_argument("--certificate", type=Path, help="the certificate it must be about, PEM")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    args = parser.parse_args(arguments)
    try:
        pem = read(args.certificate).decode() if args.certificate else None
        der = ssl.PEM_cert_to_DER_cert(pem) if pem else None
        found = verify(read(args.proof), read(args.log_key), der)
    except (NotProvenError, OSError, ValueError) as why:
        print(json.dumps({"proven": False, "why": str(why)}) if args.json else f"NOT PROVEN: {why}")
        return 1
    what, who, when = (ascii(found["act"].get(name)) for name in ("what", "who", "when"))
    text = f"""PROVEN: the certificate with SHA-256 {found["sha256"]}
  is the object of {what} by {who} at {when}, leaf {found["index"]}
  of the {found["size"]} that {found["log"]!a} has signed."""
    print(json.dumps({"proven": True, **found}) if args.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
