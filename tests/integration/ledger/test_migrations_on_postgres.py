"""Ledgers of other versions, on a PostgreSQL server."""

from migrations_suite import *  # noqa: F403 - the promises that hold on every database
