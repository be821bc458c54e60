"""Sums over a catalogue that are estimated from some of its items, the same for every user.

Legend: U users, I items, S items sampled, N pairs of a user and an item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalr_ray.core.keyed import keyed_uniform, stream_seed
from scalr_ray.translator.neural.scan import ItemTable

_SAMPLED = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Items drawn by one keyed draw, the same whoever asks, to estimate weighted sums over all.

    Attributes:
        items: (S,) distinct.
        shares: (S,) the weight of each, by how much more often than once it was to be expected.
        slots: (I,) where each item stands among them; -1 if it was not drawn.
    """

    items: Tensor
    shares: Tensor
    slots: Tensor

    @classmethod
    def of(cls, weights: NDArray[np.float64], name: str) -> Sample:
        """Half by weight, half evenly: what weighs little may be what a user likes best."""
        chances = (
            np.where(weights > 0, weights / weights.sum() + 1.0 / np.sum(weights > 0), 0.0) / 2
        )
        total = np.cumsum(chances)
        start = keyed_uniform(stream_seed("index sample", name), 0)
        at = (np.arange(_SAMPLED) + start) * (total[-1] / _SAMPLED)
        drawn = np.minimum(np.searchsorted(total, at, side="right"), len(weights) - 1)
        items, times = np.unique(drawn, return_counts=True)
        slots = np.full(len(weights), -1)
        slots[items] = np.arange(len(items))
        return cls(
            items=torch.from_numpy(items),
            shares=torch.from_numpy(times / _SAMPLED * weights[items] / chances[items]),
            slots=torch.from_numpy(slots),
        )

    def match(self, queries: Tensor, table: ItemTable) -> Tensor:
        """(U, S) what each query makes of the items."""
        return queries[:, :-1] @ table.vectors[self.items, :-1].T

    def log_shares(self, users: int, *seen: tuple[Tensor, Tensor]) -> Tensor:
        """(U, S) of the items, -inf where one was `seen`: pairs of users and items, N each."""
        shares = self.shares.log().repeat(users, 1)
        for row, item in seen:
            slot = self.slots[item]
            shares[row[slot >= 0], slot[slot >= 0]] = -torch.inf
        return shares
