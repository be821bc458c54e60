"""The items that a batch of queries is told apart from, and what is known of them as of each query.

A small catalogue is compared in full. A large one by the items that the batch's queries ask for and
some drawn uniformly, each with log(times drawn / expected times drawn) added to its score: the sum
over candidates is then an unbiased estimate of the sum over the catalogue (the balance heuristic of
multiple importance sampling; the logQ correction of Yi et al. 2019 with both sources of negatives).

Legend: Q queries, K candidates, U distinct moments of the queries, I items of the catalogue, E
times as of which features of items are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalr_ray.core.keyed import keyed_uniform
from scalr_ray.translator.neural.batch import Batch, moved
from scalr_ray.translator.prior import DAY_MICROS

# Ages of an item in days that part its age classes; class 0 is younger than the first.
AGE_DAYS = (7, 30, 90, 180, 365, 730)
# Epoch by epoch the same moments come again: the priors of a small catalogue are kept.
_KEPT_ITEMS = 1 << 15
_KEPT_BYTES = 512 << 20


class PriorAt(Protocol):
    """The prior of items as of moments, for example a `PopularityIndex`."""

    def log_prior(
        self, items: NDArray[np.int64], times: NDArray[np.int64] | int
    ) -> NDArray[np.float32]:
        """The log prior in the broadcast shape; -inf where an item is not visible as of a time."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """K items and how they stand as of the moments of the queries.

    Attributes:
        items: (K,) ascending item codes.
        offsets: (K,) float32, log(times drawn / expected times drawn); 0 for a full catalogue.
        moments: (Q,) which moment is that of each query.
        log_prior: (U, K) float32 as of each moment; -inf where not visible.
        ages: (U, K) uint8 age class of each item as of each moment.
        columns: (Q,) where each query's own item stands in `items`.
        owned: (2, M) query and column of what the user has by the query's time.
        eras: (Q,) which of the times of `features` is that of each query.
        features: encoded item features, K rows for each time that a query reads them as of; None
            where the net takes none.
    """

    items: Tensor
    offsets: Tensor
    moments: Tensor
    log_prior: Tensor
    ages: Tensor
    columns: Tensor
    owned: Tensor
    eras: Tensor
    features: Mapping[str, Tensor] | None = None

    def to(self, device: torch.device) -> Candidates:
        """The same on `device`."""
        return replace(self, **moved(self, device))

    def of_queries(self, start: int, stop: int) -> Candidates:
        """The same items for the queries from `start` to before `stop`, of those that there are."""
        query, column = self.owned
        among = (query >= start) & (query < stop)
        return replace(
            self,
            moments=self.moments[start:stop],
            columns=self.columns[start:stop],
            eras=self.eras[start:stop],
            owned=torch.stack((query[among] - start, column[among])),
        )


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The target items as candidates.

    Attributes:
        prior: what an observer without cross-domain knowledge predicts as of a moment.
        first_seen: (I,) microseconds since 1970 from when on some event on each item was
            visible: the time of an event that came to be known late would look ahead.
        shares: (I,) share of each item among the queries that are trained on.
        negatives: how many items are drawn for a batch; 0 compares with all of them.
        features: encoded item features, I rows for each of `feature_times`, one time after the
            other; None where the net takes none.
        feature_times: (E,) ascending, microseconds since 1970: a query reads the features as of the
            last of them that is not later than the query itself.
        grain: the prior of a query is that of its time rounded down to a multiple of this many
            microseconds: never later than the query, and few distinct moments.
    """

    prior: PriorAt
    first_seen: NDArray[np.int64]
    shares: NDArray[np.float64]
    negatives: int = 0
    features: Mapping[str, Tensor] | None = None
    feature_times: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    grain: int = DAY_MICROS
    _kept: dict[int, NDArray[np.float32]] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.first_seen)

    def candidates(self, batch: Batch, seed: int) -> Candidates:
        """What the queries of a batch are compared with; the draw depends on `seed` alone."""
        wanted = batch.query_items.numpy()
        items, offsets = self._all() if self.negatives == 0 else self._drawn(wanted, seed)
        moments, moment = np.unique(
            batch.query_times.numpy() // self.grain * self.grain, return_inverse=True
        )
        query, owned = batch.owned.numpy()
        place = np.minimum(np.searchsorted(items, owned), len(items) - 1)
        among = items[place] == owned
        chosen = torch.from_numpy(items)
        eras, era = self._eras(batch.query_times.numpy())
        return Candidates(
            items=chosen,
            offsets=torch.from_numpy(offsets),
            moments=torch.from_numpy(moment),
            log_prior=torch.from_numpy(self._log_prior(items, moments)),
            ages=torch.from_numpy(age_classes(self.first_seen[items], moments[:, None])),
            columns=torch.from_numpy(np.searchsorted(items, wanted)),
            owned=torch.from_numpy(np.stack((query[among], place[among]))),
            eras=torch.from_numpy(era),
            features=self._features_of(chosen, torch.from_numpy(eras)),
        )

    def _eras(self, times: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The feature times that queries at `times` (Q,) need, and which of these each needs."""
        latest = np.searchsorted(self.feature_times, times, side="right") - 1
        needed, era = np.unique(np.maximum(latest, 0), return_inverse=True)
        return (needed if len(needed) else np.zeros(1, dtype=np.int64)), era

    def _features_of(self, items: Tensor, eras: Tensor) -> dict[str, Tensor] | None:
        """The encoded features of `items` (K,), time after time."""
        if self.features is None:
            return None
        rows = (eras[:, None] * len(self) + items).ravel()
        return {name: value[rows] for name, value in self.features.items()}

    def _all(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return np.arange(len(self)), np.zeros(len(self), dtype=np.float32)

    def _drawn(
        self, wanted: NDArray[np.int64], seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        drawn = keyed_uniform(seed, np.arange(self.negatives)) * len(self)
        items, times = np.unique(
            np.concatenate((wanted, drawn.astype(np.int64))), return_counts=True
        )
        # For a query, the others of the batch are the draws by share; its own item needs no draw.
        expected = max(len(wanted) - 1, 0) * self.shares[items] + self.negatives / len(self)
        return items, np.log(times / expected).astype(np.float32)

    def _log_prior(
        self, items: NDArray[np.int64], moments: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        if len(self) > _KEPT_ITEMS:
            return self.prior.log_prior(items, moments[:, None])
        if (len(self._kept) + len(moments)) * len(self) * 4 > _KEPT_BYTES:
            self._kept.clear()
        missing = np.array([m for m in moments.tolist() if m not in self._kept], dtype=np.int64)
        rows = self.prior.log_prior(np.arange(len(self)), missing[:, None])
        self._kept.update(zip(missing.tolist(), rows, strict=True))
        if not len(moments):
            return np.empty((0, len(items)), dtype=np.float32)
        return np.stack([self._kept[moment][items] for moment in moments.tolist()])


def age_classes(
    first_seen: NDArray[np.int64], moments: NDArray[np.int64] | int
) -> NDArray[np.uint8]:
    """The age class of items first seen at a time, as of moments, in the broadcast shape."""
    # An item that is never seen has the largest time, so the difference is taken the other way.
    limits = np.array(AGE_DAYS, dtype=np.int64) * DAY_MICROS
    ages = np.maximum(moments, first_seen) - first_seen
    return np.searchsorted(limits, ages, side="right").astype(np.uint8)
