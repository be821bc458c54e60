"""Markup of the report: tables, figures and sections, and numbers as people read them.

Every text is escaped by `text`, here or where it is put into markup.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

_MISSING = "\N{EN DASH}"


class Cell(NamedTuple):
    """A table cell: plain text, and the class that styles it."""

    text: str
    style: str = "number"


Row = tuple[str, Sequence[Cell]]


def section(title: str, key: str, content: str) -> str:
    """A section headed `title`, of markup `content`; an empty one says that it was not measured."""
    shown = content or '<p class="missing">Not measured in this run.</p>\n'
    return f'<section id="{key}">\n<h2>{text(title)}</h2>\n{shown}</section>\n'


def figure(svg: str, caption: str) -> str:
    """A drawing with its caption."""
    return f"<figure>\n{svg}\n<figcaption>{text(caption)}</figcaption>\n</figure>\n"


def table(caption: str, head: Sequence[str], groups: Sequence[tuple[str, Sequence[Row]]]) -> str:
    """A table whose first column heads its rows; a group with a title gets a line of its own."""
    columns = "".join(
        f'<th scope="col">{text(name)}</th>' if name else "<td></td>" for name in head
    )
    bodies = []
    for title, rows in groups:
        lines = [
            f'<tr><th scope="rowgroup" colspan="{len(head)}" class="group">{text(title)}</th></tr>'
        ] * bool(title)
        lines += [
            f'<tr><th scope="row">{text(name)}</th>'
            + "".join(f'<td class="{cell.style}">{text(cell.text)}</td>' for cell in cells)
            + "</tr>"
            for name, cells in rows
        ]
        bodies.append("<tbody>" + "\n".join(lines) + "</tbody>\n")
    return (
        f'<div class="scroll"><table>\n<caption>{text(caption)}</caption>\n'
        f"<thead><tr>{columns}</tr></thead>\n{''.join(bodies)}</table></div>\n"
    )


def label(name: str) -> str:
    """The name of an arm, a ranker or a segment in words."""
    return name.replace("_", " ")


def metric_label(name: str) -> str:
    """The name of a metric as people write it, for example `NDCG@20`."""
    kind, _, k = name.partition("_at_")
    shown = kind.upper() if kind in {"ndcg", "mrr"} else kind.capitalize()
    return f"{shown}@{k}" if k else shown


def percents(estimate: float, low: float, high: float) -> str:
    """An interval in per cent, for example `+25.0 % [+16.0, +34.0]`."""
    return f"{100 * estimate:+.1f} % [{100 * low:+.1f}, {100 * high:+.1f}]"


def number(value: Any) -> str:  # noqa: ANN401 - a JSON value
    """A metric to four decimals."""
    return _MISSING if value is None else f"{value:.4f}"


def plain(value: Any) -> str:  # noqa: ANN401 - a JSON value
    """A value for reading: digits grouped, floats short."""
    if value is None:
        return _MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def text(value: object) -> str:
    """`value` as text that cannot become markup."""
    return html.escape(str(value))
