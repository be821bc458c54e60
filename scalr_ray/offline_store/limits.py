"""What DuckDB may use, and its failures in our words. No Feast here: tasks of a cluster use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from scalr_ray.core.duck import duck
from scalr_ray.core.errors import UsageError
from scalr_ray.offline_store.storage import storage_error


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one DuckDB session may use.

    Attributes:
        memory_limit: before it spills to disk, for example `"4GB"`.
        threads: worker threads.
        spill_dir: where it spills; None takes the system's folder for temporary files.
    """

    memory_limit: str
    threads: int
    spill_dir: Path | None

    def of_a_task(self) -> Limits:
        """The same for a task of a cluster, to which Ray gives one CPU."""
        return replace(self, threads=1)


@contextmanager
def open_duck(limits: Limits) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB session within its limits.

    Raises:
        UsageError: the memory limit is too low.
        DataError: a file cannot be read after all.
        RetryLater: S3 does not answer.
    """
    try:
        with duck(
            memory_limit=limits.memory_limit, threads=limits.threads, spill_dir=limits.spill_dir
        ) as connection:
            yield connection
    except duckdb.OutOfMemoryException as error:
        raise UsageError(
            f"DuckDB needs more than {limits.memory_limit}; raise offline_store.memory_limit in "
            f"feature_store.yaml ({str(error).splitlines()[0]})"
        ) from error
    except (duckdb.InvalidInputException, duckdb.IOException) as error:
        raise storage_error("a source", error) from error
