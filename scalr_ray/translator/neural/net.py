"""The net: tokens to states, items to vectors, and how well the two match.

Legend: R rows, L tokens, Q queries, K candidates, D width, A age classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from scalr_ray.translator.neural.batch import TARGET_SIDE, Batch
from scalr_ray.translator.neural.candidates import AGE_DAYS, Candidates
from scalr_ray.translator.neural.config import NetShape
from scalr_ray.translator.neural.encoder import Encoder
from scalr_ray.translator.neural.feature_net import FeatureNet
from scalr_ray.translator.neural.features import FeatureSpec
from scalr_ray.translator.neural.steady import SteadyLinear

# Log gaps in days are interpolated between these knots: none, 1, 3, 7, 20, 55, 148, 400, 1100 days.
_GAP_KNOTS = tuple(float(knot) for knot in range(9))
_FIRST_MATCH = 4.0


class GapEmbedding(nn.Module):
    """A vector per log gap, linear between learned knots."""

    knots: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("knots", torch.tensor(_GAP_KNOTS), persistent=False)
        self.vectors = SteadyLinear(len(_GAP_KNOTS), width, bias=False)

    def forward(self, gaps: Tensor) -> Tensor:
        """(...) log(1 + days) to (..., D)."""
        inside = gaps.clamp(_GAP_KNOTS[0], _GAP_KNOTS[-1])
        weights = (1.0 - (inside[..., None] - self.knots).abs()).clamp(min=0.0)
        out: Tensor = self.vectors(weights)
        return out


class TranslatorNet(nn.Module):
    """The neural translator's net; before training its match is small beside the prior.

    Args:
        shape: its sizes.
    """

    def __init__(self, shape: NetShape) -> None:
        super().__init__()
        width = shape.width
        self.shape = shape
        # Row 0 of the tables is the unknown item, or no event type.
        self.source_table = nn.Embedding(shape.source_items + 1, width)
        self.target_table = nn.Embedding(shape.target_items + 1, width)
        self.sides = nn.Embedding(2, width)
        self.types = nn.Embedding(shape.event_types + 1, width)
        self.gap = GapEmbedding(width)
        self.value = nn.Linear(2, width, bias=False)
        self.own_token = nn.Linear(width, width, bias=False)
        self.encoder = Encoder(width, shape.heads, shape.layers, shape.dropout)
        self.empty = nn.Parameter(torch.zeros(width))
        self.query_gap = GapEmbedding(width)
        self.query = SteadyLinear(width, width, bias=False)
        self.age = SteadyLinear(width, len(AGE_DAYS) + 1)
        self.user_features = _feature_net(shape.user_features, width)
        self.item_features = _feature_net(shape.item_features, width)
        self.dropout = nn.Dropout(shape.dropout)
        self._initialise()

    def _initialise(self) -> None:
        for table in (self.source_table, self.target_table, self.sides, self.types):
            nn.init.normal_(table.weight, std=self.shape.width**-0.5)
        # A bowed plane is flat in the middle: from zero, states and items would take hundreds of
        # steps to find each other.
        nn.init.eye_(self.query.weight)
        self.query.weight.data *= _FIRST_MATCH
        for silent in (self.age.weight, self.age.bias):
            nn.init.zeros_(silent)

    def forward(self, batch: Batch, candidates: Candidates) -> Tensor:
        """(Q, K) the match of each query with each candidate."""
        states = self.states(batch)
        vectors = self.item_vectors(candidates.items, candidates.features)
        return self.match(
            states, vectors, candidates.ages, candidates.moments, eras=candidates.eras
        )

    def states(self, batch: Batch) -> Tensor:
        """(Q, D) what each query's visible tokens, the time since then and its features say."""
        encoded = self.encoder(self.dropout(self._tokens(batch)))
        seen = encoded[batch.query_rows, batch.query_positions.clamp(min=0)]
        state = torch.where((batch.query_positions >= 0)[:, None], seen, self.empty)
        state = state + self.query_gap(batch.query_gaps)
        if self.user_features is not None and batch.features is not None:
            state = state + self.user_features(batch.features)
        out: Tensor = self.dropout(state)
        return out

    def item_vectors(self, items: Tensor, features: Mapping[str, Tensor] | None) -> Tensor:
        """(E * K, D) the vectors of target items by code; unknown ones (-1) by features alone.

        Args:
            items: (K,) codes.
            features: encoded, of the items as of E times, one time after the other; without any
                there is one vector for each item.
        """
        if self.item_features is None or features is None:
            vectors: Tensor = self.target_table(items + 1)
        else:
            by_id = self.target_table(self._with_unknown(items + 1))
            told = self.item_features(features)
            vectors = by_id.repeat(len(told) // max(len(by_id), 1), 1) + told
        return vectors

    def match(
        self,
        states: Tensor,
        vectors: Tensor,
        ages: Tensor,
        moments: Tensor,
        *,
        eras: Tensor | None = None,
    ) -> Tensor:
        """(Q, K) float32: <query, item> / sqrt(D), plus what the query makes of the item's age.

        Args:
            states: (Q, D).
            vectors: (E * K, D).
            ages: (U, K) age classes as of each moment.
            moments: (Q,) the moment of each query.
            eras: (Q,) which K of the vectors those of each query are; None where E is 1.
        """
        by_age = self.age(states).float().gather(1, ages.long()[moments])
        asked, items = self._asked(states), ages.shape[1]
        matched: Tensor
        if eras is None or len(vectors) == items:
            matched = (asked @ vectors.T).float()
        else:
            matched = torch.zeros_like(by_age)
            for era, of_era in enumerate(torch.split(vectors, items)):
                mine = eras == era
                matched[mine] = (asked[mine] @ of_era.T).float()
        matched = matched + by_age
        return matched

    def queries(self, states: Tensor) -> Tensor:
        """(Q, D + A) what is asked of item vectors and of one-hot age classes, float32."""
        return torch.cat((self._asked(states), self.age(states)), dim=1).float()

    def match_pairs(self, states: Tensor, vectors: Tensor, ages: Tensor) -> Tensor:
        """(N,) the match of each state with the vector and the age class in the same place.

        Args:
            states: (N, D).
            vectors: (N, D).
            ages: (N,) age classes.
        """
        by_age = self.age(states).float().gather(1, ages.long()[:, None]).squeeze(1)
        matched: Tensor = (self._asked(states) * vectors).sum(dim=1).float() + by_age
        return matched

    def _asked(self, states: Tensor) -> Tensor:
        asked: Tensor = self.query(states) * self.shape.width**-0.5
        return asked

    def _tokens(self, batch: Batch) -> Tensor:
        own = batch.sides == TARGET_SIDE
        source_items = self._with_unknown(batch.items * ~own)
        own_items = self._with_unknown(batch.items * own)
        items = torch.where(
            own[..., None],
            self.own_token(self.target_table(own_items)),
            self.source_table(source_items),
        )
        kinds = self.sides(batch.sides) + self.types(batch.types)
        tokens: Tensor = items + kinds + self.gap(batch.gaps) + self.value(batch.values)
        return tokens

    def _with_unknown(self, rows: Tensor) -> Tensor:
        """`rows` of a table, while training with some replaced by the unknown."""
        if not self.training or self.shape.id_dropout == 0:
            return rows
        known = torch.rand(rows.shape, device=rows.device) >= self.shape.id_dropout
        return rows * known


def _feature_net(spec: FeatureSpec | None, width: int) -> FeatureNet | None:
    return None if spec is None else FeatureNet(spec, width)
