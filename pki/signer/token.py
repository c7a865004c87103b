"""A PKCS#11 token with its user logged in, synchronously, through python-pkcs11."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pkcs11
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import MGF, Attribute, Mechanism, MechanismFlag, ObjectClass, TokenFlag
from pkcs11 import KeyType as TokenKeyType

from infra.errors import Rejected
from pki import der
from pki.algorithms import (
    Family,
    KeyType,
    SignatureAlgorithm,
    algorithm_for,
    digest_info,
    key_type_of,
    public_key_info_of,
    verify,
)
from pki.signer.cryptoki import failure, find_token, load, pin_locked
from pki.signer.port import CHECK_MESSAGE
from pki.signer.uri import Pkcs11Uri, check_label

Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A private key that has been checked; ``template`` finds it again in another session."""

    template: Mapping[Attribute, Any]
    public_key_info: bytes
    algorithm: SignatureAlgorithm
    always_authenticate: bool


class Token:
    """A token with its user logged in.

    ``threads``: whether several sessions may be used at the same time.
    """

    def __init__(self, module: str, wanted: Pkcs11Uri, pin: bytes) -> None:
        """Find the token that ``wanted`` names and log in, once.

        Errors: ``wrong-pin``, ``pin-locked``, ``pin-final-try``, ``pin-expired``, ``pin-not-set``,
        ``token-ambiguous``; ``Unavailable("token-unavailable")``.
        """
        self._library, self.threads = load(module)
        self._token = find_token(self._library, wanted)
        self._pin = _pin_text(pin)
        flags = self._token.flags
        if flags & TokenFlag.USER_PIN_LOCKED:
            raise pin_locked()
        if flags & TokenFlag.USER_PIN_FINAL_TRY:
            raise Rejected(
                "pin-final-try",
                "one more wrong PIN locks the token, so it is left alone; log in with the "
                "vendor's tool first, then start again",
            )
        # An application is logged in as a whole (PKCS#11 §5.6): the sessions opened later are too.
        self.session = self._open(user_pin=self._pin, rw=not flags & TokenFlag.WRITE_PROTECTED)
        self._mechanisms = self._token.slot.get_mechanisms()

    @property
    def label(self) -> str:
        return str(self._token.label)

    def new_session(self) -> Any:
        """One more session, for a thread of its own. Errors: ``Unavailable``."""
        return self._open()

    def _open(self, **login: Any) -> Any:
        try:
            return self._token.open(**login)
        except pkcs11.PKCS11Error as error:
            raise failure(error, "opening a session") from error

    def generate(self, label: str, key_type: KeyType, *, extractable: bool = False) -> Pkcs11Uri:
        """Make a key pair whose private half never leaves the token.

        ``extractable``: it can be wrapped, until that is taken away; none such is opened. Errors:
        ``key-exists``, ``bad-key-label``, ``mechanism-missing``.
        """
        check_label(label)
        try:
            for object_class in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
                if self._objects({Attribute.CLASS: object_class, Attribute.LABEL: label}):
                    raise Rejected(
                        "key-exists", f"the token has a key {label}; keys are never overwritten"
                    )
            identifier = os.urandom(20)
            _generate(
                self.session, key_type, label, identifier, self._mechanisms, extractable=extractable
            )
        except pkcs11.PKCS11Error as error:
            raise failure(error, f"making a key of type {key_type}") from error
        return Pkcs11Uri(token=self.label, object=label, type="private", id=identifier)

    def open_key(self, wanted: Pkcs11Uri, algorithm: SignatureAlgorithm | None) -> TokenKey:
        """The one private key that ``wanted`` names, proved by a signature.

        Errors: ``no-such-key``, ``key-ambiguous``, ``key-extractable``, ``no-public-key``,
        ``key-mismatch``, ``key-type``, ``mechanism-missing``.
        """
        try:
            key = self._private_key(wanted)
            identifier = bytes(key[Attribute.ID])
            public_key_info = self._public_key_info(key, identifier)
            chosen = algorithm_for(key_type_of(public_key_info), algorithm)
            if _mechanism(chosen) not in self._mechanisms:
                raise Rejected("mechanism-missing", f"the token has no {chosen.mechanism}")
            opened = TokenKey(
                {
                    Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                    Attribute.ID: identifier,
                    Attribute.LABEL: key[Attribute.LABEL],
                },
                public_key_info,
                chosen,
                _flag(key, Attribute.ALWAYS_AUTHENTICATE) is True,
            )
            signature = self.signing(self.session, opened)(chosen.prepare(CHECK_MESSAGE))
        except pkcs11.PKCS11Error as error:
            raise failure(error, "opening a key") from error
        try:
            verify(chosen, public_key_info, signature, CHECK_MESSAGE)
        except Rejected as error:
            raise Rejected(
                "key-mismatch", "the public key on the token is not that of the private key"
            ) from error
        return opened

    def find_key(self, wanted: Pkcs11Uri) -> bytes:
        """The SubjectPublicKeyInfo of the private key that ``wanted`` names, which signs nothing.

        Errors: as ``open_key``; ``Unavailable("token-unavailable")``.
        """
        try:
            self._token.slot.get_token()  # C_GetTokenInfo: SoftHSM finds no objects when it is away
            key = self._private_key(wanted)
            return self._public_key_info(key, bytes(key[Attribute.ID]))
        except pkcs11.PKCS11Error as error:
            raise failure(error, "looking for a key") from error

    def signing(self, session: Any, opened: TokenKey) -> Sign:
        """A function that signs in ``session`` what ``SignatureAlgorithm.prepare`` gave.

        It raises ``pkcs11.PKCS11Error``.
        """
        found = list(session.get_objects(dict(opened.template)))
        if len(found) != 1:
            raise pkcs11.KeyHandleInvalid("the key is not there any more")
        sign = found[0].sign
        algorithm = opened.algorithm
        options: dict[str, Any] = {"mechanism": _mechanism(algorithm)}
        if opened.always_authenticate:
            options["pin"] = self._pin
        if algorithm.mechanism == "CKM_RSA_PKCS_PSS":
            options["mechanism_param"] = _PSS_PARAMETERS[str(algorithm.hash_name)]
        if algorithm.family is Family.EC:
            return lambda digest: _ecdsa_value(sign(digest, **options))
        if algorithm.mechanism == "CKM_RSA_PKCS":
            prefix = digest_info(str(algorithm.hash_name))
            return lambda digest: bytes(sign(prefix + digest, **options))
        return lambda data: bytes(sign(data, **options))

    def _private_key(self, wanted: Pkcs11Uri) -> Any:
        if wanted.type not in (None, "private"):
            raise Rejected("bad-key-uri", "a key that signs is of type=private")
        template: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
        if wanted.object is not None:
            template[Attribute.LABEL] = wanted.object
        if wanted.id is not None:
            template[Attribute.ID] = wanted.id
        found = self._objects(template)
        if not found:
            raise Rejected("no-such-key", f"the token {self.label} has no private key {wanted}")
        if len(found) > 1:
            raise Rejected("key-ambiguous", f"{wanted} names {len(found)} private keys; add its id")
        key = found[0]
        sensitive = _flag(key, Attribute.SENSITIVE)
        if sensitive is not True or _flag(key, Attribute.EXTRACTABLE) is not False:
            raise Rejected(
                "key-extractable",
                f"{wanted} can be read out of the token; make a key there that cannot, with "
                "CKA_SENSITIVE true and CKA_EXTRACTABLE false",
            )
        return key

    def _public_key_info(self, key: Any, identifier: bytes) -> bytes:
        """From the public key object of the same CKA_ID, else from a certificate's."""
        for object_class in (ObjectClass.PUBLIC_KEY, ObjectClass.CERTIFICATE):
            template = {Attribute.CLASS: object_class, Attribute.ID: identifier}
            if not identifier:
                template[Attribute.LABEL] = key[Attribute.LABEL]
            for found in self._objects(template):
                if object_class is ObjectClass.CERTIFICATE:
                    return _of_certificate(bytes(found[Attribute.VALUE]))
                return _of_public_key(found)
        raise Rejected(
            "no-public-key",
            "the token has neither a public key nor a certificate with the CKA_ID of this key",
        )

    def _objects(self, template: Mapping[Attribute, Any]) -> list[Any]:
        return list(self.session.get_objects(dict(template)))

    def close(self) -> None:
        """Log out and let go of the module."""
        self._library.finalize()


def _pin_text(pin: bytes) -> str:
    try:
        return pin.decode()
    except UnicodeDecodeError as error:
        raise Rejected("wrong-pin", "a PIN is text in UTF-8 (PKCS#11 §5.6)") from error


def _flag(key: Any, attribute: Attribute) -> bool | None:
    try:
        return bool(key[attribute])
    except (pkcs11.AttributeTypeInvalid, pkcs11.AttributeSensitive):
        return None


_CURVES: Final = {
    KeyType.P_256: "1.2.840.10045.3.1.7",
    KeyType.P_384: "1.3.132.0.34",
    KeyType.P_521: "1.3.132.0.35",
}
_MODULUS_BITS: Final = {KeyType.RSA_2048: 2048, KeyType.RSA_3072: 3072, KeyType.RSA_4096: 4096}
_PARAMETER_SETS: Final = {KeyType.ML_DSA_44: 1, KeyType.ML_DSA_65: 2, KeyType.ML_DSA_87: 3}

_PSS_PARAMETERS: Final = {
    "sha256": (Mechanism.SHA256, MGF.SHA256, 32),
    "sha384": (Mechanism.SHA384, MGF.SHA384, 48),
    "sha512": (Mechanism.SHA512, MGF.SHA512, 64),
}


def _mechanism(algorithm: SignatureAlgorithm) -> Mechanism:
    return Mechanism[algorithm.mechanism.removeprefix("CKM_")]


def _generate(
    session: Any,
    key_type: KeyType,
    label: str,
    identifier: bytes,
    mechanisms: set[Mechanism],
    *,
    extractable: bool,
) -> None:
    common: dict[str, Any] = {
        "store": True,
        "label": label,
        "id": identifier,
        "capabilities": MechanismFlag.SIGN | MechanismFlag.VERIFY,
    }
    private = {
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: extractable,
    }
    needed, kind, public = _generation(key_type)
    if needed not in mechanisms:
        raise Rejected("mechanism-missing", f"the token has no CKM_{needed.name}")
    common |= {"mechanism": needed, "private_template": private}
    if Attribute.EC_PARAMS in public:
        session.create_domain_parameters(kind, public, local=True).generate_keypair(**common)
    else:
        session.generate_keypair(
            kind, _MODULUS_BITS.get(key_type), public_template=public, **common
        )


def _generation(key_type: KeyType) -> tuple[Mechanism, TokenKeyType, dict[Attribute, Any]]:
    """Mechanism, CKA_KEY_TYPE and what the public template adds."""
    match key_type.family:
        case Family.RSA:
            return Mechanism.RSA_PKCS_KEY_PAIR_GEN, TokenKeyType.RSA, {}
        case Family.EC:
            curve = der.object_identifier(_CURVES[key_type])
            return Mechanism.EC_KEY_PAIR_GEN, TokenKeyType.EC, {Attribute.EC_PARAMS: curve}
        case Family.ED25519:
            # PKCS#11 3.0 §6.3.1 takes the name or the OID; SoftHSM 2.6 takes the name.
            curve = der.printable_string("edwards25519")
            return (
                Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
                TokenKeyType.EC_EDWARDS,
                {Attribute.EC_PARAMS: curve},
            )
        case Family.ML_DSA:
            return (
                Mechanism.ML_DSA_KEY_PAIR_GEN,
                TokenKeyType.ML_DSA,
                {Attribute.PARAMETER_SET: _PARAMETER_SETS[key_type]},
            )


def _of_certificate(certificate: bytes) -> bytes:
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Rejected("no-public-key", "the certificate on the token cannot be read") from error
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _of_public_key(key: Any) -> bytes:
    match key[Attribute.KEY_TYPE]:
        case TokenKeyType.RSA:
            modulus = int.from_bytes(key[Attribute.MODULUS], "big")
            exponent = int.from_bytes(key[Attribute.PUBLIC_EXPONENT], "big")
            return public_key_info_of(
                _rsa_type(modulus), der.sequence(der.integer(modulus), der.integer(exponent))
            )
        case TokenKeyType.EC:
            for key_type, curve in _CURVES.items():
                if bytes(key[Attribute.EC_PARAMS]) == der.object_identifier(curve):
                    return public_key_info_of(key_type, _point(bytes(key[Attribute.EC_POINT])))
            raise Rejected("key-type", "the curve of the key is none of P-256, P-384 and P-521")
        case TokenKeyType.EC_EDWARDS:
            point = _point(bytes(key[Attribute.EC_POINT]))
            return public_key_info_of(KeyType.ED25519, point)
        case TokenKeyType.ML_DSA:
            for key_type, parameter_set in _PARAMETER_SETS.items():
                if key[Attribute.PARAMETER_SET] == parameter_set:
                    return public_key_info_of(key_type, bytes(key[Attribute.VALUE]))
    raise Rejected("key-type", f"a key must be one of {', '.join(KeyType)}")


def _rsa_type(modulus: int) -> KeyType:
    for key_type, bits in _MODULUS_BITS.items():
        if modulus.bit_length() == bits:
            return key_type
    raise Rejected("key-type", f"an RSA modulus of {modulus.bit_length()} bits is not allowed")


def _point(value: bytes) -> bytes:
    """CKA_EC_POINT: an OCTET STRING (PKCS#11 §6.3.3), which some modules leave away."""
    try:
        return der.one(value, der.OCTET_STRING).rest()
    except Rejected:
        return value


def _ecdsa_value(raw: bytes) -> bytes:
    """Ecdsa-Sig-Value (RFC 3279 §2.2.3) from r and s side by side."""
    half = len(raw) // 2
    return der.sequence(
        der.integer(int.from_bytes(raw[:half], "big")),
        der.integer(int.from_bytes(raw[half:], "big")),
    )
