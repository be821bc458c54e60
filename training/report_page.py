"""The HTML page of the report: one file, nothing loaded from elsewhere, light, dark and print.

Every text of the result is escaped where it is put into markup, by `training.report_markup.text`.
Whatever part the result lacks is left out of the page, or said to be missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from training.report_markup import (
    Cell,
    Row,
    figure,
    label,
    metric_label,
    number,
    percents,
    plain,
    section,
    table,
    text,
)
from training.report_origins import over_cuts, published_of_cuts
from training.report_plots import calibration_plot, coverage_plot, lift_plot, popularity_plot
from training.report_sections import (
    alignment,
    bounds,
    example_users,
    finer_segments,
    lift_cell,
    volume,
)
from training.report_style import CSS

Tree = Mapping[str, Any]

_HEADLINES = {
    "helps": "The synthetic events help",
    "no_effect": "The synthetic events have no effect",
    "harms": "The synthetic events harm",
    "cannot_tell": "It cannot be told whether the synthetic events help",
}
_SEGMENTS = ("all", "hidden", "warm")
_METRICS = ("ndcg", "recall", "coverage")
_ARMS = ("real_only", "synthetic", "folded_in", "placebo", "upsampled")
_RANKERS = ("prior", "translator")
_COMPARISONS = {
    "lift": "synthetic over real only",
    "lift_folded_over_real": "folded in over real only",
    "lift_folded_over_rows": "folded in over synthetic",
    "lift_over_placebo": "synthetic over placebo",
    "lift_upsampled_over_real": "upsampled over real only",
    "lift_over_prior": "translator over prior",
}
_FOLDED_IN = (
    " Synthetic: the events are mixed in as rows. Folded in: real events alone decide, and the "
    "same synthetic ones, of the same weight, say who users without real ones are."
)


def render(result: Tree) -> str:
    """The whole page for a result as `training.report.write_report` describes it."""
    verdict = str(result.get("verdict") or "cannot_tell")
    title = _HEADLINES.get(verdict, verdict)
    sections = (
        _verdict(result, verdict, title),
        over_cuts(result),
        section("Lift", "lift", _lift_figure(result)),
        section("Fewer events", "volume", volume(result)),
        section("Downstream model", "arms", _arms_table(result)),
        section("Where the lift comes from", "segments", finer_segments(result)),
        section("Example users", "examples", example_users(result)),
        section("Rankers", "rankers", _rankers_table(result)),
        section("Catalogue coverage", "coverage", _coverage_figure(result)),
        section(
            "Popularity of events", "popularity", _popularity_figure(result) + alignment(result)
        ),
        section("Calibration of the likelihood", "calibration", _calibration_figure(result)),
        section("Gate", "gate", _gate_table(result)),
        section("Run", "run", _run(result)),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>SCALR report: {text(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<main>\n{''.join(sections)}</main>\n</body>\n</html>\n"
    )


def _verdict(result: Tree, verdict: str, title: str) -> str:
    tone = verdict if verdict in _HEADLINES else "cannot_tell"
    cautions = "".join(f"<li>{text(caution)}</li>" for caution in result.get("cautions") or ())
    return (
        f'<header class="verdict {tone}" id="verdict">\n<p class="eyebrow">SCALR report</p>\n'
        f"<h1>{text(title)}</h1>\n<p>{text(result.get('sentence') or '')}</p>\n"
        f"<p>{_published(result)}</p>\n</header>\n"
        + (
            f'<section id="cautions"><h2>Cautions</h2><ul>{cautions}</ul></section>\n'
            * bool(cautions)
        )
    )


def _published(result: Tree) -> str:
    if result.get("origins"):
        return published_of_cuts(result["origins"])
    if result.get("published"):
        return "<strong>Published.</strong> The synthetic events are in the offline store."
    failed = [
        f"{check.get('check')} ({check.get('detail') or 'failed'})"
        for check in result.get("gate") or ()
        if not check.get("passed")
    ]
    reason = f" The gate refused: {text('; '.join(failed))}." if failed else ""
    return f"<strong>Not published.</strong>{reason}"


def _lift_figure(result: Tree) -> str:
    names = [name for key in _COMPARISONS for name in _metrics(result.get(key) or {})]
    metric = next(iter(names), "")
    drawn = {}
    for key, name in _COMPARISONS.items():
        if key == "lift_upsampled_over_real":  # a control, told in the table
            continue
        rows = {
            _users(segment): found
            for segment, metrics in _ordered(result.get(key) or {}, _SEGMENTS)
            if (found := bounds(metrics.get(metric))) is not None
        }
        if rows:
            drawn[name] = rows
    if not drawn:
        return ""
    said = "; ".join(
        f"{name}: " + ", ".join(f"{segment} {percents(*b)}" for segment, b in rows.items())
        for name, rows in drawn.items()
    )
    caption = f"Lift of {metric_label(metric)} by segment, with paired 95 % intervals."
    if "folded_in" in (result.get("arms") or {}):
        caption += _FOLDED_IN
    return figure(lift_plot(drawn, f"{caption} {said}"), caption)


def _arms_table(result: Tree) -> str:
    lifts = [key for key in _COMPARISONS if key != "lift_over_prior"]
    return _results_table(
        "Metrics of the downstream model by segment and arm, and lift with paired 95 % intervals",
        dict(_ordered(result.get("arms") or {}, _ARMS)),
        {_COMPARISONS[key]: result[key] for key in lifts if result.get(key)},
    )


def _rankers_table(result: Tree) -> str:
    rankers = dict(_ordered(result.get("rankers") or {}, _RANKERS))
    return _results_table(
        "Metrics of the rankers by segment, and lift with paired 95 % intervals",
        {**rankers, **(result.get("baselines") or {})},
        {_COMPARISONS["lift_over_prior"]: result.get("lift_over_prior") or {}},
    )


def _results_table(caption: str, values: Tree, lifts: Tree) -> str:
    """One group of rows per segment: a row per arm or ranker, then a row per comparison."""
    present = {segment: metrics for rows in values.values() for segment, metrics in rows.items()}
    names = _metrics(present)
    groups = []
    for segment, _ in _ordered(present, _SEGMENTS):
        rows: list[Row] = [
            (label(arm), [Cell(number((of.get(segment) or {}).get(name))) for name in names])
            for arm, of in values.items()
        ]
        rows += [
            (
                comparison,
                [
                    lift_cell(of[segment][name]) if name in (of[segment] or {}) else Cell("")
                    for name in names
                ],
            )
            for comparison, of in lifts.items()
            if segment in of
        ]
        groups.append((_users(segment), rows))
    return table(caption, ["", *map(metric_label, names)], groups) if groups else ""


def _coverage_figure(result: Tree) -> str:
    named = {**(result.get("arms") or {}), **(result.get("rankers") or {})}
    coverage = {}
    for name, segments in _ordered(named, (*_ARMS, *_RANKERS)):
        metrics = segments.get("all") or {}
        value = next((v for key, v in metrics.items() if key.startswith("coverage_at_")), None)
        if value is not None:
            coverage[label(name)] = float(value)
    if not coverage:
        return ""
    caption = "Share of the rankable catalogue recommended to at least one test user."
    said = ", ".join(f"{name} {100 * value:.1f} %" for name, value in coverage.items())
    return figure(coverage_plot(coverage, f"{caption} {said}."), caption)


def _popularity_figure(result: Tree) -> str:
    events = {kind: counts for kind, counts in (result.get("popularity") or {}).items() if counts}
    if not events:
        return ""
    caption = "Events per item against the item's rank, on logarithmic axes."
    said = "; ".join(
        f"{kind}: {sum(counts):,} events on {len(counts):,} items, {max(counts):,} on the first"
        for kind, counts in sorted(events.items())
    )
    return figure(popularity_plot(dict(sorted(events.items())), f"{caption} {said}."), caption)


def _calibration_figure(result: Tree) -> str:
    bins = [
        row
        for row in result.get("calibration") or ()
        if row.get("predicted") is not None and row.get("observed") is not None
    ]
    if not bins:
        return ""
    caption = "Predicted likelihood against observed frequency; the dotted line is perfect."
    predicted, observed = ([float(row[key]) for row in bins] for key in ("predicted", "observed"))
    rows: list[Row] = [
        (
            plain(row["predicted"]),
            [Cell(plain(row["observed"])), Cell(plain(row.get("count")))],
        )
        for row in bins
    ]
    plot = calibration_plot(predicted, observed, f"{caption} The table below has the values.")
    head = ["predicted", "observed", "candidates"]
    return figure(plot, caption) + table("Calibration by bin", head, [("", rows)])


def _gate_table(result: Tree) -> str:
    rows: list[Row] = [
        (
            str(check.get("check")),
            [
                Cell("passed", "up") if check.get("passed") else Cell("failed", "down"),
                Cell(plain(check.get("value"))),
                Cell(plain(check.get("threshold"))),
                Cell(plain(check.get("detail")), "words"),
            ],
        )
        for check in result.get("gate") or ()
    ]
    head = ["check", "outcome", "value", "threshold", "detail"]
    return table("What the gate checked before publishing", head, [("", rows)]) if rows else ""


def _run(result: Tree) -> str:
    command, config = result.get("command"), result.get("config_fingerprint")
    parts = [f"<p>Command</p>\n<pre><code>{text(command)}</code></pre>\n"] if command else []
    if config:
        parts.append(f"<p>Configuration <code>{text(config)}</code></p>\n")
    captions = {
        "lineage": "Lineage",
        "counts": "Counts",
        "upkeep": "Kept and taken back",
        "timings_s": "Timings in seconds",
        "versions": "Versions",
    }
    for key, caption in captions.items():
        rows: list[Row] = [
            (name, [Cell(plain(value))]) for name, value in _flat(result.get(key) or {})
        ]
        if rows:
            parts.append(table(caption, ["", caption.lower()], [("", rows)]))
    return "".join(parts)


def _ordered(tree: Tree, first: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The entries of `tree`, those named in `first` in that order, then the others by name."""
    names = [name for name in first if name in tree]
    names += sorted(name for name in tree if name not in first)
    return ((name, tree[name]) for name in names)


def _users(segment: str) -> str:
    return f"{label(segment)} users"


def _metrics(segments: Tree) -> list[str]:
    """The metric names under `segments`: NDCG, recall, coverage, then others."""
    names = {name for metrics in segments.values() for name in metrics or ()}
    order = {prefix: place for place, prefix in enumerate(_METRICS)}
    return sorted(names, key=lambda name: (order.get(name.split("_")[0], len(order)), name))


def _flat(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in sorted(tree.items()):
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
