"""Two towers: a user's vector times an item's, by softmax over the whole catalogue.

Both towers are an embedding of the id and a residual layer. While training, the log of how much an
item was taken stands beside u·v, which so learns how much likelier than that; a score has the log
prior instead, which is how popular the item is by the cut.

A batch is one of users with all their rows, which share one softmax: sixty rows of a user cost
hardly more than one.

Shapes: `B` users of a batch, `N` rows of theirs, `U` users, `I` items, `D` width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from training.models.base import Interactions
from training.models.neural import Heads, Net, NeuralConfig, NeuralRanker, Weights, shrunk

_START_SCALE = 0.1


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig(NeuralConfig):
    """The settings of `TwoTower`."""

    batch: int = 128


class Tower(nn.Module):
    """Vectors of ids: an embedding, and a layer on top of it."""

    def __init__(self, ids: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(ids, width)
        nn.init.normal_(self.table.weight, std=_START_SCALE)
        self.layer = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, codes: Tensor, mass: Tensor) -> Tensor:
        """(B, D); shrunk where little `mass` (B,) lies behind an id."""
        found = self.table(codes)
        vectors: Tensor = shrunk(mass) * (found + self.layer(found))
        return vectors


class ItemHead(nn.Module):
    """How much likelier than its share an item is: a map of the user's vector, times the item's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.map.weight)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """(B, I) for `users` (B, D) and `items` (I, D)."""
        logits: Tensor = self.map(users) @ items.T
        return logits

    def loss(
        self, users: Tensor, items: Tensor, taken: Tensor, weights: Tensor, share: Tensor
    ) -> Tensor:
        """The weighted cross-entropy of the items that were `taken` (B,), summed."""
        losses = cross_entropy(self(users, items) + share, taken, reduction="none")
        total: Tensor = (weights * losses).sum()
        return total

    def loss_of_rows(
        self,
        users: Tensor,
        items: Tensor,
        rows: tuple[Tensor, Tensor],
        weights: Tensor,
        share: Tensor,
    ) -> Tensor:
        """The same of N `rows`, each the place of its user in the batch and the item taken."""
        logits = self(users, items) + share
        owners, _ = rows
        mass = weights.new_zeros(len(users)).index_add(0, owners, weights)
        total: Tensor = mass @ logits.logsumexp(dim=-1) - weights @ logits[rows]
        return total


class TwoTowerNet(Net):
    """The towers and the heads."""

    user_tables = ("users.table.weight",)

    def __init__(self, users: int, items: int, width: int) -> None:
        super().__init__(users, items)
        self.users, self.items = Tower(users, width), Tower(items, width)
        self.main, self.aux = ItemHead(width), ItemHead(width)

    def begin(self, data: Interactions, weights: Heads) -> None:
        """Also find the rows of each user, which lie together."""
        super().begin(data, weights)
        self._first = np.searchsorted(data.rows, np.arange(len(self.user_mass) + 1))

    def units(self, data: Interactions, weights: Weights) -> NDArray[np.int64]:
        """The users that have rows with weight."""
        return np.unique(data.rows[weights > 0])

    def loss(self, data: Interactions, units: NDArray[np.int64], weights: Heads) -> Tensor:
        """Of all rows of the users `units`."""
        counts = self._first[units + 1] - self._first[units]
        before = np.cumsum(counts) - counts
        rows = np.arange(counts.sum()) + np.repeat(self._first[units] - before, counts)
        owners = torch.from_numpy(np.repeat(np.arange(len(units)), counts))
        placed = (owners, torch.from_numpy(data.cols[rows]))
        users = torch.from_numpy(units)
        vectors = self.users(users, self.user_mass[users])
        items = self._item_vectors()
        loss: Tensor = vectors.sum() * 0.0
        for head, part, share in (
            (self.main, weights.main, self.main_share),
            (self.aux, weights.aux, self.aux_share),
        ):
            weight = torch.from_numpy(part[rows]).float()
            if weight.any():
                loss = loss + head.loss_of_rows(vectors, items, placed, weight, share)
        return loss

    def score(self, codes: Tensor) -> Tensor:
        """u·v of every item, (B, I)."""
        scores: Tensor = self.main(self.users(codes, self.user_mass[codes]), self._item_vectors())
        return scores

    def _item_vectors(self) -> Tensor:
        vectors: Tensor = self.items(torch.arange(len(self.item_mass)), self.item_mass)
        return vectors


class TwoTower(NeuralRanker[TwoTowerConfig]):
    """Ranks by the product of a user's and an item's vector, plus the prior."""

    kind = "two-tower"

    def _new_net(self, users: int, items: int) -> TwoTowerNet:
        return TwoTowerNet(users, items, self._config.width)
