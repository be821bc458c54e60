"""The weight of a synthetic event: a scale times four factors, composed here and nowhere else.

    sample_weight = scale * history_weight * likelihood_weight * density_weight * age_weight

Each factor stays a column, so that a reader can take one out again. `history_weight` comes with the
drawn row; the others are computed from the row alone, and so is their product.

Negatives say what a user did not choose. They keep the factors that tell how much their user and
their time count, history and age, and have 1 for the other two.

Legend: N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalr_ray.core.events import WEIGHT_FACTORS

_DAY_MICROS = 86_400_000_000
# A row counts at most ten times what another of its user and time counts, or a tenth of it.
_LIKELIHOOD_BOUNDS = (0.1, 10.0)


@dataclass(frozen=True, kw_only=True)
class WeightRule:
    """How the factors are computed and what they are scaled by.

    Attributes:
        as_of_micros: the cut, microseconds since 1970.
        likelihood_power: exponent of the likelihood over that of the prior.
        age_half_life_days: the weight is halved per so many days before the cut; None: never.
        scale: shared by all rows of the batch.
    """

    as_of_micros: int
    likelihood_power: float
    age_half_life_days: float | None
    scale: float

    def factors(
        self, drawn: pa.Table, density: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """(N,) per factor of `WEIGHT_FACTORS`.

        Args:
            drawn: with `label`, `history_weight`, `log_lift` and `event_timestamp`.
            density: (N,) the density weight of each row, were it a positive.
        """
        positive = drawn["label"].to_numpy() > 0
        lift = np.exp(
            np.clip(
                drawn["log_lift"].to_numpy() * self.likelihood_power, *np.log(_LIKELIHOOD_BOUNDS)
            )
        )
        return {
            "history_weight": drawn["history_weight"].to_numpy(),
            "likelihood_weight": np.where(positive, np.clip(lift, *_LIKELIHOOD_BOUNDS), 1.0),
            "density_weight": np.where(positive, density, 1.0),
            "age_weight": self._age(drawn["event_timestamp"].cast(pa.int64()).to_numpy()),
        }

    def sample_weight(self, factors: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """(N,) the scale times the factors."""
        return np.asarray(self.scale * product(factors))

    def _age(self, micros: NDArray[np.int64]) -> NDArray[np.float64]:
        if self.age_half_life_days is None:
            return np.ones(len(micros))
        days = (self.as_of_micros - micros) / _DAY_MICROS
        return np.asarray(np.exp2(-days / self.age_half_life_days))


def product(factors: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """(N,) the factors multiplied, always in the order of `WEIGHT_FACTORS`."""
    first, *others = (factors[name] for name in WEIGHT_FACTORS)
    for factor in others:
        first = first * factor
    return first


@dataclass(frozen=True, kw_only=True)
class MassReport:
    """How much the accepted events count, all together.

    Attributes:
        rows: positives that stay.
        mass: sum of their weights at `scale`.
        real_events: target events as of the cut.
        asked_scale: the scale that was asked for.
        scale: the scale that is used: lower where the mass would have been too large.
        published: sum of the weights of what was published before and stays, where it was asked.
    """

    rows: int
    mass: float
    real_events: int
    asked_scale: float
    scale: float
    published: float = 0.0

    @property
    def sentence(self) -> str:
        """The finding in one line."""
        share = self.mass / max(self.real_events, 1)
        lowered = (
            ""
            if self.scale == self.asked_scale
            else f" (lowered from {self.asked_scale:g}, to keep to weights.mass_frac)"
        )
        together = (self.mass + self.published) / max(self.real_events, 1)
        beside = f", {together:.3f} with what is published" if self.published else ""
        return (
            f"weights: {self.rows:,} events at scale {self.scale:g}{lowered} sum to "
            f"{self.mass:,.1f}, {share:.3f} per real target event{beside}"
        )


class ExactSum:
    """A sum that does not depend on the order of what is added, to 2^-30 per addend.

    A sum of floating numbers depends on their order in its last digits, and so would every weight
    of the batch on how its rows are split among files.
    """

    _UNITS_PER_ONE = 2**30

    def __init__(self) -> None:
        self._units = 0
        self._rounded = 0  # addends

    def add(self, values: NDArray[np.float64]) -> None:
        """Add all of `values`, none of them negative."""
        whole = np.floor(values)
        exact = (values - whole) * self._UNITS_PER_ONE
        parts = np.rint(exact)
        self._rounded += int(np.count_nonzero(parts != exact))
        self._units += int(whole.astype(np.int64).sum()) * self._UNITS_PER_ONE
        self._units += int(parts.astype(np.int64).sum())

    @property
    def value(self) -> float:
        """What has been added so far."""
        return self._units / self._UNITS_PER_ONE

    @property
    def most(self) -> float:
        """The largest that the sum can be, for all that was rounded."""
        return (self._units + 0.5 * self._rounded) / self._UNITS_PER_ONE
