"""Where a validation authority has its statuses from, and where it keeps them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from cli import files
from cli.service import foreign
from conf.schema import Settings
from infra.errors import Rejected
from infra.secrets import Secret
from infra.state import sync_folder, unusable
from ocsp.follower import Origin
from ocsp.table import TableWriter
from ocsp.tree_head import NO_LEAVES, TreeHead
from pki.status import Good, Revoked

_MARK: Final = "feed"
"""Of which feed the table beside it is: the SHA-256 of that one's key."""

_RETAINED: Final = "retained"
"""There, beside the table, while revocations are kept that the feed need not know of."""

_ACCEPTED: Final = "accepted"
"""What that becomes when the operator says that the feed is right."""

RESTORED: Final = "feed-restored"
TO_DO: Final = (
    "the CA's history is not the one that was followed: it was restored from a backup, or its "
    "database is another copy. What was revoked stays revoked here; revoke at the CA what it has "
    "lost (the service's log names some), then run `digitalid ocsp accept-restored` here, and send "
    "SIGHUP"
)

_log = logging.getLogger(__name__)


class Statuses:
    """The status table, for those who write it; it can be begun anew under them.

    ``retaining``: whether what is revoked stays so, whatever the feed says. The CA was restored
    from a backup then, and may have lost revocations; a certificate that was released since stays
    on hold, too. Only the operator ends it: nobody can tell from the feed what was lost, and a word
    that it was restored is not signed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table = TableWriter.open(path)
        self.accept()
        self.retaining = self._beside(_RETAINED).exists()

    def retain(self, why: str) -> None:
        """Let the feed fill the table from its beginning, over what is in it. Errors:
        ``cannot-write``, ``storage-full``, ``OSError``."""
        # The mark first: whatever comes between is done again.
        files.write(self._beside(_RETAINED), f"{why}\n".encode(), force=True)
        sync_folder(self._path.parent)
        self.retaining = True
        # In this order: with a number and no log, the rest would be taken for the same history.
        self.applied = 0
        self.head = NO_LEAVES

    @property
    def accepted(self) -> bool:
        """Whether the operator has said that the feed is right."""
        return self._beside(_ACCEPTED).exists()

    def accept(self) -> None:
        """Begin anew if the operator has said so."""
        if not self.accepted:
            return
        if self._beside(_RETAINED).exists():
            _log.error("the CA was restored once more since that was accepted: say it again")
        else:
            _log.warning("the status table is begun anew, as was said here")
            self.anew()
            self.retaining = False
        self._beside(_ACCEPTED).unlink()

    def _beside(self, name: str) -> Path:
        return self._path.with_name(name)

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
        if not self.untouched or self.retaining:
            _log.warning("the status table is begun anew: the feed has another key")
            self.anew()
        self._beside(_RETAINED).unlink(missing_ok=True)
        self.retaining = False
        files.write(mark, f"{feed}\n".encode(), force=True)

    @property
    def applied(self) -> int:
        return self._table.applied

    @applied.setter
    def applied(self, sequence: int) -> None:
        self._table.applied = sequence

    @property
    def head(self) -> TreeHead:
        return self._table.head

    @head.setter
    def head(self, head: TreeHead) -> None:
        self._table.head = head

    @property
    def untouched(self) -> bool:
        """Whether nothing of a feed is in the table, or it is filled over from the beginning."""
        return not self.applied and not self.head.size

    def issuer(self, name: str, /, *, complete: bool) -> None:
        """Errors: ``name-taken`` when a feed names a CA like one that is served by its CRL."""
        if complete and name.startswith(foreign.PREFIX):
            raise Rejected("name-taken", f"no CA of a feed may be called {name}")
        self._table.issuer(name, complete=complete)

    def put_many(self, issuer: str, statuses: Iterable[tuple[int, Good | Revoked]], /) -> None:
        if self.retaining and not issuer.startswith(foreign.PREFIX):
            statuses = self._but_for_retained(issuer, statuses)
        self._table.put_many(issuer, statuses)

    def _but_for_retained(
        self, issuer: str, statuses: Iterable[tuple[int, Good | Revoked]]
    ) -> Iterator[tuple[int, Good | Revoked]]:
        for serial, status in statuses:
            known = self._table.status(issuer, serial)
            if isinstance(known, Revoked) and (
                isinstance(status, Good) or (status.on_hold and not known.on_hold)
            ):
                _log.warning(
                    "certificate %x of %s stays revoked (%s): the CA that was restored says less",
                    serial,
                    issuer,
                    known.reason.name,
                )
            else:
                yield serial, status

    def set_horizon(self, issuer: str, known_at: datetime, until: datetime | None, /) -> None:
        self._table.set_horizon(issuer, known_at, until)

    def close(self) -> None:
        self._table.close()


def accept_restored(folder: Path) -> None:
    """Say that a CA that was restored is right, to the validation authority whose table is in this
    folder: at its next start, or when it is told to look, it begins with an empty table.
    Errors: ``nothing-retained``, ``state-unusable``."""
    try:
        (folder / _RETAINED).rename(folder / _ACCEPTED)
        sync_folder(folder)
    except FileNotFoundError as error:
        raise Rejected(
            "nothing-retained",
            "nothing is kept here that the CA need not know: it was not restored, or that was "
            "accepted already",
        ) from error
    except OSError as error:
        raise unusable(folder, error) from error


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
