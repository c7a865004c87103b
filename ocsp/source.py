"""Where the responder learns what a certificate's status is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pki.status import CertStatus


@dataclass(frozen=True, slots=True)
class Horizon:
    """What the statuses of one CA are worth.

    ``known_at``: the last moment at which they were surely right, thisUpdate of an answer
    (RFC 6960 §4.2.2.1); ``until``: no answer may claim to be good for longer, as with statuses
    that were read off a CRL; None for no such limit.
    """

    known_at: datetime
    until: datetime | None = None


class StatusSource(Protocol):
    """The status of every certificate of the CAs that are answered for.

    Nothing here waits: what is not at hand now is ``Unavailable``.
    """

    def horizon(self, issuer: str, now: datetime, /) -> Horizon:
        """What the statuses of this CA are worth now.

        ``issuer``: the CA's name (``pki.issuer.Issuer.name``). Errors: ``Unavailable`` while the
        source is cut off for longer than it may be, or was never filled.
        """

    def status(self, issuer: str, serial: int, /) -> CertStatus:
        """The status now, ``Unknown`` for what that CA never issued.

        ``serial``: positive, at most 20 octets. Errors: ``Unavailable``; never an answer that may
        be older than ``horizon`` says.
        """
