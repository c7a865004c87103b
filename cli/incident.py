"""What went wrong inside, written where only the operator reads it."""

from __future__ import annotations

import logging
import os
import tempfile
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

FILE_NAME: Final = "incidents.log"


def record(error: Exception, home: Path) -> tuple[str, str]:
    """Append the error with its stack to ``home/log/incidents.log`` (mode 0600), or to a new file
    in the temporary folder when that cannot be written; return its number and the file."""
    incident = os.urandom(4).hex()
    stack = "".join(traceback.format_exception(error))
    text = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} incident {incident}\n{stack}\n"
    try:
        file = _append(home / "log", text)
    except OSError:
        try:
            descriptor, name = tempfile.mkstemp(prefix=f"digitalid-{incident}-", suffix=".log")
            with os.fdopen(descriptor, "w") as stream:
                stream.write(text)
        except OSError as failure:
            return incident, f"no file ({failure.strerror}): there was nowhere to write it"
        return incident, name
    return incident, str(file)


class IncidentLog(logging.Handler):
    """Writes what an instance within a command logs to ``home/log/incidents.log``, so that a
    command's own output is its answer alone. A log that cannot be written is no reason to fail."""

    def __init__(self, home: Path) -> None:
        super().__init__(logging.WARNING)
        self._folder = home / "log"
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            _append(self._folder, self.format(record) + "\n")


def _append(folder: Path, text: str) -> Path:
    # A home folder that does not exist is not made here: it would look like an instance.
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / FILE_NAME
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    with os.fdopen(os.open(file, flags, 0o600), "w") as stream:
        stream.write(text)
    return file
