"""Time: parsing, the as-of rule, and cuts.

A row is visible **as of T** when `event_timestamp < T` and `available_at <= T`: it happened
strictly before, and the system could have known it. Every query that selects events uses
`as_of_sql`, so that the rule stands in one place.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from scalr_ray.core.errors import UsageError
from scalr_ray.core.events import AVAILABLE_AT, EVENT_TIMESTAMP

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def parse_time(text: str | datetime, what: str = "time") -> datetime:
    """Turn ISO 8601 text or an aware datetime into UTC.

    A bare date means its midnight in UTC. A time of day without a zone is refused, because guessing
    a zone moves events across the cut.

    Raises:
        UsageError: the text is no date, or carries a time of day without a zone.
    """
    if isinstance(text, datetime):
        parsed = text
    else:
        try:
            parsed = datetime.fromisoformat(text)
        except ValueError as error:
            raise UsageError(
                f"{what} {text!r} is no ISO 8601 time; write for example 2026-03-01T00:00:00Z"
            ) from error
        if len(text) == len("2026-03-01"):
            parsed = parsed.replace(tzinfo=UTC)
    if parsed.tzinfo is None:
        raise UsageError(
            f"{what} {text} has no time zone; write for example {text}Z or {text}+00:00"
        )
    return parsed.astimezone(UTC)


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970 in UTC, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    """The UTC time that lies `micros` microseconds after 1970."""
    return EPOCH + timedelta(microseconds=micros)


def floor_day(moment: datetime) -> datetime:
    """Midnight UTC of the day of `moment`."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def time_literal(moment: datetime) -> str:
    """A DuckDB literal of type TIMESTAMPTZ for `moment`."""
    return f"make_timestamptz({to_micros(moment)})"


def as_of_sql(moment: datetime, alias: str = "") -> str:
    """The DuckDB predicate that keeps the rows visible as of `moment`.

    Args:
        moment: T, in UTC.
        alias: table alias to put before the columns, without the dot.
    """
    prefix = f"{alias}." if alias else ""
    cut = time_literal(moment)
    return f"({prefix}{EVENT_TIMESTAMP} < {cut} AND {prefix}{AVAILABLE_AT} <= {cut})"


def duration(span: timedelta) -> str:
    """A time span in its largest unit and the one below, for example `2 d 3 h`."""
    left = max(int(span.total_seconds()), 0)
    parts: list[str] = []
    for unit, seconds in _UNITS:
        count, left = divmod(left, seconds)
        if count or parts:
            parts.append(f"{count} {unit}")
        if len(parts) == 2:
            break
    return " ".join(parts) or "0 s"
