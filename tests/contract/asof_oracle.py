"""The as-of rule in plain Python, one entity row at a time: what every store must return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

Key = tuple[Any, ...]


@dataclass(frozen=True)
class FeatureRow:
    key: Key
    event_time: datetime | None
    created: datetime | None
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Rule:
    ttl: timedelta = timedelta()
    cut_off: bool = False
    strictly_before: bool = False


def look_up(rows: Sequence[FeatureRow], key: Key, t: datetime | None, rule: Rule) -> Any:
    """The values of the row that (key, t) may see, or None."""
    if t is None or any(part is None for part in key):
        return None
    seen = [row for row in rows if row.key == key and _visible(row, t, rule)]
    if not seen:
        return None
    return max(seen, key=_order).values


def _visible(row: FeatureRow, t: datetime, rule: Rule) -> bool:
    if row.event_time is None:
        return False
    if row.event_time > t or (rule.strictly_before and row.event_time == t):
        return False
    if rule.cut_off and (row.created is None or row.created > t):
        return False
    return not rule.ttl or row.event_time >= t - rule.ttl


def _order(row: FeatureRow) -> tuple[Any, ...]:
    return (row.event_time, *(_nulls_first(part) for part in (row.created, *row.values)))


def _nulls_first(value: Any) -> tuple[Any, ...]:
    return (0,) if value is None else (1, value)
