"""The neural translator: a trained net with its vocabularies, prior and strength.

Legend: B users, I target items, C candidates, E source events of the candidates' users, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from scalr_ray.core.errors import DataError
from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.histories import EventLists, Users
from scalr_ray.translator.neural.asking import Asked
from scalr_ray.translator.neural.batch import SOURCE_SIDE, Batch, collate, padded_lengths
from scalr_ray.translator.neural.candidates import AGE_DAYS, age_classes
from scalr_ray.translator.neural.net import TranslatorNet
from scalr_ray.translator.neural.scan import ItemTable
from scalr_ray.translator.prior import DAY_MICROS, log_prior_of
from scalr_ray.translator.prior_mix import PriorMix

# Scores of a chunk of users, and vectors of a chunk of (candidate, token) pairs: 256 MB each.
_CHUNK_SCORES = 1 << 26
_CHUNK_USERS = 512
_CHUNK_ITEMS = 1 << 18


@dataclass(frozen=True, kw_only=True)
class KnownItems:
    """The items that the prior knows, as of a time, on the translator's device.

    Attributes:
        table: of the items.
        codes: of each, ascending.
        places: (I,) where each code of the catalogue stands in the table; -1 if it is not known.
    """

    table: ItemTable
    codes: NDArray[np.int64]
    places: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class NeuralTranslator:
    """A trained net, read only.

    Attributes:
        net: on the device that it answers from, in evaluation mode.
        train_cutoff: nothing that was not visible as of this time has shaped the translator.
        source_items: vocabulary of (domain, item) keys, S of them.
        target_items: vocabulary of target item ids, I of them.
        event_types: vocabulary of event types.
        mix: the look-backs that the prior is made of.
        log_prior: (I,) float32 of the train cutoff, or of a later generation time; -inf for items
            that are never proposed.
        first_seen: (I,) microseconds since 1970 of the first event on each item.
        delays: quantiles of the delay from a source event to the next target event, microseconds.
        item_features: encoded item features, I rows each; None where the net takes none.
        alpha: exponent of the evidence; 0 where nothing transfers.
        temperature: divides the log score before the softmax.
    """

    kind: ClassVar[str] = "neural"

    net: TranslatorNet
    train_cutoff: datetime
    source_items: Vocabulary
    target_items: Vocabulary
    event_types: Vocabulary
    mix: PriorMix
    log_prior: NDArray[np.float32]
    first_seen: NDArray[np.int64]
    delays: NDArray[np.int64]
    item_features: Mapping[str, Tensor] | None = None
    alpha: float = 1.0
    temperature: float = 1.0
    # Of the last time asked for: a catalogue of millions takes longer to lay out than to scan.
    _known: dict[int, KnownItems] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        self.net.eval()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": {}}

    @property
    def device(self) -> torch.device:
        """Where it answers from."""
        return self.net.empty.device

    def on(self, device: torch.device | str) -> Self:
        """The same translator, answering from `device`; this one stays where it is."""
        return replace(self, net=copy.deepcopy(self.net).to(device))

    def tuned(self, *, alpha: float, temperature: float) -> Self:
        """The same translator under another exponent and temperature."""
        return replace(self, alpha=alpha, temperature=temperature)

    def with_prior(self, prior: NDArray[np.float64]) -> Self:
        """The same net and strength over another prior (I,), say that of a later time."""
        return replace(self, log_prior=log_prior_of(prior))

    def evidence(self, users: Users) -> NDArray[np.float32]:
        """(B, I) log of how much likelier each item is for this user than for anybody.

        The mean of its exponential under the prior is 1 for every user. 0 for a user of whom
        nothing is known. Items in `users.own` carry no meaning.

        Raises:
            DataError: the net was trained with user features, and there are none.
        """
        size = max(1, min(_CHUNK_USERS, _CHUNK_SCORES // max(len(self.target_items), 1)))
        with torch.inference_mode():
            vectors = self._vectors()
            out = np.empty((len(users), len(self.target_items)), dtype=np.float32)
            for start in range(0, len(users), size):
                self._fill(out[start : start + size], users.part(start, start + size), vectors)
        return out

    def triggers(
        self, users: Users, row: NDArray[np.int64], item: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """(E,) how much each source event speaks for its candidate, at least 0.

        That is by how much the match with the item rises when the event is added to those before
        it. Events that lie too far back for the net to read weigh nothing; where no event raises
        the match, all weigh the same.

        Args:
            users: B users.
            row: (C,) the user of each candidate.
            item: (C,) its target item.

        Returns:
            One weight for each event of `users.source.of_rows(row)`, in that order.
        """
        lengths = np.diff(users.source.offsets)[row]
        stops = np.concatenate(([0], np.cumsum(lengths)))
        weights = np.empty(stops[-1])
        step = max(1, _CHUNK_SCORES // (self.net.shape.length * self.net.shape.width))
        with torch.inference_mode():
            for alike in self._alike(users):
                candidates = np.flatnonzero(np.isin(row, alike))
                for start in range(0, len(candidates), step):
                    some = candidates[start : start + step]
                    chosen, place = np.unique(row[some], return_inverse=True)
                    _, events = _ragged(stops, some)
                    weights[events] = self._rises(users.take(chosen), place, item[some])
        candidate = np.repeat(np.arange(len(row)), lengths)
        total = np.bincount(candidate, weights=weights, minlength=len(row))
        return np.where(total[candidate] > 0, weights, 1.0)

    def queries(self, users: Users) -> Tensor:
        """(B, D + A + 1) of the users, for `scan`: query, what it makes of each age class, and 1.

        Raises:
            DataError: the net was trained with user features, and there are none.
        """
        width = self.net.shape.width + len(AGE_DAYS) + 2
        out = torch.ones(len(users), width, device=self.device)
        for alike in self._alike(users):
            some = users.take(alike)
            batch = self._batch(some, Asked.of(some, self.net.shape.length).rows(some))
            queries = self.net.queries(self.net.states(batch))
            if batch.features is None:
                queries[batch.query_positions < 0] = 0.0
            out[torch.from_numpy(alike).to(self.device), :-1] = queries
        return out

    def _alike(self, users: Users) -> Iterator[NDArray[np.int64]]:
        """The users whose tokens are padded alike, so that nobody is padded for another's sake."""
        tokens = np.diff(users.source.offsets) + np.diff(users.own.offsets)
        lengths = padded_lengths(np.minimum(tokens, self.net.shape.length))
        for length in np.unique(lengths):
            yield np.flatnonzero(lengths == length)

    def some_queries(self, as_of: int) -> Tensor:
        """(N, D + A + 1) what users would ask of whom one source event is known, for some items.

        Nothing is made of user features.
        """
        known = len(self.source_items)
        items = np.unique(np.linspace(0, known - 1, min(known, _CHUNK_USERS)).astype(np.int64))
        nothing = np.empty(0, dtype=np.int64)
        source, own = (
            EventLists(
                offsets=np.arange(len(items) + 1) * (len(events) > 0),
                items=events,
                times=np.full(len(events), as_of - DAY_MICROS),
                types=np.full(len(events), -1),
                values=np.full(len(events), np.nan, dtype=np.float32),
            )
            for events in (items, nothing)
        )
        users = Users(as_of=as_of, source=source, own=own)
        rows = Asked.of(users, self.net.shape.length).rows(users)
        states = self.net.states(collate(rows).to(self.device))
        return functional.pad(self.net.queries(states), (0, 1), value=1.0)

    def known_items(self, as_of: int) -> KnownItems:
        """The items that the prior knows as of a time, microseconds since 1970.

        They are kept: the net may not be trained on once they were asked for.
        """
        if as_of not in self._known:
            self._known.clear()
            codes = np.flatnonzero(np.isfinite(self.log_prior))
            places = np.full(len(self.log_prior), -1)
            places[codes] = np.arange(len(codes))
            self._known[as_of] = KnownItems(
                table=self._table(codes, as_of), codes=codes, places=places
            )
        return self._known[as_of]

    def _table(self, codes: NDArray[np.int64], as_of: int) -> ItemTable:
        width = self.net.shape.width
        vectors = torch.zeros(len(codes), width + len(AGE_DAYS) + 2, device=self.device)
        ages = self._ages(as_of, codes)
        for start in range(0, len(codes), _CHUNK_ITEMS):
            part = slice(start, start + _CHUNK_ITEMS)
            items = torch.from_numpy(codes[part]).to(self.device)
            vectors[part, :width] = self._vectors(items)
        vectors[:, width:-1].scatter_(1, ages.long()[:, None], 1.0)
        vectors[:, -1] = torch.from_numpy(self.log_prior[codes]).to(self.device)
        return ItemTable(vectors=vectors)

    def _fill(self, out: NDArray[np.float32], users: Users, vectors: Tensor) -> None:
        """Write the evidence of some users."""
        batch = self._batch(users, Asked.of(users, self.net.shape.length).rows(users))
        ages = self._ages(users.as_of)[None, :]
        one_moment = torch.zeros(len(batch), dtype=torch.int64, device=self.device)
        match = self.net.match(self.net.states(batch), vectors, ages, one_moment)
        prior = torch.tensor(self.log_prior, device=self.device)
        match -= torch.logsumexp(match + (prior - torch.logsumexp(prior, 0)), dim=1, keepdim=True)
        if batch.features is None:
            match[batch.query_positions < 0] = 0.0
        out[:] = match.cpu().numpy()

    def _rises(
        self, users: Users, place: NDArray[np.int64], item: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The rise of each candidate's match at each source event of its user, or 0 if it falls.

        Args:
            users: the users of the candidates.
            place: (C,) the user of each candidate.
            item: (C,) its target item.
        """
        asked = Asked.of(users, self.net.shape.length)
        batch = self._batch(users, asked.rows(users, every_prefix=True))
        # The time since the last token is that of the full history: only tokens shall tell.
        last = torch.from_numpy(asked.offsets[1:] + np.arange(len(users))).to(self.device)
        states = self.net.states(
            replace(batch, query_gaps=batch.query_gaps[last][batch.query_rows])
        )
        candidate, token = _ragged(asked.offsets, place)
        of_source = asked.sides[token] == SOURCE_SIDE
        candidate, token = candidate[of_source], token[of_source]
        before = torch.from_numpy(token + place[candidate]).to(self.device)
        items = torch.from_numpy(item[candidate]).to(self.device)
        vectors = self._vectors(items)
        ages = self._ages(users.as_of, item[candidate])
        after = self.net.match_pairs(states[before + 1], vectors, ages)
        rise = after - self.net.match_pairs(states[before], vectors, ages)
        lengths = np.diff(users.source.offsets)[place]
        out = np.zeros(lengths.sum())
        begin = np.cumsum(lengths) - lengths
        within = asked.origins[token] - users.source.offsets[place[candidate]]
        out[begin[candidate] + within] = rise.clamp(min=0.0).cpu().numpy()
        return out

    def _batch(self, users: Users, rows: pa.Table) -> Batch:
        spec = self.net.shape.user_features
        if spec is not None and users.features is None:
            raise DataError(
                "the translator was trained with user features and got none; name the same "
                "feature service as in training"
            )
        return collate(rows, features=spec).to(self.device)

    def _vectors(self, items: Tensor | None = None) -> Tensor:
        """(K, D) of `items` (K,), or of the whole catalogue."""
        if items is None:
            items = torch.arange(len(self.target_items), device=self.device)
        features = self.item_features
        if features is not None:
            chosen = items.cpu()
            features = {name: value[chosen].to(self.device) for name, value in features.items()}
        return self.net.item_vectors(items, features)

    def _ages(self, as_of: int, items: NDArray[np.int64] | slice = slice(None)) -> Tensor:
        """(K,) age classes of `items`, or of the whole catalogue, as of a time."""
        return torch.from_numpy(age_classes(self.first_seen[items], as_of)).to(self.device)


def _ragged(
    offsets: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each of `rows`, all positions between its offsets: which of the rows, and where."""
    lengths = np.diff(offsets)[rows]
    which = np.repeat(np.arange(len(rows)), lengths)
    within = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return which, offsets[rows][which] + within
