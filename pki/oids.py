"""Object identifiers, by the names that the standards give them."""

from __future__ import annotations

from typing import Final

# Attributes of names (RFC 5280 appendix A.1, RFC 4519, X.520).
COMMON_NAME: Final = "2.5.4.3"
SURNAME: Final = "2.5.4.4"
SERIAL_NUMBER: Final = "2.5.4.5"
COUNTRY_NAME: Final = "2.5.4.6"
LOCALITY_NAME: Final = "2.5.4.7"
STATE_OR_PROVINCE_NAME: Final = "2.5.4.8"
STREET_ADDRESS: Final = "2.5.4.9"
ORGANIZATION_NAME: Final = "2.5.4.10"
ORGANIZATIONAL_UNIT_NAME: Final = "2.5.4.11"
TITLE: Final = "2.5.4.12"
BUSINESS_CATEGORY: Final = "2.5.4.15"
POSTAL_CODE: Final = "2.5.4.17"
GIVEN_NAME: Final = "2.5.4.42"
INITIALS: Final = "2.5.4.43"
GENERATION_QUALIFIER: Final = "2.5.4.44"
DN_QUALIFIER: Final = "2.5.4.46"
PSEUDONYM: Final = "2.5.4.65"
ORGANIZATION_IDENTIFIER: Final = "2.5.4.97"
USER_ID: Final = "0.9.2342.19200300.100.1.1"
DOMAIN_COMPONENT: Final = "0.9.2342.19200300.100.1.25"
EMAIL_ADDRESS: Final = "1.2.840.113549.1.9.1"

# Certificate extensions (RFC 5280 §4.2).
SUBJECT_KEY_IDENTIFIER: Final = "2.5.29.14"
KEY_USAGE: Final = "2.5.29.15"
SUBJECT_ALT_NAME: Final = "2.5.29.17"
ISSUER_ALT_NAME: Final = "2.5.29.18"
BASIC_CONSTRAINTS: Final = "2.5.29.19"
NAME_CONSTRAINTS: Final = "2.5.29.30"
CRL_DISTRIBUTION_POINTS: Final = "2.5.29.31"
CERTIFICATE_POLICIES: Final = "2.5.29.32"
AUTHORITY_KEY_IDENTIFIER: Final = "2.5.29.35"
EXTENDED_KEY_USAGE: Final = "2.5.29.37"
AUTHORITY_INFORMATION_ACCESS: Final = "1.3.6.1.5.5.7.1.1"
QC_STATEMENTS: Final = "1.3.6.1.5.5.7.1.3"
TLS_FEATURE: Final = "1.3.6.1.5.5.7.1.24"
OCSP_NO_CHECK: Final = "1.3.6.1.5.5.7.48.1.5"
OCSP_SIGNING: Final = "1.3.6.1.5.5.7.3.9"

EXTENSION_NAMES: Final = {
    SUBJECT_KEY_IDENTIFIER: "subjectKeyIdentifier",
    KEY_USAGE: "keyUsage",
    SUBJECT_ALT_NAME: "subjectAltName",
    ISSUER_ALT_NAME: "issuerAltName",
    BASIC_CONSTRAINTS: "basicConstraints",
    NAME_CONSTRAINTS: "nameConstraints",
    CRL_DISTRIBUTION_POINTS: "cRLDistributionPoints",
    CERTIFICATE_POLICIES: "certificatePolicies",
    AUTHORITY_KEY_IDENTIFIER: "authorityKeyIdentifier",
    EXTENDED_KEY_USAGE: "extKeyUsage",
    AUTHORITY_INFORMATION_ACCESS: "authorityInfoAccess",
    QC_STATEMENTS: "qcStatements",
    TLS_FEATURE: "tlsFeature",
    OCSP_NO_CHECK: "ocspNoCheck",
}
EXTENSIONS_BY_NAME: Final = {name: oid for oid, name in EXTENSION_NAMES.items()}

# Access methods (RFC 5280 §4.2.2.1) and policy qualifiers (§4.2.1.4).
AD_OCSP: Final = "1.3.6.1.5.5.7.48.1"
AD_CA_ISSUERS: Final = "1.3.6.1.5.5.7.48.2"
QT_CPS: Final = "1.3.6.1.5.5.7.2.1"

# Bits of KeyUsage, by position (RFC 5280 §4.2.1.3).
KEY_USAGE_BITS: Final = (
    "digitalSignature",
    "nonRepudiation",
    "keyEncipherment",
    "dataEncipherment",
    "keyAgreement",
    "keyCertSign",
    "cRLSign",
    "encipherOnly",
    "decipherOnly",
)

# KeyPurposeId (RFC 5280 §4.2.1.12, RFC 9336, and two that smart-card log-on and PDF readers want).
KEY_PURPOSES: Final = {
    "serverAuth": "1.3.6.1.5.5.7.3.1",
    "clientAuth": "1.3.6.1.5.5.7.3.2",
    "codeSigning": "1.3.6.1.5.5.7.3.3",
    "emailProtection": "1.3.6.1.5.5.7.3.4",
    "timeStamping": "1.3.6.1.5.5.7.3.8",
    "OCSPSigning": OCSP_SIGNING,
    "documentSigning": "1.3.6.1.5.5.7.3.36",
    "smartcardLogon": "1.3.6.1.4.1.311.20.2.2",
    "adobeAuthenticDocuments": "1.2.840.113583.1.1.5",
}

# Types of otherName whose value is one string.
USER_PRINCIPAL_NAME: Final = "1.3.6.1.4.1.311.20.2.3"
XMPP_ADDRESS: Final = "1.3.6.1.5.5.7.8.5"
SRV_NAME: Final = "1.3.6.1.5.5.7.8.7"
SMTP_UTF8_MAILBOX: Final = "1.3.6.1.5.5.7.8.9"

# Qualified certificates (RFC 3739, ETSI EN 319 412-1 and -5).
QCS_PKIX_SYNTAX_V2: Final = "1.3.6.1.5.5.7.11.2"
QCS_COMPLIANCE: Final = "0.4.0.1862.1.1"
QCS_RETENTION_PERIOD: Final = "0.4.0.1862.1.3"
QCS_SSCD: Final = "0.4.0.1862.1.4"
QCS_PDS: Final = "0.4.0.1862.1.5"
QCS_TYPE: Final = "0.4.0.1862.1.6"
QCS_CC_LEGISLATION: Final = "0.4.0.1862.1.7"
QC_TYPES: Final = {
    "esign": "0.4.0.1862.1.6.1",
    "eseal": "0.4.0.1862.1.6.2",
    "web": "0.4.0.1862.1.6.3",
}
SEMANTICS_IDENTIFIERS: Final = {
    "natural-person": "0.4.0.194121.1.1",
    "legal-person": "0.4.0.194121.1.2",
    "eidas-natural-person": "0.4.0.194121.1.3",
    "eidas-legal-person": "0.4.0.194121.1.4",
}
