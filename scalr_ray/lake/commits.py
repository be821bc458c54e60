"""Committing to the table: look, try, and look again after a conflict.

Every attempt starts from the newest metadata, so that it can find out that its work is already
done. A conflict is known to have changed nothing and is tried again. When the answer to a commit
was lost, nothing is tried again, because it may still take effect. What fails before a commit is
sent has changed nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.table import Table
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from scalr_ray.core.clock import from_micros
from scalr_ray.core.databases import SentCommits, state_unknown
from scalr_ray.core.errors import RetryLater
from scalr_ray.lake.troubles import catalog_error, file_error

_PATIENCE_S = 120.0  # of who is overtaken again and again, while others get their commits through
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
_SKEW_MS = 60_000  # so much Iceberg lets clocks differ

Result = TypeVar("Result")


class Committer:
    """Commits through one catalog; knows whether a commit was sent when something goes wrong."""

    def __init__(self, engine: Engine) -> None:
        self._url = engine.url.set(query={}).render_as_string(hide_password=True)
        self._sent = SentCommits(engine)

    def commit(self, what: str, attempt: Callable[[], Result]) -> Result:
        """Call `attempt` until it commits.

        Args:
            what: the work, for messages, for example `"publish batch b1"`.
            attempt: loads the table, and either finds the work done or commits once.

        Raises:
            RetryLater: others kept committing first, the database is busy, full or not there, or
                the disk is full; nothing has changed.
            StateUnknown: the commit was sent and no answer came back.
            UsageError: writing is not allowed.
            DataError: a file is gone or cannot be read, or S3 refuses.
        """
        deadline, pause_s = time.monotonic() + _PATIENCE_S, _SHORTEST_PAUSE_S
        while True:
            try:
                with self.errors(what):
                    return attempt()
            except CommitFailedException as error:
                if time.monotonic() > deadline:
                    raise RetryLater(
                        f"could not {what}: the table kept changing; try again"
                    ) from error
            # Losers of one round must not meet again in the next.
            time.sleep(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    @contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Turn what the catalog and storage raise in the block into errors of ours."""
        self._sent.forget()
        try:
            yield
        except CommitStateUnknownException as error:
            raise state_unknown(what) from error
        except DBAPIError as error:
            raise catalog_error(what, self._url, error, sent=self._sent.any) from error
        except (OSError, pa.ArrowException) as error:
            raise file_error(what, error) from error


def refuse_clock_behind(what: str, table: Table) -> None:
    """Check that the newest snapshot does not lie in the future of this machine.

    Snapshots are kept and expired by their age: one that is stamped by a clock that is behind would
    seem older than it is.

    Raises:
        RetryLater: it lies more than a minute in the future.
    """
    behind_ms = table.metadata.last_updated_ms - time.time_ns() // 1_000_000
    if behind_ms > _SKEW_MS:
        newest = from_micros(table.metadata.last_updated_ms * 1000)
        raise RetryLater(
            f"could not {what}: the clock of this machine is {behind_ms / 1000:,.0f} s behind the "
            f"newest snapshot, of {newest:%Y-%m-%d %H:%M:%S} UTC; set the clock right and try again"
        )
