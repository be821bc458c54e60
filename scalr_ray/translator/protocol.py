"""What every translator can do, and the two formulas that are the same for all of them.

    log score(i | u, t)  = log prior_t(i) + alpha * evidence(u, t, i)
    likelihood(i | u, t) = softmax over the items the user does not own of (log score / temperature)

Arrays in, arrays out: nothing here knows Ray or Feast.

Legend: B users, I target items, C candidates, E source events of the candidates' users.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.histories import Users
from scalr_ray.translator.prior_mix import PriorMix


class Translator(Protocol):
    """A trained model of P(target item | a user's source events, time)."""

    @property
    def kind(self) -> str:
        """`frequency` or `neural`."""

    @property
    def train_cutoff(self) -> datetime:
        """Nothing that was not visible as of this time has shaped the translator."""

    @property
    def source_items(self) -> Vocabulary:
        """Vocabulary of (domain, item) keys."""

    @property
    def target_items(self) -> Vocabulary:
        """Vocabulary of target item ids, I of them."""

    @property
    def event_types(self) -> Vocabulary:
        """Vocabulary of the event types it tells apart."""

    @property
    def first_seen(self) -> NDArray[np.int64]:
        """(I,) microseconds since 1970 of the first event on each item."""

    @property
    def delays(self) -> NDArray[np.int64]:
        """(Q,) quantiles of the delay from a source event to the next target event, us."""

    @property
    def alpha(self) -> float:
        """Exponent of the evidence; 0 where nothing transfers."""

    @property
    def temperature(self) -> float:
        """Divides the log score before the softmax."""

    @property
    def mix(self) -> PriorMix:
        """The look-backs that the prior is made of."""

    @property
    def log_prior(self) -> NDArray[np.float32]:
        """(I,) of the train cutoff, or of `with_prior`; -inf for items that are never proposed."""

    def evidence(self, users: Users) -> NDArray[np.float32]:
        """(B, I) log of how much likelier each item is for this user than for anybody.

        0 for a user of whom nothing is known. Items in `users.own` carry no meaning.
        """

    def triggers(
        self, users: Users, row: NDArray[np.int64], item: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """(E,) how much each source event speaks for its candidate, at least 0.

        Args:
            users: B users.
            row: (C,) the user of each candidate.
            item: (C,) its target item.

        Returns:
            One weight for each event of `users.source.of_rows(row)`, in that order.
        """

    def tuned(self, *, alpha: float, temperature: float) -> Self:
        """The same translator under another exponent and temperature."""

    def with_prior(self, prior: NDArray[np.float64]) -> Self:
        """The same translator over another prior (I,), say that of a later time."""


def as_prior(translator: Translator) -> Translator:
    """The translator that knows nothing but the prior: alpha 0, same temperature."""
    return translator.tuned(alpha=0.0, temperature=translator.temperature)


def log_scores(translator: Translator, users: Users) -> NDArray[np.float32]:
    """(B, I) log prior + alpha * evidence; -inf where not rankable."""
    if translator.alpha == 0.0:
        return np.tile(translator.log_prior, (len(users), 1))
    return np.float32(translator.alpha) * translator.evidence(users) + translator.log_prior


def log_likelihood(translator: Translator, users: Users) -> NDArray[np.float32]:
    """(B, I) calibrated log-probability that the next target item is i; -inf where owned."""
    scores = log_scores(translator, users)
    scores /= np.float32(translator.temperature)
    mask_entries(scores, users.own.incidence(scores.shape[1]))
    return log_softmax(scores)


def mask_entries(scores: NDArray[np.float32], entries: sparse.csr_matrix) -> None:
    """Set the scores of the stored `entries` to minus infinity, in place."""
    user = np.repeat(np.arange(entries.shape[0]), np.diff(entries.indptr))
    scores[user, entries.indices] = -np.inf


def log_softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Row-wise log-softmax, in place; a row of minus infinities stays one."""
    peak = scores.max(axis=1, keepdims=True)
    possible = np.isfinite(peak)
    scores -= np.where(possible, peak, 0.0)
    total = np.exp(scores).sum(axis=1, keepdims=True)
    scores -= np.log(np.where(possible, total, 1.0))
    return scores
