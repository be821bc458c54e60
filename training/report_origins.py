"""The part of the report's page that tells a lift over several cuts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.report_markup import Cell, Row, figure, number, plain, section, table, text
from training.report_plots import lift_plot
from training.report_sections import bounds, lift_cell

Tree = Mapping[str, Any]

_POOLED = "all cuts"
# What is drawn and told of each cut, by the comparison and the segment.
_LIFTS = {
    "hidden users": ("lift", "hidden"),
    "hidden users, placebo": ("lift_placebo_over_real", "hidden"),
    "warm users": ("lift", "warm"),
    "all users": ("lift", "all"),
}


def over_cuts(result: Tree) -> str:
    """The section, and a line on what the sections after it tell; nothing of a single cut."""
    origins = result.get("origins")
    if not origins:
        return ""
    rows = {_moment(row["as_of"]): row for row in origins["rows"]}
    told = {**{cut: _at_cut(row) for cut, row in rows.items()}, _POOLED: _at_all(origins)}
    drawn = {
        name: {
            cut: found
            for cut, row in told.items()
            if (found := bounds(row["lifts"][comparison].get(segment))) is not None
        }
        for name, (comparison, segment) in _LIFTS.items()
    }
    caption = (
        "Lift of NDCG over real events alone, by cut, each measured up to the next. The intervals "
        "of a cut are of its users and seeds; those of all cuts are of other cuts too."
    )
    plot = lift_plot(
        {name: found for name, found in drawn.items() if found},
        f"{caption} The table below has the values.",
        name="origins",
    )
    head = ["cut (UTC)", "test users", "NDCG hidden", "NDCG warm", *_LIFTS]
    newest = next(reversed(rows.values()))
    return section(
        "Over several cuts",
        "origins",
        figure(plot, caption)
        + table(
            "By cut: test users, NDCG of real events alone, and lifts of NDCG over it",
            head,
            [("", [_row(cut, row) for cut, row in told.items()])],
        )
        + _batches(origins),
    ) + (
        f"<p>All that follows is of the newest cut alone, {text(_moment(newest['as_of']))}, "
        f"batch {text(newest['batch_id'])}.</p>\n"
    )


def published_of_cuts(origins: Tree) -> str:
    """How many of the batches are in the offline store."""
    told = f"{origins['published']} of {len(origins['rows'])} batches are published."
    return f"<strong>{text(told)}</strong>"


def _at_cut(row: Tree) -> dict[str, Any]:
    return {"users": row["test_users"], "ndcg": row["ndcg"]["real_only"], "lifts": row["lifts"]}


def _at_all(origins: Tree) -> dict[str, Any]:
    pooled = origins["pooled"]
    lifts = {
        comparison: {segment: _ndcg(metrics) for segment, metrics in pooled[comparison].items()}
        for comparison, _ in _LIFTS.values()
    }
    return {"users": pooled["test_users"], "ndcg": pooled["ndcg"]["real_only"], "lifts": lifts}


def _ndcg(metrics: Tree) -> Any:  # noqa: ANN401 - a JSON value
    return next((found for name, found in metrics.items() if name.startswith("ndcg_at_")), None)


def _row(cut: str, row: Tree) -> Row:
    return cut, [
        Cell(plain(row["users"].get("all"))),
        *(Cell(number(row["ndcg"].get(segment))) for segment in ("hidden", "warm")),
        *(
            lift_cell(row["lifts"][comparison].get(segment))
            for comparison, segment in _LIFTS.values()
        ),
    ]


def _batches(origins: Tree) -> str:
    """Which batch was measured at which cut, up to when, and what it says alone."""
    rows: list[Row] = [
        (
            _moment(row["as_of"]),
            [
                Cell(_moment(row["until"]) if row.get("until") else "all that came", "words"),
                Cell(str(row["batch_id"]), "words"),
                Cell("yes", "up") if row.get("published") else Cell("no"),
                Cell(str(row["verdict"]).replace("_", " "), "words"),
            ],
        )
        for row in origins["rows"]
    ]
    head = ["cut (UTC)", "measured up to", "batch", "published", "alone"]
    return table("Batches", head, [("", rows)])


def _moment(told: Any) -> str:  # noqa: ANN401 - a JSON value
    """A time of the report, to the minute where it is one."""
    return str(told).replace("T", " ").removesuffix("+00:00").removesuffix(":00")
