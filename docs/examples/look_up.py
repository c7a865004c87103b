"""Certificates of a holder from the directory, with ldap3 (https://ldap3.readthedocs.io):

python look_up.py ldap://127.0.0.1:3890 o=DigitalID mail alice@example.org
python look_up.py ldaps://directory.example.org o=DigitalID digitalidSerialNumber 0a1b ca.pem
"""

import ssl
import sys

from ldap3 import NONE, Connection, Server, Tls
from ldap3.utils.conv import escape_filter_chars

url, base, attribute, value, *ca = sys.argv[1:]
# validate: ldap3 verifies nothing unless it is told to.
tls = Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=ca[0] if ca else None)
server = Server(url, tls=tls if url.startswith("ldaps") else None, get_info=NONE, connect_timeout=5)
with Connection(server, auto_bind=True, auto_referrals=False, receive_timeout=5) as connection:
    connection.search(
        base,
        f"({attribute}={escape_filter_chars(value)})",
        attributes=["userCertificate;binary"],
    )
    for entry in connection.response:
        for der in entry["raw_attributes"].get("userCertificate;binary", ()):
            print(ssl.DER_cert_to_PEM_cert(der), end="")
