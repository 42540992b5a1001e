"""The operator's log: text for people, or one JSON object a line for a cluster's log search.

What is logged during a pass carries the service that it is about, and a decision its id, by which
it is found in the service's history and events.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum

from slm_operator.api.models import SLMService

TEXT = "%(asctime)s %(levelname)s %(message)s"
_about: ContextVar[SLMService | None] = ContextVar("about", default=None)


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


def about(service: SLMService) -> None:
    """What this task logs from now on is about ``service``."""
    _about.set(service)


class JsonFormatter(logging.Formatter):
    """Time, level, logger and message; namespace, name, uid and generation of the service that it
    is about; the decision's id; trace and span where there are some; an exception's traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        service = _about.get()
        if service is not None:
            line |= {
                "namespace": service.namespace,
                "name": service.name,
                "uid": service.uid,
                "generation": service.generation,
            }
        for field in ("decision", "trace_id", "span_id"):
            if value := getattr(record, field, ""):
                line[field] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(log_format: LogFormat, *marks: Callable[[logging.LogRecord], bool]) -> None:
    """To standard error, with what ``marks`` add to each record. Of kopf only what is wrong: its
    own news are each watch and each event; of OpenTelemetry no attempts that are made again."""
    handler = logging.StreamHandler()
    for each in marks:
        handler.addFilter(each)
    handler.setFormatter(
        JsonFormatter() if log_format is LogFormat.JSON else logging.Formatter(TEXT)
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
