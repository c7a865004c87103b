"""Run by the interpreter that has django-ca: ``python django_loop.py FOLDER REQUESTS``.

REQUESTS: PKCS#10 in PEM, one after the other. For each number that it reads it signs so many of
them, as django-ca's documentation shows with ``Certificate.objects.create_cert``, and prints
``rate``, certificates a second. Its database is SQLite as Django sets it up.
"""

# What is imported here is in that other environment, and only there.
# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

urlpatterns: list[Any] = []


def main(folder: Path, requests: Path) -> None:
    """Set django-ca up in ``folder``, then answer numbers until there are no more."""
    _configure(folder)
    # Only now: these read the settings.
    from django_ca.key_backends.storages.models import StoragesUsePrivateKeyOptions
    from django_ca.models import Certificate
    from django_ca.profiles import profiles

    ca = _create_ca()
    options = StoragesUsePrivateKeyOptions(password=None)
    profile = profiles["client"]
    pems = iter(re.findall(rb"-----BEGIN.+?-----END[^\n]+\n", requests.read_bytes(), re.DOTALL))
    print("ready", flush=True)
    for line in sys.stdin:
        chunk = [next(pems) for _ in range(int(line))]
        started = perf_counter()
        for pem in chunk:
            request = x509.load_pem_x509_csr(pem)
            Certificate.objects.create_cert(ca, options, request, profile, subject=request.subject)
        print(f"rate {len(chunk) / (perf_counter() - started)}", flush=True)


def _configure(folder: Path) -> None:
    import django
    from django.conf import settings

    files = "django.core.files.storage.FileSystemStorage"
    settings.configure(
        SECRET_KEY="a benchmark has none",
        USE_TZ=True,
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django_ca"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(folder / "db.sqlite3"),
            }
        },
        STORAGES={
            "default": {"BACKEND": files},
            "django-ca": {"BACKEND": files, "OPTIONS": {"location": str(folder / "keys")}},
        },
        CA_DEFAULT_HOSTNAME="127.0.0.1:8081",
        CA_DEFAULT_SUBJECT=[],
    )
    django.setup()
    from django.core.management import call_command
    from django.urls import include, path

    urlpatterns.append(path("", include("django_ca.urls")))
    call_command("migrate", verbosity=0)


def _create_ca() -> Any:
    from django_ca.key_backends import key_backends
    from django_ca.key_backends.storages.models import StoragesCreatePrivateKeyOptions
    from django_ca.models import CertificateAuthority

    return CertificateAuthority.objects.init(
        "bench",
        key_backends["default"],
        StoragesCreatePrivateKeyOptions(
            key_type="EC", password=None, path=Path("ca"), elliptic_curve="secp256r1"
        ),
        subject=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Benchmark CA")]),
        not_after=datetime.now(UTC) + timedelta(days=3650),
        key_type="EC",
        algorithm=hashes.SHA256(),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
