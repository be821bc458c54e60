"""Structured logs: with `SCALR_LOG=json` in the environment, JSON objects on standard error.

| key | |
|---|---|
| `time`, `level`, `logger`, `message` | as everywhere; the time in UTC |
| `run`, `stage` | the id of the run in the ledger, and its verb; once there is one |
| `rank` | of a worker of Ray Train |
| `error` | the traceback, where there is one |
| `exit_code` | of a call that failed, in its last line |

Whatever else is told, say `seconds`, stands beside them. What the libraries log joins from errors
on, or with `-v`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import IO, Any

from scalr_ray.core.errors import ConfigError

VARIABLE = "SCALR_LOG"
_KINDS = ("json", "text")
_OURS = ("scalr_ray", "training")
_FIELDS = "scalr_fields"

_where: ContextVar[Mapping[str, Any]] = ContextVar("where", default=MappingProxyType({}))


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The keys of the table above; those without a value are left out."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_where.get(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str, ensure_ascii=False)


class _StandardError(logging.StreamHandler[IO[str]]):
    """Writes to what standard error is at the moment, not to what it was when it was made."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> IO[str]:
        return sys.stderr

    @stream.setter
    def stream(self, _: IO[str]) -> None:
        raise AttributeError("this handler writes to standard error")


def are_json() -> bool:
    """Whether the environment asks for structured logs.

    Raises:
        ConfigError: it asks for something else.
    """
    kind = os.environ.get(VARIABLE) or "text"
    if kind not in _KINDS:
        raise ConfigError(f"{VARIABLE}={kind} is not known; set it to {' or '.join(_KINDS)}")
    return kind == "json"


def set_up(**known: object) -> None:
    """Log as the environment asks, from now on in this process; nothing happens where it does not.

    Args:
        known: what each line of this thread shall tell, say the rank of a worker.

    Raises:
        ConfigError: the environment asks for something unknown.
    """
    if not are_json():
        return
    _where.set({**_where.get(), **known})
    root = logging.getLogger()
    if not any(isinstance(handler, _StandardError) for handler in root.handlers):
        handler = _StandardError()
        handler.setFormatter(JsonFormatter())
        level = root.level if root.level == logging.INFO else logging.ERROR  # INFO is -v
        logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.disable(logging.NOTSET)


@contextmanager
def telling(**known: object) -> Iterator[None]:
    """Each line that is logged in the block tells this too."""
    token = _where.set({**_where.get(), **known})
    try:
        yield
    finally:
        _where.reset(token)


def last_line(message: str, *, error: BaseException | None = None, **known: object) -> str:
    """How a call ended, as a line of JSON, whoever logs by then.

    Args:
        message: what it came to.
        error: whose traceback is told.
        known: what else the line tells.
    """
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("scalr", logging.ERROR, "", 0, message, None, exc_info)
    setattr(record, _FIELDS, known)
    return JsonFormatter().format(record)


def fields(**known: object) -> dict[str, Mapping[str, object]]:
    """For `extra=` of a call of a logger: what this line alone tells."""
    return {_FIELDS: known}
