"""Watermarks and replacements of batches, in SQLite files."""

from watermarks_suite import *  # noqa: F403 - the promises that hold on every database
