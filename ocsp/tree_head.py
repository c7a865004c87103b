"""What a CA's log was when something of it was learned, to know its history again by."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from pki.log.merkle import EMPTY_ROOT, HASH_SIZE

LAYOUT: Final = struct.Struct(f">Q{HASH_SIZE}s")


@dataclass(frozen=True, slots=True)
class TreeHead:
    """``size``: leaves of the log; ``root``: 32 octets that no other leaves lead to."""

    size: int
    root: bytes

    def encode(self) -> bytes:
        return LAYOUT.pack(self.size, self.root)


NO_LEAVES: Final = TreeHead(0, EMPTY_ROOT)
"""Where nothing is known of a log: any goes on from here."""
