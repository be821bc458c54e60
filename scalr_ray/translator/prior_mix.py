"""What the prior is made of: look-backs and their weights.

Legend: I target items, K windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Whole numbers, but for events that stand for what might have been.
_Numbers = NDArray[np.int64] | NDArray[np.float64]

DAY_MICROS = 86_400_000_000
# What the all-time window weighs at least: an item that was ever seen has a positive prior.
MIN_ALL_TIME = 1e-4


@dataclass(frozen=True, kw_only=True)
class PriorMix:
    """Which look-backs make up the prior, and how much each of them weighs.

    With n_k(i) the events of item i in window k, and n_k those of all items:

        prior(i) = sum_k weight_k * n_k(i) / n_k           a mixture of shares
        prior(i) ~ sum_k weight_k * n_k(i)                 with `per_event`

    In a mixture of shares, a window without events stands for the next longer one.

    Attributes:
        windows_days: (K,) ascending lengths; the last is None, all time.
        weights: (K,) weights; in a mixture of shares they sum to one.
        per_event: whether a weight belongs to each event rather than to the window as a whole.

    Raises:
        ValueError: the windows do not ascend to None, or the weights do not fit them.

    Example:
        >>> PriorMix(windows_days=(30, None), weights=(0.9, 0.1)).weights
        (0.9, 0.1)
    """

    windows_days: tuple[int | None, ...]
    weights: tuple[float, ...]
    per_event: bool = False

    def __post_init__(self) -> None:
        check_windows(self.windows_days)
        if len(self.weights) != len(self.windows_days) or min(self.weights) < 0:
            raise ValueError(f"each window needs a weight of 0 or more, not {self.weights}")
        if self.per_event:
            if self.weights[-1] <= 0:
                raise ValueError("an event of any age needs a positive weight")
        elif abs(sum(self.weights) - 1.0) > 1e-9 or self.weights[-1] < MIN_ALL_TIME:
            raise ValueError(
                f"the weights of a mixture sum to 1, and all time weighs {MIN_ALL_TIME} or more; "
                f"got {self.weights}"
            )

    @classmethod
    def recent(cls, *, window_days: int, background: float) -> PriorMix:
        """One look-back: an event of the window counts 1 + background, an older one background.

        Example:
            >>> PriorMix.recent(window_days=90, background=0.01).windows_days
            (90, None)
        """
        return cls(windows_days=(window_days, None), weights=(1.0, background), per_event=True)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> PriorMix:
        """The mix whose `asdict` was saved."""
        return cls(
            windows_days=tuple(saved["windows_days"]),
            weights=tuple(saved["weights"]),
            per_event=saved["per_event"],
        )

    def of_counts(
        self, counts: Sequence[_Numbers], totals: Sequence[_Numbers]
    ) -> NDArray[np.float64]:
        """The prior from the counts of the windows.

        Args:
            counts: K arrays of one shape, the events of each item in the window.
            totals: K arrays that broadcast against `counts`, the events of all items.

        Returns:
            The prior in the shape of `counts`; 0 where no item has an event.
        """
        # From whole numbers, so that items without events cannot move the last bit.
        if self.per_event:
            mass = _weighted_sum(self.weights, counts)
            total = _weighted_sum(self.weights, totals)
            return np.asarray(mass / np.where(total > 0, total, 1.0))
        return _weighted_sum(self.weights, shares_of(counts, totals))


def check_windows(windows_days: tuple[int | None, ...]) -> None:
    """Refuse windows that do not ascend to None.

    Raises:
        ValueError: they do not.
    """
    finite = [days for days in windows_days if days is not None]
    ascending = all(shorter < longer for shorter, longer in pairwise([0, *finite]))
    if windows_days[-1:] != (None,) or len(finite) != len(windows_days) - 1 or not ascending:
        raise ValueError(f"windows ascend and end with None, all time; got {windows_days}")


def shares_of(counts: Sequence[_Numbers], totals: Sequence[_Numbers]) -> list[NDArray[np.float64]]:
    """The share of each item in each window, or in the next longer one that has events.

    Args:
        counts: K arrays of one shape, the events of each item in the window.
        totals: K arrays that broadcast against `counts`, the events of all items.

    Returns:
        K arrays in the shape of `counts`; 0 where no window has events.
    """
    shares = [counts[-1] / np.maximum(totals[-1], 1)]
    for count, total in zip(counts[-2::-1], totals[-2::-1], strict=True):
        shares.append(np.where(total > 0, count / np.maximum(total, 1), shares[-1]))
    return shares[::-1]


def _weighted_sum(weights: tuple[float, ...], terms: Sequence[_Numbers]) -> NDArray[np.float64]:
    """sum_k weight_k * term_k, added up in the order of the windows."""
    total = np.zeros(np.shape(terms[0]))
    for weight, term in zip(weights, terms, strict=True):
        total += weight * term
    return total
