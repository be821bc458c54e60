"""The plots of the report, each an inline `<svg>` that follows the page's colours.

Matplotlib draws with placeholder colours, which become CSS variables, so one drawing serves light,
dark and print. Text stays text. The same data gives the same bytes.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Bounds = tuple[float, float, float]

_INK = "#010203"
_FAINT = "#040506"
_SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05")
_CSS = {
    _INK: "currentColor",
    _FAINT: "var(--line)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, 1)},
}
_MARKERS = ("o", "s", "D", "^", "v")
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "scalr",
    "text.parse_math": False,
    "font.size": 10,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
# A rank-frequency curve of a long tail holds more points than anyone can see.
_CURVE_POINTS = 200
# A longer name would leave no room for the axes.
_NAME_LENGTH = 28


@dataclass
class _Sheet:
    """One drawing: the axes while it is drawn, the markup afterwards."""

    axes: Axes
    markup: str = field(default="")


def lift_plot(
    comparisons: Mapping[str, Mapping[str, Bounds]], alt: str, *, name: str = "lift"
) -> str:
    """Intervals of a lift: one row per segment, one mark per comparison.

    Args:
        comparisons: name of a comparison to segment to (estimate, low, high), relative and finite.
        alt: what the plot shows, for those who cannot see it.
        name: of the drawing, which no other on the page has.
    """
    segments = list(dict.fromkeys(name for rows in comparisons.values() for name in rows))
    marks = len(comparisons)
    with _sheet(name, alt, height=0.9 + 0.25 * marks * len(segments)) as sheet:
        for number, (comparison, rows) in enumerate(comparisons.items()):
            places = [segments.index(name) + 0.66 * ((number + 0.5) / marks - 0.5) for name in rows]
            estimate, low, high = 100 * np.array(list(rows.values())).T
            sheet.axes.errorbar(
                estimate,
                places,
                xerr=np.abs([estimate - low, high - estimate]),
                fmt=_MARKERS[number % len(_MARKERS)],
                color=_SERIES[number % len(_SERIES)],
                markersize=6,
                elinewidth=2,
                label=_short(comparison),
            )
        sheet.axes.axvline(0, color=_INK, linewidth=1)
        for boundary in range(1, len(segments)):
            sheet.axes.axhline(boundary - 0.5, color=_FAINT, linewidth=0.6)
        sheet.axes.set_yticks(range(len(segments)), [_short(name) for name in segments])
        sheet.axes.set_ylim(len(segments) - 0.5, -0.5)
        sheet.axes.set_xlabel("lift, %")
        sheet.axes.grid(visible=True, axis="x")
        sheet.axes.tick_params(axis="y", length=0)
        _legend_above(sheet.axes)
    return sheet.markup


def volume_plot(lines: Mapping[str, Sequence[tuple[int, Bounds]]], alt: str) -> str:
    """Intervals of a lift against a number of events, a line for each segment.

    Args:
        lines: segment to its points, each a number and (estimate, low, high), relative and finite.
        alt: what the plot shows, for those who cannot see it.
    """
    with _sheet("volume", alt, height=3.4) as sheet:
        for number, (segment, points) in enumerate(lines.items()):
            counts = np.array([count for count, _ in points]) * (1 + 0.02 * number)
            estimate, low, high = 100 * np.array([found for _, found in points]).T
            sheet.axes.errorbar(
                counts,
                estimate,
                yerr=np.abs([estimate - low, high - estimate]),
                fmt=f"{_MARKERS[number % len(_MARKERS)]}-",
                color=_SERIES[number % len(_SERIES)],
                linewidth=1.5,
                label=_short(segment),
            )
        sheet.axes.axhline(0, color=_INK, linewidth=1)
        sheet.axes.set_xlim(left=0)
        sheet.axes.set_xlabel("synthetic events")
        sheet.axes.set_ylabel("lift, %")
        sheet.axes.xaxis.set_major_formatter(_plain_number)
        sheet.axes.grid(visible=True)
        _legend_above(sheet.axes)
    return sheet.markup


def coverage_plot(coverage: Mapping[str, float], alt: str) -> str:
    """Catalogue coverage, a fraction per arm or ranker, as bars."""
    names = list(coverage)
    percent = [100 * value for value in coverage.values()]
    with _sheet("coverage", alt, height=0.7 + 0.38 * len(names)) as sheet:
        bars = sheet.axes.barh(range(len(names)), percent, color=_SERIES[0], height=0.62)
        sheet.axes.bar_label(bars, fmt="%.1f %%", padding=4, color=_INK)
        sheet.axes.set_yticks(range(len(names)), [_short(name) for name in names])
        sheet.axes.invert_yaxis()
        sheet.axes.set_xlim(0, 1.15 * max([*percent, 1.0]))
        sheet.axes.set_xlabel("share of the rankable catalogue that was recommended, %")
        sheet.axes.tick_params(axis="y", length=0)
    return sheet.markup


def popularity_plot(events: Mapping[str, Sequence[float]], alt: str) -> str:
    """Events per item against the item's rank, both logarithmic, one curve per kind of event.

    Args:
        events: kind of event to its counts per item; order does not matter, zeros are left out.
        alt: what the plot shows, for those who cannot see it.
    """
    with _sheet("popularity", alt, height=3.4) as sheet:
        for number, (kind, values) in enumerate(events.items()):
            counts = np.sort(np.asarray(values, dtype=float))[::-1]
            counts = counts[counts > 0]
            if not counts.size:
                continue
            ranks = np.unique(np.geomspace(1, counts.size, _CURVE_POINTS).astype(int))
            sheet.axes.loglog(
                ranks,
                counts[ranks - 1],
                color=_SERIES[number % len(_SERIES)],
                linestyle=("-", "--", ":")[number % 3],
                linewidth=2,
                label=_short(kind),
            )
        sheet.axes.set_xlabel("rank of the item")
        sheet.axes.set_ylabel("events of the item")
        _plain_ticks(sheet.axes)
        sheet.axes.grid(visible=True)
        _legend_above(sheet.axes)
    return sheet.markup


def shares_plot(shares: Mapping[str, Sequence[float]], alt: str) -> str:
    """Shares of buckets, side by side, a bar for each kind.

    Args:
        shares: kind to its share of each bucket, as many of each.
        alt: what the plot shows, for those who cannot see it.
    """
    width = 0.8 / max(len(shares), 1)
    with _sheet("shares", alt, height=3.0) as sheet:
        for number, (kind, values) in enumerate(shares.items()):
            places = np.arange(len(values)) + (number - (len(shares) - 1) / 2) * width
            percent = 100 * np.asarray(values, dtype=float)
            colour = _SERIES[number % len(_SERIES)]
            sheet.axes.bar(places, percent, width, color=colour, label=_short(kind))
        buckets = max((len(values) for values in shares.values()), default=0)
        sheet.axes.set_xticks(range(buckets), [str(bucket) for bucket in range(1, buckets + 1)])
        sheet.axes.set_xlabel("bucket")
        sheet.axes.set_ylabel("share of the events, %")
        sheet.axes.tick_params(axis="x", length=0)
        _legend_above(sheet.axes)
    return sheet.markup


def calibration_plot(predicted: Sequence[float], observed: Sequence[float], alt: str) -> str:
    """Observed frequency against predicted likelihood per bin, both logarithmic, with y = x.

    Bins in which nothing was predicted or observed have no place on a logarithmic axis and are
    left out.
    """
    pairs = np.array([predicted, observed], dtype=float)
    x, y = pairs[:, (pairs > 0).all(axis=0)]
    with _sheet("calibration", alt, height=3.4) as sheet:
        if x.size:
            low, high = min(x.min(), y.min()) / 1.5, max(x.max(), y.max()) * 1.5
            sheet.axes.plot([low, high], [low, high], color=_INK, linewidth=1, linestyle=":")
        sheet.axes.loglog(x, y, marker="o", color=_SERIES[0], linewidth=2)
        sheet.axes.set_xlabel("predicted likelihood")
        sheet.axes.set_ylabel("observed frequency")
        _plain_ticks(sheet.axes)
        sheet.axes.grid(visible=True)
    return sheet.markup


@contextmanager
def _sheet(name: str, alt: str, *, height: float) -> Iterator[_Sheet]:
    """A figure of `height` inches to draw on; its markup is there when the block ends."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**mpl.rcParamsDefault, **_RC}):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        axes = figure.add_subplot(facecolor="none")
        axes.set_axisbelow(True)
        sheet = _Sheet(axes=axes)
        yield sheet
        text = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    sheet.markup = _inline(text.getvalue(), name, alt)


def _inline(svg: str, name: str, alt: str) -> str:
    """The `<svg>` element alone: own ids, the page's colours, a label, no outside names."""
    svg = svg[svg.index("<svg") :].replace("xlink:href", "href")
    head, body = svg.split(">", 1)
    box = re.findall(r'viewBox="[^"]*"', head)[0]
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body).replace("url(#", f"url(#{name}-")
    for placeholder, css in _CSS.items():
        body = body.replace(placeholder, css)
    return f'<svg {box} role="img" aria-label="{html.escape(alt)}">{body.strip()}'


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _legend_above(axes: Axes) -> None:
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.3)


def _plain_ticks(axes: Axes) -> None:
    # Matplotlib writes powers of ten as formulas, and formulas are switched off.
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_plain_number)
        axis.set_minor_formatter("")


def _plain_number(value: float, _position: object) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:.8f}".rstrip("0").rstrip(".")
