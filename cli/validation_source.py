"""Where a validation authority has its statuses from, and where it keeps them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from cli import files, foreign
from conf.schema import Settings
from infra.errors import Rejected
from infra.secrets import Secret
from ocsp.follower import Origin
from ocsp.table import TableWriter
from pki.status import Good, Revoked

_MARK: Final = "feed"
"""Of which feed the table beside it is: the SHA-256 of that one's key."""

_log = logging.getLogger(__name__)


class Statuses:
    """The status table, for those who write it; it can be begun anew under them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table = TableWriter.open(path)

    def anew(self) -> None:
        """Begin with an empty table; readers turn to it. Errors: those of ``TableWriter.open``."""
        self._table.close()
        self._table = TableWriter.open(self._path, anew=True)

    def belong_to(self, feed_key: bytes) -> None:
        """Begin anew when the feed has another key (SubjectPublicKeyInfo) than the one that the
        table was filled from: its numbers mean something else."""
        mark, feed = self._path.with_name(_MARK), hashlib.sha256(feed_key).hexdigest()
        known = files.read(mark).decode(errors="replace").strip() if mark.exists() else ""
        if known == feed:
            return
        if self.applied:
            _log.warning("the status table is begun anew: the feed has another key")
            self.anew()
        files.write(mark, f"{feed}\n".encode(), force=True)

    @property
    def applied(self) -> int:
        return self._table.applied

    @applied.setter
    def applied(self, sequence: int) -> None:
        self._table.applied = sequence

    def issuer(self, name: str, /, *, complete: bool) -> None:
        """Errors: ``name-taken`` when a feed names a CA like one that is served by its CRL."""
        if complete and name.startswith(foreign.PREFIX):
            raise Rejected("name-taken", f"no CA of a feed may be called {name}")
        self._table.issuer(name, complete=complete)

    def put_many(self, issuer: str, statuses: Iterable[tuple[int, Good | Revoked]], /) -> None:
        self._table.put_many(issuer, statuses)

    def set_horizon(self, issuer: str, known_at: datetime, until: datetime | None, /) -> None:
        self._table.set_horizon(issuer, known_at, until)

    def close(self) -> None:
        self._table.close()


def origin_of(settings: Settings) -> Origin:
    """Where the feed is, as the settings say. Errors: ``feed-url``, ``feed-token`` and those of
    secrets."""
    feed = settings.feed
    token = Secret(str(feed.token), what="Token of the status feed")()
    return Origin(feed.url, token.decode("latin-1").strip(), feed.ca)


def feed_key_of(settings: Settings) -> bytes:
    """The SubjectPublicKeyInfo in the file of the settings. Errors: ``cannot-read``,
    ``feed-key``."""
    path = settings.feed.key
    try:
        key = load_pem_public_key(files.read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Rejected(
            "feed-key", f"{path} holds no public key in PEM; `digitalid ocsp follower add` makes it"
        ) from error
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
