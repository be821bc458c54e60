"""What number, weight, choice and likeness of the events do to their worth: four curves.

    python -m tests.bench.curves --data FOLDER [--only food] [--out FOLDER]
    python -m tests.bench.curves --world [--users 6000] [--out FOLDER]

For each direction, or in a simulated world, a frequency translator draws events as of the test cut
for the users without target history, 60 each and of weight 0.1, unless the row says otherwise. The
downstream model trains on the real events and on each row's; lifts of NDCG@20 over real events
alone are paired, with 95 % intervals over users and seeds. A table goes to standard output, and a
figure of four panels into the folder:

    number      shares of the events, each within the next, and more events for every user
    weight      of each event
    choice      sampled from the likelihood, or the likeliest alone; and the catalogue they cover
    alignment   off and on, and how well a classifier still tells the events from real ones (AUC)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.jobs.arms import within_share
from scalr_ray.simulate import World, WorldConfig
from tests.bench.ablation import SCALE, Downstream, Drawn, draw, fit, per_event, shown
from tests.bench.amazon import DIRECTIONS, Split, read_split
from tests.bench.curves_plot import SEGMENTS, curves_plot
from tests.bench.worlds import split_world
from tests.support.small_worlds import domain_tables
from training.lift import Interval

SHARES = (0.1, 0.25, 0.5)
PER_USER = (120, 240)
WEIGHTS = (0.03, 0.1, 0.3, 1.0)
CHOICES = {"the likeliest of each user": {"generation": {"strategy": "top"}}}
ALIGNMENTS = {
    "by popularity": {"alignment": {"by": "popularity"}},
    "density weights": {"alignment": {"density_clip": 10.0}},
    "both": {"alignment": {"by": "popularity", "density_clip": 10.0}},
}
HEAD = ("", "events", "mass", "catalogue covered", "AUC", *(f"lift, {name}" for name in SEGMENTS))


@dataclass(frozen=True, kw_only=True)
class Point:
    """One training set, and what it is worth.

    Attributes:
        panel: of the figure.
        name: of the row and of the tick.
        events: how many synthetic ones.
        mass: their weights, per real event.
        covered: the share of the catalogue that has one.
        auc: of a classifier that tells them from real ones; None where none was asked.
        lifts: of NDCG@20 over real events alone, by segment.
    """

    panel: str
    name: str
    events: int
    mass: float
    covered: float
    auc: float | None
    lifts: Mapping[str, Interval]

    @property
    def line(self) -> str:
        """The row of the table."""
        cells = [
            f"{self.panel}: {self.name}",
            f"{self.events:,}",
            f"{self.mass:.2f}",
            f"{100 * self.covered:.0f} %",
            "" if self.auc is None else f"{self.auc:.3f}",
            *(shown(self.lifts[segment]) for segment in SEGMENTS),
        ]
        return f"| {' | '.join(cells)} |"


def nested(drawn: Drawn, share: float) -> pa.Table:
    """The rows whose event comes by its hash among this share: all of a smaller share's, and more.

    At 1 they are the rows as they stand.
    """
    return drawn.rows.filter(within_share(drawn.event_ids, share))


def weighed(drawn: Drawn, weight: float) -> pa.Table:
    """The rows, each of this weight where it was of the scale's."""
    at = drawn.rows.schema.get_field_index("sample_weight")
    weights = pc.multiply(drawn.rows["sample_weight"], weight / SCALE)
    return drawn.rows.set_column(at, "sample_weight", weights)


def curves(split: Split, note: Callable[[Point], None]) -> list[Point]:
    """All points of a direction; each is told as soon as it is there."""
    model, downstream = fit(split), Downstream.of(split)
    base, plain = downstream.arm(), draw(split, model, {})
    of_plain = downstream.lifts(plain.rows, base)

    def measured() -> Iterator[tuple[str, str, pa.Table, float | None]]:
        auc = _last(plain)
        for share in SHARES:
            yield "number", f"{share:g}", nested(plain, share), None
        yield "number", "1", plain.rows, None
        for per_user in PER_USER:
            more = draw(split, model, {"generation": {"per_user": per_user}})
            yield "number", f"{per_user // 60}", more.rows, None
        for weight in WEIGHTS:
            rows = plain.rows if weight == SCALE else weighed(plain, weight)
            yield "weight", f"{weight:g}", rows, None
        yield "choice", "sampled", plain.rows, None
        for name, changes in CHOICES.items():
            yield "choice", name, draw(split, model, changes).rows, None
        one = per_event(split, model).rows
        share = one.num_rows / plain.rows.num_rows
        yield "choice", "the likeliest of each event", one, None
        if share < 1:
            yield "choice", "sampled, as few", nested(plain, share), None
        yield "alignment", "off", plain.rows, auc
        for name, changes in ALIGNMENTS.items():
            aligned = draw(split, model, changes)
            yield "alignment", name, aligned.rows, _last(aligned)

    points = []
    for panel, name, rows, auc in measured():
        point = Point(
            panel=panel,
            name=name,
            events=rows.num_rows,
            mass=downstream.mass(rows),
            covered=downstream.covered(rows),
            auc=auc,
            lifts=of_plain if rows is plain.rows else downstream.lifts(rows, base),
        )
        note(point)
        points.append(point)
    return points


def _last(drawn: Drawn) -> float | None:
    """The AUC after all that was done to the events."""
    return None if drawn.auc is None else drawn.auc[-1]


def simulated(users: int) -> Split:
    """The world that `scalr demo` simulates, of so many users, cut like the logs."""
    return split_world(*domain_tables(World.generate(WorldConfig(users=users))))


def _splits(asked: argparse.Namespace) -> Iterator[tuple[str, str, Split]]:
    if asked.world:
        yield "source", "target", simulated(asked.users)
        return
    for name, source, target in DIRECTIONS:
        if asked.only in ("", target):
            yield source, target, read_split(asked.data, name, [source], target)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table and write a figure per direction."""
    parser = argparse.ArgumentParser(description="what the events are worth, by four settings")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", type=Path, help="folder of the Amazon logs")
    where.add_argument("--world", action="store_true", help="a simulated world instead")
    parser.add_argument("--only", default="", help="a target domain, say food; all by default")
    parser.add_argument("--users", type=int, default=6000, help="of the simulated world")
    parser.add_argument("--out", type=Path, default=Path("curves"), help="folder of the figures")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    for source, target, split in _splits(asked):
        _say(f"\n**{source} → {target}**\n")
        _say(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
        points = curves(split, lambda point: _say(point.line))
        figure = asked.out / f"curves-{source}-{target}.svg"
        figure.write_text(curves_plot(points, f"{source} → {target}"), encoding="utf-8")
        _say(f"\nFigure: {figure}")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
