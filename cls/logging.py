"""Logs: structured events on stderr, JSON for machines, coloured lines for a terminal; no secret in either.

    log = get_logger(__name__)
    with bound(stream="flights", job=7, version=3):  # every event inside carries them
        log.info("promoted", reason="...")

Choose with CLS_LOG=json|console (default: console on a terminal, else JSON) and CLS_LOG_LEVEL (default: info).
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog

_PASSWORD = re.compile(r"(?P<front>[A-Za-z][A-Za-z0-9+.-]*://[^\s:/@]*:)(?!\d+/)(?:(?!://)\S)+(?=@)")
_PARAMETER = re.compile(
    r"(?i)(?P<front>(?:password|passwd|token|secret|api_key|access_key)=)(?:'[^']*'|[^&;\s]+)"
)
_TOKEN = re.compile(
    r"(?P<front>cls_(?!(?:promotions|rejections|unlabelled)_)[A-Za-z0-9]{10}_)[A-Za-z0-9]+"
)  # see cls.doors.tokens; a truncated one, too
_SIGNING = re.compile(r"(?P<front>whsec_)[A-Za-z0-9+/=_-]+")
_SECRET_NAMES = re.compile(r"(?i)(^|_)(password|passwd|secret|token|authorization|api_key|credentials?)$")


def redact(url: str) -> str:
    """Return a text with the passwords of all URLs, and the secrets of all tokens, in it replaced by ***.

    Examples
    --------
    >>> redact("postgresql+psycopg://cls:s3cret@db:5432/cls")
    'postgresql+psycopg://cls:***@db:5432/cls'
    """
    for secret in (_PASSWORD, _PARAMETER, _TOKEN, _SIGNING):
        url = secret.sub(r"\g<front>***", url)
    return url


def configure(process: str, *, form: str | None = None, level: str | None = None) -> None:
    """Send this process's logs to stderr, those of its libraries included.

    Parameters
    ----------
    process
        Name that every event carries: daemon, worker-0, serve.
    form
        "json" or "console"; by default $CLS_LOG, else console on a terminal.
    level
        By default $CLS_LOG_LEVEL, else info.
    """
    form = form or os.environ.get("CLS_LOG") or ("console" if sys.stderr.isatty() else "json")
    number = logging.getLevelNamesMapping().get(
        (level or os.environ.get("CLS_LOG_LEVEL", "info")).upper(), logging.INFO
    )
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it tells of each retry of a registry that is away

    def named(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["process"] = process  # not a context variable: threads begin without any
        return event

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        named,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    last: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if form == "json":
        last += [
            structlog.processors.format_exc_info,
            _redacted,
            structlog.processors.JSONRenderer(default=str),
        ]
    else:
        last += [
            structlog.processors.format_exc_info,
            _redacted,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and "NO_COLOR" not in os.environ),
        ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for noisy in ("httpx", "httpcore", "alembic", "apscheduler", "uvicorn.access", "urllib3"):
        logging.getLogger(noisy).setLevel(max(number, logging.WARNING))


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return a logger by the name of its module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


@contextmanager
def bound(**ids: Any) -> Iterator[None]:
    """Give every event inside the block, in this thread, these ids: stream, job, version."""
    with structlog.contextvars.bound_contextvars(**ids):
        yield


def _redacted(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take secrets out of an event, by the names of its fields and by the shape of URLs."""
    for name, value in event.items():
        event[name] = "***" if _SECRET_NAMES.search(name) and value else _clean(value)
    return event


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {
            name: "***" if isinstance(name, str) and _SECRET_NAMES.search(name) and item else _clean(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else redact(str(value))
