"""Repositories that are prepared once, and brought back as they were as often as a test wants."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the server's module brings psycopg
    from postgres_server import Database


@dataclass(frozen=True, kw_only=True)
class KeptRepo:
    """A repository that nobody has open, and a copy of its files and of its database.

    It comes back to the same place and under the same name: files and catalog have them by heart.

    Attributes:
        repo: the repository.
        database: on the server; None where it lies among the files.
    """

    repo: Path
    database: Database | None
    _files: Path
    _copy: Database | None

    def bring_back(self) -> None:
        """Make the repository what it was when it was kept."""
        shutil.rmtree(self.repo)
        shutil.copytree(self._files, self.repo)
        if self.database is not None and self._copy is not None:
            self.database.replace_by(self._copy)


@contextmanager
def keeping(repo: Path, database: Database | None) -> Iterator[KeptRepo]:
    """Keep a repository that nobody has open; the copy is gone afterwards."""
    files = repo.with_name(f"{repo.name}-{secrets.token_hex(4)}")
    shutil.copytree(repo, files)
    try:
        if database is None:
            yield KeptRepo(repo=repo, database=None, _files=files, _copy=None)
            return
        with database.server.fresh_database() as copy:
            copy.replace_by(database)
            yield KeptRepo(repo=repo, database=database, _files=files, _copy=copy)
    finally:
        shutil.rmtree(files)
