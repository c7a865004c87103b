"""Where an instance is found: its ports, before it begins, and the URLs in what it made before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cryptography import x509

from cli.service.from_settings import public_url
from infra.errors import Rejected
from infra.http.app import bind_shared
from infra.state import owned

if TYPE_CHECKING:
    from cli.service.parts import Instance
    from conf.schema import Settings


async def check_ports(settings: Settings) -> None:
    """See that both ports can be had.

    Errors: ``address-in-use``, ``address-refused``, ``bad-address``; ``state-locked`` where it is
    an instance of this home folder that has them.
    """
    http = settings.http
    for host, port, name in (
        (http.app_host, http.app_port, "app"),
        (http.validation_host, http.validation_port, "validation"),
    ):
        try:
            await bind_shared(host, port, 0)
        except Rejected as rejected:
            with owned(settings.home):
                raise Rejected(
                    rejected.code,
                    f"{rejected.detail}, or choose another with --{name}-port or "
                    f"http.{name}_port and http.{name}_host",
                ) from rejected


def former_urls(instance: Instance) -> Iterator[str]:
    """What to say of CAs whose certificates have other URLs than would be written now."""
    now = public_url(instance.settings.http)
    ours = {one.certificate for one in instance.issuers.values()}
    for name, one in instance.issuers.items():
        if not one.chain or one.chain[0] not in ours:
            continue  # nothing here makes the CRL that its certificate names
        for extension in x509.load_der_x509_certificate(one.certificate).extensions:
            if isinstance(extension.value, x509.CRLDistributionPoints):
                points = [str(f.value) for point in extension.value for f in point.full_name or ()]
                if not any(url.startswith(f"{now}/") for url in points):
                    yield (
                        f"the certificate of CA {name} names {', '.join(points)}, which is not "
                        f"below {now}: let both lead here, or set http.public_url back"
                    )
