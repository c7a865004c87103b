"""What every series of CRLs of a process stands on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from crl.making import CrlLinter, no_checkpoint
from crl.source import RevocationSource
from infra.clock import Clock
from infra.store.port import Store

AT_A_TIME: Final = 16


class Recorder(Protocol):
    """Writes an act into the log; an ``id`` that is there already changes nothing."""

    async def record(
        self, what: str, object_hash: bytes, detail: Mapping[str, str | int], id: str
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a series stands on: ``folder``: of all series; ``holder``: the name of this process,
    different from that of any other; ``room``: for so many CRLs that are made at a time, each with
    files and a thread; ``checkpoint``: called with each step that is done."""

    source: RevocationSource
    store: Store
    folder: Path
    clock: Clock
    recorder: Recorder
    holder: str
    linter: CrlLinter | None = None
    checkpoint: Callable[[str], None] = no_checkpoint
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_A_TIME))
