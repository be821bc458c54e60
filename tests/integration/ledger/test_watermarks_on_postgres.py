"""Watermarks and replacements of batches, on a PostgreSQL server."""

from watermarks_suite import *  # noqa: F403 - the promises that hold on every database
