"""What the service says about itself: log lines (ECS JSON or text) and Prometheus metrics."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Literal

ECS_VERSION = "8.11"


class EcsFormatter(logging.Formatter):
    """One JSON object a line, in the field names of the Elastic Common Schema."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        entry: dict[str, object] = {
            "@timestamp": at.isoformat(timespec="milliseconds"),
            "log.level": record.levelname.lower(),
            "message": record.getMessage(),
            "ecs.version": ECS_VERSION,
            "log.logger": record.name,
            "service.name": "digitalid",
            "process.pid": record.process,
        }
        entry |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            entry["error.type"] = record.exc_info[0].__name__
            entry["error.message"] = str(record.exc_info[1])
            entry["error.stack_trace"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(entry, ensure_ascii=False, default=str)


def set_up_logging(level: str, format: Literal["auto", "text", "json"]) -> None:
    """Send log lines to standard error. ``auto`` writes text on a terminal, JSON elsewhere."""
    handler = logging.StreamHandler()
    if format == "json" or (format == "auto" and not sys.stderr.isatty()):
        handler.setFormatter(EcsFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
