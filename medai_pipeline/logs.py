"""What a service writes to its log, and how: text or JSON lines (structlog), with study key, run and stage where they are known.

By allow-list: our own lines and Dagster's and Celery's at MEDAI_LOG_LEVEL; of every other library warnings and errors
alone, also at DEBUG, because clients log the URLs they ask and DICOM libraries the data they carry. Their words are not
ours, so of their lines no traceback with values is kept either.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import structlog

# the loggers that speak at the level that is set; names begin so
OURS = ("medai", "medai_pipeline", "dagster", "celery", "uvicorn.error")
# their warnings and errors quote what they were given
SILENT = (
    "pydicom",
    "pynetdicom",
    "httpx",
    "httpcore",
    "multipart",
    "python_multipart",
    "asyncio",
    "uvicorn.access",
    "PIL",
)

_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure(level: str, form: str) -> None:
    """The root handler of this process, on standard error. A second call replaces the first."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form))
    root = logging.getLogger()
    for before in [h for h in root.handlers if getattr(h, "_medai", False)]:
        root.removeHandler(before)
    handler._medai = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    quiet(level)


def quiet(level: str) -> None:
    """Levels alone: for a process whose handlers another made."""
    logging.getLogger().setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    quiet_libraries()


def quiet_libraries() -> None:
    """They stay quiet whatever level is set."""
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        logging.getLogger(name).propagate = False
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.CRITICAL + 1)  # a warning quotes the value that it warns of


def formatter(form: str) -> logging.Formatter:
    last = structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=False)
    return structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _frames, last],
        foreign_pre_chain=_SHARED,
    )


def about(**known: str) -> AbstractContextManager[Any]:
    """`with about(study_key=..., run_id=..., stage=...)`: every line in it, from whatever logger, says so."""
    return structlog.contextvars.bound_contextvars(**known)


def _frames(logger: Any, method: str, event: Any) -> Mapping[str, Any]:
    """Of an exception its kind and where it was raised; its words could hold what it choked on."""
    import traceback

    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    if isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if info and info[0]:
        event["error"] = info[0].__name__
        event["frames"] = "".join(traceback.format_tb(info[2]))
    return event
