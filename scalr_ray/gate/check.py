"""One answer of the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Check:
    """One answer.

    Attributes:
        name: stable, fit for dashboards.
        passed: whether the batch may go on.
        value: what was measured, where it is a number.
        threshold: what it was held against, where it is a number.
        detail: one line for a reader.
    """

    name: str
    passed: bool
    value: float | None = None
    threshold: float | None = None
    detail: str = ""


def first_failure(checks: Sequence[Check]) -> Check | None:
    """The first check that did not pass; None when all did."""
    return next((check for check in checks if not check.passed), None)
