"""The four panels of `tests.bench.curves`, as one SVG that needs nothing beside it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from training.lift import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SEGMENTS = ("hidden", "all")
_COLOURS = ("#0b5cad", "#c2570c")
_MARKERS = ("o", "s")
_PANELS = {
    "number": "events, as multiples of 60 per user (logarithmic)",
    "weight": "weight of an event (logarithmic)",
    "choice": "choice; below, the catalogue covered by events",
    "alignment": "alignment; below, AUC of real against synthetic",
}
_CURVES = ("number", "weight")
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "scalr",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


class Measured(Protocol):
    """What is drawn of a point; see `tests.bench.curves.Point`."""

    @property
    def panel(self) -> str:
        """Of `_PANELS`."""

    @property
    def name(self) -> str:
        """Of the tick; a number where the panel is a curve."""

    @property
    def covered(self) -> float:
        """The share of the catalogue that has an event."""

    @property
    def auc(self) -> float | None:
        """Of a classifier, where one was asked."""

    @property
    def lifts(self) -> Mapping[str, Interval]:
        """By segment."""


def curves_plot(points: Sequence[Measured], title: str) -> str:
    """One panel per setting: the lift of hidden and of all users, with intervals.

    The same points give the same bytes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**mpl.rcParamsDefault, **_RC}):
        figure = Figure(figsize=(9.6, 7.2), layout="constrained")
        figure.suptitle(f"{title}: lift of NDCG@20 over real events alone, %")
        for axes, (panel, label) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
            shown = [point for point in points if point.panel == panel]
            _draw(axes, shown, curve=panel in _CURVES)
            axes.set_xlabel(label)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        text = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    return text.getvalue()


def _draw(axes: Axes, points: Sequence[Measured], *, curve: bool) -> None:
    places = [float(point.name) for point in points] if curve else list(range(len(points)))
    for number, segment in enumerate(SEGMENTS):
        lifts = [point.lifts[segment] for point in points]
        estimate, low, high = (
            100 * np.array([getattr(lift, name) for lift in lifts], dtype=float)
            for name in ("estimate", "low", "high")
        )
        aside = np.asarray(places) * 1.04**number if curve else np.asarray(places) + 0.12 * number
        axes.errorbar(
            aside,
            estimate,
            yerr=np.abs([estimate - low, high - estimate]),
            fmt=_MARKERS[number] + ("-" if curve else ""),
            color=_COLOURS[number],
            markersize=5,
            capsize=2,
            label=f"{segment} users",
        )
    if curve:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(places, [_tick(point) for point in points])
    axes.axhline(0, color="#555555", linewidth=0.8)
    axes.grid(visible=True, axis="y")
    axes.set_axisbelow(True)


def _tick(point: Measured) -> str:
    name = point.name.replace(" of ", "\nof ").replace(", ", ",\n")
    if point.panel == "choice":
        return f"{name}\n{100 * point.covered:.0f} %"
    return name if point.auc is None else f"{name}\n{point.auc:.3f}"
