"""A self-attentive sequential ranker in the manner of SASRec (Kang and McAuley 2018).

Each row is predicted from the earlier rows of its user. A row of weight w counts as w keys in
every softmax over rows, by log w added to its logit: exactly, twice is a weight of 2, and none is
absence. So places cannot be counted, and nearness is in days instead: each head has a rate at which
logits fall with the logarithm of the age. What is predicted for is a learnt query, and no row.

Shapes: `B` users of a batch, `U` users, `I` items, `L` rows of a user, the newest last, `D` width,
`H` heads, `E` = D / H.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import softplus

from scalr_ray.core.clock import to_micros
from scalr_ray.core.errors import UsageError
from training.models.base import Interactions
from training.models.neural import Heads, Net, NeuralConfig, NeuralRanker, Weights, shrunk
from training.models.popularity import PopularityConfig
from training.models.two_tower import ItemHead, Tower

_NO_ROW = -1
_DAY_US = 86_400_000_000
_LEAST_WEIGHT = 1e-30  # its logarithm is finite


@dataclass(frozen=True, kw_only=True)
class SequentialConfig(NeuralConfig):
    """The settings of `Sequential`.

    Attributes:
        length: L; of each user the newest so many rows are read and predicted.
        heads: H.
    """

    length: int = 64
    heads: int = 2
    batch: int = 128

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        super().__post_init__()
        if self.length <= 0 or self.heads <= 0 or self.width % self.heads:
            raise UsageError(
                f"width is {self.width}, heads {self.heads} and length {self.length}; they are at "
                "least 1, and width a multiple of heads"
            )


class Attention(nn.Module):
    """Attention to weighted rows in time, and to nothing at all as one more key of weight 1."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.keys = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.fall = nn.Parameter(torch.zeros(heads))
        self.layer = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, queries: Tensor, rows: Tensor, visible: Tensor, days: Tensor) -> Tensor:
        """(B, Q, D), for `queries` (B, Q, D) and `rows` (B, L, D).

        Args:
            queries: who asks.
            rows: who is asked.
            visible: (B, Q, L), the weight of a row where a query may see it, else 0.
            days: (B, Q, L), the age of a row at the query, at least 0.
        """
        query = self._split(self.query(queries))
        key, value = (self._split(part) for part in self.keys(rows).chunk(2, dim=-1))
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (B, H, Q, L)
        logits = logits - softplus(self.fall)[:, None, None] * days.log1p()[:, None]
        logits = logits + visible.clamp_min(_LEAST_WEIGHT).log()[:, None]
        logits = logits.masked_fill((visible == 0)[:, None], -torch.inf)
        nothing = logits.new_zeros((*logits.shape[:3], 1))
        shares = torch.cat([nothing, logits], dim=-1).softmax(dim=-1)[..., 1:]
        found = (shares @ value).transpose(1, 2).flatten(-2)
        mixed = queries + found
        attended: Tensor = mixed + self.layer(mixed)
        return attended

    def _split(self, vectors: Tensor) -> Tensor:
        """(B, L, D) as (B, H, L, E)."""
        return vectors.reshape(*vectors.shape[:2], self.heads, -1).transpose(1, 2)


class SequentialNet(Net):
    """Items, two rounds of attention, and the heads."""

    history: Tensor  # (U, L) items; `_NO_ROW` fills the front
    times: Tensor  # (U, L) days before the cut
    weights: Tensor  # (U, L)

    def __init__(self, users: int, items: int, config: SequentialConfig) -> None:
        super().__init__(users, items)
        shape, width = (users, config.length), config.width
        self.register_buffer("history", torch.full(shape, _NO_ROW))
        self.register_buffer("times", torch.zeros(shape))
        self.register_buffer("weights", torch.zeros(shape))
        self.items = Tower(items, width)
        self.among, self.final = Attention(width, config.heads), Attention(width, config.heads)
        self.query = nn.Parameter(torch.zeros(width))
        self.main, self.aux = ItemHead(width), ItemHead(width)

    def see(self, data: Interactions, deciding: Interactions, prior: PopularityConfig) -> None:
        """Also lay out the rows of each user."""
        super().see(data, deciding, prior)
        placed = _placed(data, *self.history.shape)
        days = (to_micros(prior.as_of) - data.timestamps) / _DAY_US
        self.history.copy_(_laid_out(placed, data.cols, _NO_ROW))
        self.times.copy_(_laid_out(placed, days, 0.0))
        self.weights.copy_(_laid_out(placed, data.weights, 0.0))

    def begin(self, data: Interactions, weights: Heads) -> None:
        """Also find the rows of each user."""
        super().begin(data, weights)
        self._placed = _placed(data, *self.history.shape)

    def units(self, data: Interactions, weights: Weights) -> NDArray[np.int64]:
        """The users that have rows with weight."""
        return np.unique(data.rows[weights > 0])

    def loss(self, data: Interactions, units: NDArray[np.int64], weights: Heads) -> Tensor:  # noqa: ARG002
        """Of the newest rows of the users `units`."""
        users, placed = torch.from_numpy(units), self._placed[units]
        items = self._item_vectors()
        vectors = self._before(users, items, self.times[users])
        loss = vectors.sum() * 0.0
        for head, part, share in (
            (self.main, weights.main, self.main_share),
            (self.aux, weights.aux, self.aux_share),
        ):
            counts = _laid_out(placed, part, 0.0).float()
            asked = counts > 0
            taken = self.history[users][asked]
            loss = loss + head.loss(vectors[asked], items, taken, counts[asked], share)
        return loss

    def score(self, codes: Tensor) -> Tensor:
        """What comes at the cut, after all rows of a user, (B, I)."""
        items = self._item_vectors()
        cut = torch.zeros(len(codes), 1)
        scores: Tensor = self.main(self._before(codes, items, cut)[:, 0], items)
        return scores

    def _before(self, users: Tensor, items: Tensor, asked: Tensor) -> Tensor:
        """What rows before `asked` (B, Q) days before the cut say, (B, Q, D)."""
        times, weights = self.times[users], self.weights[users]
        rows = items[self.history[users].clamp_min(0)]
        rows = self.among(rows, rows, *_seen(times, weights, times, inclusive=True))
        visible, days = _seen(times, weights, asked, inclusive=False)
        queries = self.query.expand(*asked.shape, -1)
        vectors: Tensor = shrunk(visible.sum(dim=-1)) * self.final(queries, rows, visible, days)
        return vectors

    def _item_vectors(self) -> Tensor:
        vectors: Tensor = self.items(torch.arange(len(self.item_mass)), self.item_mass)
        return vectors


class Sequential(NeuralRanker[SequentialConfig]):
    """Ranks by what comes after the rows of a user, plus the prior."""

    kind = "sequential"

    def _new_net(self, users: int, items: int) -> SequentialNet:
        return SequentialNet(users, items, self._config)


def _laid_out(placed: NDArray[np.int64], column: NDArray[np.generic], filler: float) -> Tensor:
    """`column` (N,) where its rows were placed, of the shape of `placed`."""
    return torch.from_numpy(np.append(column, filler)[placed])  # the last is that of `_NO_ROW`


def _seen(
    times: Tensor, weights: Tensor, asked: Tensor, *, inclusive: bool
) -> tuple[Tensor, Tensor]:
    """Weights of the rows that are visible, and their ages, (B, Q, L) each.

    Strictly earlier rows are, and those of the same instant if `inclusive`.
    """
    days = times[:, None, :] - asked[:, :, None]
    seen = days >= 0 if inclusive else days > 0
    return seen * weights[:, None, :], days.clamp_min(0.0)


def _placed(data: Interactions, users: int, length: int) -> NDArray[np.int64]:
    """Which row stands where, (U, L), `_NO_ROW` where none does."""
    order = np.lexsort((data.cols, data.timestamps, data.rows))
    counts = np.bincount(data.rows, minlength=users)
    from_end = np.cumsum(counts)[data.rows[order]] - np.arange(len(order))
    kept = from_end <= length
    placed = np.full((users, length), _NO_ROW)
    placed[data.rows[order][kept], length - from_end[kept]] = order[kept]
    return placed
