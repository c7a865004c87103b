"""Where the responder learns what a certificate's status is."""

from __future__ import annotations

from typing import Protocol

from pki.status import CertStatus


class StatusSource(Protocol):
    """The status of every certificate of the CAs that are answered for."""

    async def status(self, issuer: str, serial: int, /) -> CertStatus:
        """The status now.

        ``issuer``: the CA's name (``pki.issuer.Issuer.name``); ``serial``: positive, at most 20
        octets. Errors: ``Unavailable`` while it cannot be told; never an answer that may be old.
        """
