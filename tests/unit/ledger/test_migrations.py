"""Ledgers of other versions, in SQLite files."""

from migrations_suite import *  # noqa: F403 - the promises that hold on every database
