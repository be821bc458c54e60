"""What the events are worth to trainers of probabilities: entropy and calibration of pairs.

    python -m tests.bench.pointwise --data FOLDER [--seeds 2] [--only food] [--kind neural]

The cuts, events, placebos and arms of `tests.bench.verdict`. Each trainer says how likely it is
that a pair was taken: what the test users took after the cut, and beside each of these pairs four
others, drawn evenly from the catalogue as the trainers draw theirs. All arms are asked about the
same pairs.

How much a synthetic event counts is chosen on the validation window by the same rule, the log loss
taking the place of the likelihood of a ranking; by `fold-in`, where the probabilities of warm users
stay as they are bit for bit, no weight is left out.

NE is the normalised entropy: the log loss over that of the base rate; what changes it is given in
percent of that of real only, paired, with 95 % intervals over users and seeds: below 0 is better.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalr_ray.core.keyed import keyed_bits, stream_seed
from scalr_ray.jobs.arms import Holdout
from scalr_ray.jobs.weight_rule import least_harmless
from tests.bench.amazon import DIRECTIONS, read_split
from tests.bench.directions import interval, say
from tests.bench.verdict import (
    ARMS,
    BOOTSTRAP,
    FITTED,
    PRIORS,
    WEIGHTS,
    Bench,
    at,
    benches,
)
from training.bootstrap import Draws, Interval, mean_lifts
from training.models import PopularityConfig
from training.models.dcn import DCN, DCNConfig
from training.models.neural import Synthetic
from training.models.trees import Trees, TreesConfig
from training.pointwise import (
    area_under_curve,
    calibration_ratio,
    expected_calibration_error,
    log_losses,
    normalised_entropy,
)

NEGATIVES = 4
BATCH_ROWS = 512
SEGMENTS = ("hidden", "warm", "all")
Pointwise = DCN | Trees
Said = NDArray[np.float64]  # (P,) the probability of each pair


def dcn(way: Synthetic) -> Callable[[PopularityConfig, float], DCN]:
    """The cross network, synthetic rows entering by `way`."""

    def of(prior: PopularityConfig, growth: float) -> DCN:
        real_first = way in {"pretrain", "fold-in"}
        batch = BATCH_ROWS if real_first else round(BATCH_ROWS * growth)
        settings = {"width": 16, "epochs": 5, "negatives": NEGATIVES, "synthetic": way}
        return DCN(DCNConfig(prior=prior, batch=batch, **settings))

    return of


TRAINERS: dict[str, Callable[[PopularityConfig, float], Pointwise]] = {
    "trees, rows": lambda prior, _: Trees(TreesConfig(prior=prior, negatives=NEGATIVES)),
    "dcn, rows": dcn("rows"),
    "dcn, head": dcn("head"),
    "dcn, pretrain": dcn("pretrain"),
    "dcn, fold-in": dcn("fold-in"),
}


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What trainers are asked about.

    Attributes:
        places: (P,) of the users among the test users.
        users: (P,) their codes.
        items: (P,) item codes.
        labels: (P,) which pairs were taken.
    """

    places: NDArray[np.int64]
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    labels: NDArray[np.bool_]

    @classmethod
    def of(cls, test: Holdout) -> Pairs:
        """The outcomes of the test users and their negatives, the same for every trainer."""
        taken, items = test.relevant.nonzero()
        seed = stream_seed("pairs", 0)
        slots = np.arange(NEGATIVES)
        bits = keyed_bits(seed, test.users[taken][:, None], items[:, None], slots[None, :])
        others = (bits % np.uint64(test.relevant.shape[1])).astype(np.int64)
        places = np.repeat(taken, 1 + NEGATIVES).astype(np.int64)
        return cls(
            places=places,
            users=test.users[places],
            items=np.column_stack([items, others]).ravel().astype(np.int64),
            labels=np.tile(np.arange(1 + NEGATIVES) == 0, len(items)),
        )

    def losses(self, said: Said) -> NDArray[np.float64]:
        """(B,) the nats that each test user's pairs lose."""
        return np.bincount(self.places, weights=log_losses(self.labels, said))

    def where(self, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(P,) weight 1 where the test user is in a segment (B,)."""
        return mask[self.places].astype(np.float64)


def said_of(model: Pointwise, pairs: Pairs) -> Said:
    """What a fitted model says of the pairs."""
    return model.probabilities(pairs.users, pairs.items).astype(np.float64)


def chosen_weight(
    bench: Bench,
    trainer: Callable[[PopularityConfig, float], Pointwise],
    drawn: Sequence[pa.Table],
    *,
    moves_warm: bool,
) -> float:
    """The least weight that is as good as the best on the window; a draw for each seed."""
    pairs, warm = Pairs.of(bench.test), bench.test.segments["warm"]
    loss = {
        weight: np.mean(
            [
                pairs.losses(said_of(bench.fitted(trainer, at(rows, weight), 0.0, seed), pairs))
                for seed, rows in enumerate(drawn)
            ],
            axis=0,
        )
        for weight in WEIGHTS
    }
    less = {weight: loss[0.0] - found for weight, found in loss.items()}
    for weight, found in less.items():
        sys.stderr.write(f"  {weight}: {found.mean():+.4f} nats, warm {found[warm].mean():+.4f}\n")
    weight = least_harmless(less, warm if moves_warm else np.zeros_like(warm))
    assert weight is not None  # no events at all harm nobody
    return weight


def study(
    bench: Bench,
    trainer: Callable[[PopularityConfig, float], Pointwise],
    weight: float,
    drawn: Sequence[tuple[pa.Table, pa.Table]],
) -> dict[str, list[Said]]:
    """What every arm says of the pairs, by seed; a draw for each."""
    pairs, real_mass = Pairs.of(bench.test), len(bench.events.target)
    said: dict[str, list[Said]] = {name: [] for name in ARMS}
    for seed, (synthetic, placebo) in enumerate(drawn):
        mass = weight * synthetic.num_rows / real_mass
        asked = (
            (None, 0.0),
            (at(synthetic, weight), 0.0),
            (at(placebo, weight), 0.0),
            (None, mass),
        )
        for name, (added, more) in zip(ARMS, asked, strict=True):
            if name != ARMS[0] and not weight:
                said[name].append(said[ARMS[0]][-1])
                continue
            said[name].append(said_of(bench.fitted(trainer, added, more, seed), pairs))
    return said


def changes(arm: Sequence[Said], base: Sequence[Said], test: Holdout) -> dict[str, Interval]:
    """What the normalised entropy of `arm` is over that of `base`, less 1, by segment."""
    pairs, found = Pairs.of(test), {}
    values = np.array([[[pairs.losses(one) for one in each]] for each in (arm, base)])
    for name in SEGMENTS:
        of_segment = values[..., test.segments[name]]
        users = of_segment.shape[-1]
        draws = Draws(seed=0, users=users, seeds=len(arm), count=BOOTSTRAP, level=0.95)
        (found[name],) = mean_lifts(of_segment, draws)
    return found


def line(name: str, weight: float, said: Mapping[str, list[Said]], test: Holdout) -> str:
    """A row of the first table."""
    real, synthetic, placebo, upsampled = (said[arm] for arm in ARMS)
    changed = changes(synthetic, real, test)
    cells = [
        name,
        f"{weight:g}",
        interval(changed["hidden"]),
        interval(changes(placebo, real, test)["hidden"]),
        interval(changes(upsampled, real, test)["hidden"]),
        interval(changed["warm"]),
        interval(changed["all"]),
    ]
    return f"| {' | '.join(cells)} |"


def other_line(name: str, said: Mapping[str, list[Said]], test: Holdout, segment: str) -> str:
    """A row of the second table: what the arms' probabilities are worth."""
    pairs = Pairs.of(test)
    weights = pairs.where(test.segments[segment])
    cells = [f"{name}, {segment}"]
    for metric, digits in (
        (area_under_curve, 3),
        (normalised_entropy, 3),
        (calibration_ratio, 2),
        (expected_calibration_error, 3),
    ):
        means = [np.mean([metric(pairs.labels, one, weights) for one in said[arm]]) for arm in ARMS]
        cells.append(" / ".join(f"{mean:.{digits}f}" for mean in means))
    return f"| {' | '.join(cells)} |"


HEADER = (
    "| trainer | weight | NE, hidden | placebo's NE, hidden | upsampled's NE, hidden | NE, warm "
    "| NE, all |\n" + "|---" * 7 + "|"
)
OTHER_HEADER = (
    f"\n{' / '.join(ARMS)}:\n\n| trainer, users | AUC | NE | predicted over observed | ECE |\n"
    + "|---" * 5
    + "|"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Print two tables per direction."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--kind", choices=tuple(FITTED), default="frequency")
    parser.add_argument("--only", help="a target domain; default: all four directions")
    parser.add_argument("--trainers", default=None, help=f"of {'; '.join(TRAINERS)}; by ';'")
    asked = parser.parse_args(argv)
    names = asked.trainers.split(";") if asked.trainers else list(TRAINERS)
    for data, source, target in DIRECTIONS:
        if asked.only and asked.only != target:
            continue
        split = read_split(asked.data, data, [source], target)
        validation, test = benches(split, asked.kind, PRIORS["90 days"](split))
        on_window = [validation.draw(seed)[0] for seed in range(asked.seeds)]
        drawn = [test.draw(seed) for seed in range(asked.seeds)]
        say(f"\n**{source} → {target}** ({split.test.sizes['all']:,} test users)\n\n{HEADER}")
        others = []
        for name in names:
            sys.stderr.write(f"{target}, {name}\n")
            moves = not name.endswith("fold-in")
            weight = chosen_weight(validation, TRAINERS[name], on_window, moves_warm=moves)
            said = study(test, TRAINERS[name], weight, drawn)
            say(line(name, weight, said, split.test))
            others += [other_line(name, said, split.test, part) for part in ("hidden", "warm")]
        say(OTHER_HEADER)
        say("\n".join(others))
    return 0


if __name__ == "__main__":
    sys.exit(main())
