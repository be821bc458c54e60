"""Parts of the report's page that look closer: finer segments, alignment, and example users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.report_markup import Cell, Row, figure, label, percents, plain, table
from training.report_plots import lift_plot, shares_plot, volume_plot

Tree = Mapping[str, Any]

_ALIGNED = {"before": "before", "after": "after", "target": "target domain"}
_SIDES = {"over_real": "synthetic over real only", "over_placebo": "synthetic over placebo"}


def bounds(interval: Any) -> tuple[float, float, float] | None:  # noqa: ANN401 - a JSON value
    """(estimate, low, high) of an interval, or None if one of them is missing."""
    if interval is None or None in interval.values():
        return None
    return interval["estimate"], interval["low"], interval["high"]


def lift_cell(interval: Any) -> Cell:  # noqa: ANN401 - a JSON value
    """An interval, marked where it lies on one side of zero."""
    found = bounds(interval)
    if found is None:
        return Cell("undefined")
    style = "up" if found[1] > 0 else "down" if found[2] < 0 else "number"
    return Cell(percents(*found), style)


def volume(result: Tree) -> str:
    """What fewer of the events give, beside all of them."""
    points = result.get("volume") or ()
    segments = list(dict.fromkeys(name for point in points for name in point.get("lift") or ()))
    drawn = {
        f"{label(segment)} users": [
            (int(point["events"]), found)
            for point in points
            if (found := bounds(point["lift"].get(segment))) is not None
        ]
        for segment in segments
    }
    drawn = {name: line for name, line in drawn.items() if line}
    if not drawn:
        return ""
    caption = "Lift of NDCG over real events alone, by the number of synthetic events mixed in."
    rows: list[Row] = [
        (f"{int(point['events']):,}", [lift_cell(point["lift"].get(name)) for name in segments])
        for point in points
    ]
    head = ["events", *(f"{label(segment)} users" for segment in segments)]
    plot = volume_plot(drawn, f"{caption} The table below has the values.")
    return figure(plot, caption) + table("Lift by number of events", head, [("", rows)])


def finer_segments(result: Tree) -> str:
    """Where the lift comes from, and who pays for it: a forest plot and its table."""
    finer = result.get("finer") or {}
    segments = finer.get("segments") or {}
    drawn = {
        name: {
            segment: found
            for segment, lifts in segments.items()
            if (found := bounds(lifts.get(side))) is not None
        }
        for side, name in _SIDES.items()
    }
    if not any(drawn.values()):
        return ""
    caption = (
        "Lift of NDCG of the synthetic arm by finer segments. Each interval is at the level of "
        f"{100 * finer['level']:.2f} %, so that all of them hold together at 95 %."
    )
    plot = lift_plot(
        {name: rows for name, rows in drawn.items() if rows},
        f"{caption} The table below has the values.",
        name="finer",
    )
    rows: list[Row] = [
        (
            segment,
            [
                Cell(plain(lifts.get("users"))),
                *(lift_cell(lifts.get(side)) for side in _SIDES),
            ],
        )
        for segment, lifts in segments.items()
    ]
    head = ["", "test users", *_SIDES.values()]
    return figure(plot, caption) + table("NDCG by finer segments", head, [("", rows)])


def alignment(result: Tree) -> str:
    """How the events were distributed before and after their alignment, and how the target is."""
    found = result.get("alignment") or {}
    shares = {
        name: [float(value) for value in found[key]]
        for key, name in _ALIGNED.items()
        if found.get(key)
    }
    if len(shares) < len(_ALIGNED):
        return ""
    caption = (
        f"Shares of the events by bucket of {label(str(found.get('by')))}, before and after the "
        f"alignment, which kept {100 * float(found.get('kept_frac') or 0.0):.1f} % of them."
    )
    plot = shares_plot(shares, f"{caption} The table below has the values.")
    rows: list[Row] = [
        (str(bucket), [Cell(f"{100 * share:.2f}") for share in row])
        for bucket, row in enumerate(zip(*shares.values(), strict=True), 1)
    ]
    head = ["bucket", *(f"{name}, %" for name in shares)]
    return figure(plot, caption) + table("Events by bucket", head, [("", rows)])


def example_users(result: Tree) -> str:
    """What some users did, beside what was drawn from it."""
    parts = []
    for number, user in enumerate(result.get("examples") or (), 1):
        done: list[Row] = [
            (str(row.get("item")), [Cell(plain(row.get("domain"))), Cell(plain(row.get("day")))])
            for row in user.get("source") or ()
        ]
        drawn: list[Row] = [
            (
                str(row.get("item")),
                [
                    Cell(plain(row.get("likelihood"))),
                    Cell("yes", "up") if row.get("taken") else Cell("no"),
                ],
            )
            for row in user.get("synthetic") or ()
        ]
        parts.append(
            '<div class="pair">\n'
            + table(f"User {number}: newest source events", ["item", "domain", "day"], [("", done)])
            + table(
                f"User {number}: likeliest synthetic events",
                ["item", "likelihood", "taken later"],
                [("", drawn)],
            )
            + "</div>\n"
        )
    return "".join(parts)
