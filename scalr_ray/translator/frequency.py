"""The frequency translator.

For a source item j and a target item i, c(j, i) counts the users who have both, each with the
weight of its events (`counts`, `weighing`). The table row is normalised, P(i | j) = c(j, i) /
sum_i c(j, i), shrunk towards the marginal q(i) with `shrinkage` pseudo-users, and averaged over the
user's source items by how much each says today. The ratio to q(i) is the lift: how much more likely
i is for somebody with this history than for anybody.

Legend: B users in a batch, S source items, I target items.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from scalr_ray.core.errors import DataError
from scalr_ray.translator.counts import ONE, PairCounts
from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.histories import Users
from scalr_ray.translator.prior import log_prior_of
from scalr_ray.translator.prior_mix import PriorMix
from scalr_ray.translator.weighing import Weighing


@dataclass(frozen=True, kw_only=True)
class Strength:
    """What is fitted on the validation window.

    Attributes:
        shrinkage: pseudo-users per source item that pull its row towards the marginal.
        alpha: exponent of the lift; 0 means that nothing transfers.
        temperature: divides the scores before the softmax; 1 leaves them as they are.
    """

    shrinkage: float
    alpha: float
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class FrequencyTranslator:
    """A trained table of co-occurrence, with its prior.

    Attributes:
        train_cutoff: every count closes before this time.
        source_items: vocabulary of (domain, item) keys, S of them.
        target_items: vocabulary of target item ids, I of them.
        counts: (S, I) CSR, the weight of the distinct users with both items, in users.
        marginal: (I,) users of i among the users who are active in both domains, plus the same
            number of pseudo-users for each item.
        mix: the look-backs that the prior is made of.
        prior: (I,) time-aware popularity, sums to one; items at 0 are never proposed.
        first_seen: (I,) microseconds since 1970 of the first event on the item.
        delays: (Q,) ascending quantiles of the observed delay from a user's last source event to
            the next target event, in microseconds.
        strength: what validation chose.
        weighing: what the counts were made under.
        pair_users: (S, I) CSR, the number of distinct users of the pairs in `counts`; None where
            that is what `counts` says.
        pair_units: (P,) the same as `counts.data` in units of 1 / `counts.ONE`; None where its
            float32 say it exactly.
    """

    train_cutoff: datetime
    source_items: Vocabulary
    target_items: Vocabulary
    counts: sparse.csr_matrix
    marginal: NDArray[np.float64]
    mix: PriorMix
    prior: NDArray[np.float64]
    first_seen: NDArray[np.int64]
    delays: NDArray[np.int64]
    strength: Strength
    weighing: Weighing = field(default_factory=Weighing)
    pair_users: sparse.csr_matrix | None = None
    pair_units: NDArray[np.int64] | None = None

    @property
    def rankable(self) -> NDArray[np.bool_]:
        """(I,) items that were seen before the cut."""
        return np.asarray(self.prior > 0)

    @cached_property
    def pair_totals(self) -> NDArray[np.float64]:
        """(S,) the sum of each source item's counts over the target items."""
        return np.asarray(self.counts.sum(axis=1, dtype=np.float64)).ravel()

    @cached_property
    def log_prior(self) -> NDArray[np.float32]:
        """(I,) logarithm of the prior, -inf where not rankable."""
        return log_prior_of(self.prior)

    @property
    def kind(self) -> str:
        """What the ledger calls it."""
        return "frequency"

    @property
    def event_types(self) -> Vocabulary:
        """Vocabulary of the event types that the counts were made under."""
        return self.weighing.event_types

    @property
    def alpha(self) -> float:
        """Exponent of the lift."""
        return self.strength.alpha

    @property
    def temperature(self) -> float:
        """Divides the log score."""
        return self.strength.temperature

    def tuned(self, *, alpha: float, temperature: float) -> FrequencyTranslator:
        """The same counts and prior under another exponent and temperature."""
        strength = replace(self.strength, alpha=alpha, temperature=temperature)
        return replace(self, strength=strength)

    def with_prior(self, prior: NDArray[np.float64]) -> FrequencyTranslator:
        """The same counts and strength over another prior (I,), say that of a later time."""
        return replace(self, prior=prior)

    def with_shrinkage(self, shrinkage: float) -> FrequencyTranslator:
        """The same counts, pulled towards the marginal by another number of pseudo-users."""
        return replace(self, strength=replace(self.strength, shrinkage=shrinkage))

    def with_counts(
        self, counts: PairCounts, weighing: Weighing, *, pseudo_users: float
    ) -> FrequencyTranslator:
        """The same prior and strength over other counts.

        Args:
            counts: under the codes of this translator.
            weighing: what they were made under.
            pseudo_users: put on every item of the marginal.
        """
        marginal = counts.marginal(len(self.target_items)) + pseudo_users
        return self._with_pairs(counts, marginal, weighing)

    def without(self, gone: PairCounts) -> FrequencyTranslator:
        """What is left of the counts when some users are taken out: exactly a count without them.

        Prior, first sightings and delays stay as they are.

        Args:
            gone: what these users gave, under the codes of this translator.

        Raises:
            DataError: the counts hold less than that, so they are of other events.
        """
        assert not self.weighing.noisy, "noise hides what a user gave"
        marginal = self.marginal - gone.marginal(len(self.target_items))
        if marginal.min(initial=0) < 0:
            raise DataError("the marginal holds less than what is taken from it")
        gone = PairCounts(pairs=gone.pairs, targets=gone.targets.slice(0, 0))
        if self.weighing.min_users > 1:  # what lay below the floor is not here to be taken out
            gone = self._among_held(gone)
        left = self._pair_counts().minus(gone).with_floor(self.weighing.min_users)
        return self._with_pairs(left, marginal, self.weighing)

    def _with_pairs(
        self, counts: PairCounts, marginal: NDArray[np.float64], weighing: Weighing
    ) -> FrequencyTranslator:
        """The same over other counts, whose pairs are under the codes of this translator."""
        shape = (len(self.source_items), len(self.target_items))
        weights, units = counts.matrix(shape), counts.pairs["weight"].to_numpy()
        exact = bool((weights.data.astype(np.float64) * ONE == units).all())
        return replace(
            self,
            marginal=marginal,
            weighing=weighing,
            counts=weights,
            pair_users=None if weighing.is_plain else counts.matrix(shape, "users"),
            pair_units=None if exact else units,
        )

    def _pair_counts(self) -> PairCounts:
        """The pairs as they were counted, under the codes of this translator; without targets."""
        weights = self.counts.tocoo()
        units = self.pair_units
        if units is None:
            units = np.rint(weights.data.astype(np.float64) * ONE).astype(np.int64)
        users = self.pair_users if self.pair_users is not None else self.counts
        pairs = pa.table(
            {
                "source": weights.row.astype(np.int64),
                "target": weights.col.astype(np.int64),
                "users": users.data.astype(np.int64),
                "weight": units,
            }
        )
        return PairCounts(pairs=pairs, targets=pairs.slice(0, 0).drop_columns("source"))

    def _among_held(self, counts: PairCounts) -> PairCounts:
        """The part of some counts that is on pairs of this table."""
        held = self._pair_counts().pairs.select(["source", "target"])
        among = counts.pairs.join(held, ["source", "target"], join_type="left semi")
        return PairCounts(pairs=among, targets=counts.targets)

    def evidence(self, users: Users) -> NDArray[np.float32]:
        """(B, I) the log lift of each item for each user; 0 for a user without history.

        With weights by event type, repeats of an item under other types must be in `users` too.
        """
        history = users.source.incidence(len(self.source_items))
        having = users.own.incidence(len(self.target_items))
        if self.weighing.is_plain:
            return self.log_lift(history, having)
        source = self.weighing.user_items(users.source, users.as_of)
        own = self.weighing.user_items(users.own, users.as_of)
        given = self.weighing.taken_out(source, own, self.counts, self.pair_users)
        counted = self.weighing.counted(history, having)
        return self._log_lift(
            source.matrix(len(self.source_items)),
            given * np.repeat(counted, np.diff(source.offsets)),
            own.units_by_user() * counted,
        )

    def triggers(
        self, users: Users, row: NDArray[np.int64], item: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """(E,) the pull c(j, i) / (n_j + k) of each source event's item, by how much it says."""
        candidate, position = users.source.of_rows(row)
        says = self.weighing.event_weights(users.source, users.as_of)
        pull = self.evidence_by_event(users.source.items[position], item[candidate])
        return np.asarray(says[position] * pull)

    def log_lift(self, history: sparse.csr_matrix, own: sparse.csr_matrix) -> NDArray[np.float32]:
        """The evidence log(P(i | history) / q(i)) where all counts alike, the user left out.

        For every item the user does not own, the value equals that of a full recount without the
        user. Items in `own` carry no meaning: the user's own pair stays in their numerator.

        Args:
            history: (B, S) 0/1, the user's source items as of the cut.
            own: (B, I) 0/1, the user's target items as of the cut.

        Returns:
            (B, I); 0 for a user without history.
        """
        own_items = np.diff(own.indptr) * self.weighing.counted(history, own).astype(np.float64)
        # A user with history has put one count per own item into the row of each source item.
        given = np.repeat(own_items, np.diff(history.indptr))
        return self._log_lift(history, given, own_items)

    def _log_lift(
        self,
        history: sparse.csr_matrix,
        given: NDArray[np.float64],
        own_weight: NDArray[np.float64],
    ) -> NDArray[np.float32]:
        """The evidence of any weights.

        Args:
            history: (B, S) how much each of the user's source items says, with H entries.
            given: (H,) what the user has put into the row of each.
            own_weight: (B,) what the user has put into the marginal.
        """
        k = self.strength.shrinkage
        said = np.asarray(history.sum(axis=1, dtype=np.float64)).ravel()
        silent = said == 0
        without_user = np.maximum(self.pair_totals[history.indices] - given, 0.0)
        others = np.maximum(self.marginal.sum() - np.where(silent, 0.0, own_weight), 0.0)
        share = sparse.csr_matrix(
            (history.data / (without_user + k), history.indices, history.indptr),
            shape=history.shape,
        )
        pulled = k * np.asarray(share.sum(axis=1)).ravel()
        # With h_j for what item j says, J their sum and q(i) = marginal(i) / others:
        # lift(i) = sum_j h_j (c(j, i) / q(i) + k) / (n_j + k) / J; without a marginal c is 0 too.
        per_item = np.where(silent, 1.0, said)[:, None].astype(np.float32)
        lift = (share.astype(np.float32) @ self.counts).toarray()
        lift *= others[:, None].astype(np.float32) / per_item
        lift /= np.maximum(self.marginal, 1.0).astype(np.float32)
        lift += pulled[:, None].astype(np.float32) / per_item
        lift[silent] = 1.0
        return np.asarray(np.log(lift, out=lift))

    def evidence_by_event(
        self, items: NDArray[np.int64], target: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """(N,) the count-based pull c(j, i) / (n_j + k) of each source item j on its target item i.

        Args:
            items: (N,) source item codes.
            target: (N,) target item codes, one per source item.
        """
        if not items.size:  # scipy answers an empty selection with another shape
            return np.empty(0)
        pair = np.asarray(self.counts[items, target], dtype=np.float64).ravel()
        return np.asarray(pair / (self.pair_totals[items] + self.strength.shrinkage))


def count_users(history: sparse.csr_matrix, own: sparse.csr_matrix) -> sparse.csr_matrix:
    """(S, I) distinct users with source item j and target item i, in canonical CSR.

    Args:
        history: (U, S) 0/1.
        own: (U, I) 0/1, the same users.
    """
    counts = (history.T @ own).tocsr().astype(np.float32)
    counts.sort_indices()
    return counts


def overlap_marginal(history: sparse.csr_matrix, own: sparse.csr_matrix) -> NDArray[np.float64]:
    """(I,) users of each target item among the users who are active in both domains."""
    both = np.repeat(np.diff(history.indptr) > 0, np.diff(own.indptr))
    return np.bincount(own.indices[both], minlength=own.shape[1]).astype(np.float64)
