"""A deep and cross network, DCN-v2 (Wang et al. 2021), pointwise: the probability of a pair.

Cross layers and a deep tower stand side by side over the vectors of user and item and the item's
share. The logit is what they say plus the log odds that the item's share alone gives, so a user
without rows gets those odds. A score has the log prior instead.

Shapes: `B` pairs, `U` users, `I` items, `D` width, `K` negatives of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from scalr_ray.core.errors import UsageError
from training.models.base import Interactions
from training.models.negatives import drawn_items
from training.models.neural import Heads, Net, NeuralConfig, NeuralRanker, shrunk
from training.models.two_tower import Tower


@dataclass(frozen=True, kw_only=True)
class DCNConfig(NeuralConfig):
    """The settings of `DCN`.

    Attributes:
        crosses: number of cross layers.
        negatives: K.
    """

    crosses: int = 2
    negatives: int = 4

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        if self.crosses <= 0 or self.negatives <= 0:
            raise UsageError(
                f"crosses is {self.crosses}, negatives {self.negatives}; both are at least 1"
            )


class DCNNet(Net):
    """The vectors, the crosses, the deep tower, and the heads."""

    user_tables = ("users.table.weight",)
    draws: Tensor  # (1,) the seed of the negatives

    def __init__(self, users: int, items: int, config: DCNConfig) -> None:
        super().__init__(users, items)
        self.register_buffer("draws", torch.randint(2**62, (1,)))
        self.negatives = config.negatives
        self.users, self.items = Tower(users, config.width), Tower(items, config.width)
        size = 2 * config.width + 1
        self.crosses = nn.ModuleList(nn.Linear(size, size) for _ in range(config.crosses))
        self.deep = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))
        self.main, self.aux = (nn.Linear(2 * size, 1, bias=False) for _ in range(2))

    def loss(self, data: Interactions, units: NDArray[np.int64], weights: Heads) -> Tensor:
        """Of the rows `units` and their negatives."""
        seed = int(self.draws) + self.epoch  # what was drawn by chance is not learnt by heart
        drawn = torch.from_numpy(drawn_items(data, units, self.negatives, seed))
        users = torch.from_numpy(data.rows[units])[:, None].expand_as(drawn)
        found = self._crossed(users, drawn)
        labels = torch.zeros(drawn.shape)
        labels[:, 0] = 1.0
        loss = found.sum() * 0.0
        for head, part, share in (
            (self.main, weights.main, self.main_share),
            (self.aux, weights.aux, self.aux_share),
        ):
            counts = torch.from_numpy(part[units]).float()
            logits = self._lift(head, found, users, drawn) + self._odds(share)[drawn]
            losses = binary_cross_entropy_with_logits(logits, labels, reduction="none")
            loss = loss + counts @ losses.sum(dim=1)
        return loss

    def score(self, codes: Tensor) -> Tensor:
        """How much likelier every item is than its share, (B, I), one user after the other."""
        items = torch.arange(len(self.item_mass))
        lifts = [
            self._lift(self.main, self._crossed(user.expand_as(items), items), user, items)
            for user in codes
        ]
        return torch.stack(lifts) if lifts else torch.zeros(0, len(items))

    def logits(self, users: Tensor, items: Tensor) -> Tensor:
        """Of the main head, (B,)."""
        lift = self._lift(self.main, self._crossed(users, items), users, items)
        return lift + self._odds(self.main_share)[items]

    def _crossed(self, users: Tensor, items: Tensor) -> Tensor:
        first = torch.cat(
            [
                self.users(users, self.user_mass[users]),
                self.items(items, self.item_mass[items]),
                self.main_share[items].unsqueeze(-1),
            ],
            dim=-1,
        )
        crossed = first
        for layer in self.crosses:
            crossed = first * layer(crossed) + crossed
        return torch.cat([crossed, self.deep(first)], dim=-1)

    def _lift(self, head: nn.Module, found: Tensor, users: Tensor, items: Tensor) -> Tensor:
        behind = shrunk(self.user_mass[users]) * shrunk(self.item_mass[items])
        lift: Tensor = behind.squeeze(-1) * head(found).squeeze(-1)
        return lift

    def _odds(self, share: Tensor) -> Tensor:
        """The log odds of a pair by the item's share (I,); see `training.models.negatives`."""
        odds: Tensor = share + np.log(len(share) / self.negatives)
        return odds


class DCN(NeuralRanker[DCNConfig]):
    """Ranks by the logit of a pair beyond popularity, plus the prior; knows probabilities too."""

    kind = "dcn"

    def probabilities(
        self, user_codes: NDArray[np.int64], item_codes: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """The probability that a pair, among its negatives, is one that was taken, (B,).

        Raises:
            UsageError: the ranker has not been fitted.
        """
        net = self._fitted()
        assert isinstance(net, DCNNet)
        with torch.no_grad():
            logits = net.logits(torch.from_numpy(user_codes), torch.from_numpy(item_codes))
        probabilities: NDArray[np.float32] = logits.sigmoid().numpy()
        return probabilities

    def _new_net(self, users: int, items: int) -> DCNNet:
        return DCNNet(users, items, self._config)
