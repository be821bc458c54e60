"""Are the likelihoods right? Temperature, reliability and normalised entropy.

A translator gives each user a distribution over the items they do not own, and a user with n new
events is expected to hit item i n * p(i) times. A likelihood is calibrated when, over all (user,
item) pairs of about the same p, hits and expected hits agree.

Everything here is computed over chunks of users: beside the scores of a chunk, it holds no more
than a copy of them.

Legend: B users of a chunk, I target items, M new events of the chunk's users, F fine bins, K bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from scalr_ray.translator.protocol import log_softmax, mask_entries

_TEMPERATURES = (0.25, 8.0)
# Fine bins of -log p: steps of 1/128 nats (0.8 % of p), down to e^-40.
_FINE_PER_NAT = 128
_FINE_BINS = 40 * _FINE_PER_NAT


@dataclass(frozen=True, kw_only=True)
class ScoredUsers:
    """Scores of some users and what these users did.

    Attributes:
        scores: (B, I) float32, log-probabilities up to a constant of each row, none above 0; -inf
            for what is owned or not rankable.
        user: (M,) row of each event.
        item: (M,) item of each event.
    """

    scores: NDArray[np.float32]
    user: NDArray[np.int64]
    item: NDArray[np.int64]

    @classmethod
    def of(
        cls, scores: NDArray[np.float32], *, own: sparse.csr_matrix, relevant: sparse.csr_matrix
    ) -> ScoredUsers:
        """Mask what is owned and shift each row to a largest score of 0, in place.

        Args:
            scores: (B, I) log scores.
            own: (B, I) 0/1, what each user has.
            relevant: (B, I) 0/1, the new items of each user: at least one, none of them owned.
        """
        mask_entries(scores, own)
        scores -= scores.max(axis=1, keepdims=True)
        events = np.diff(relevant.indptr)
        user = np.repeat(np.arange(len(events)), events)
        return cls(scores=scores, user=user, item=relevant.indices.astype(np.int64))

    @property
    def events(self) -> NDArray[np.int64]:
        """(B,) the number of events of each user."""
        return np.bincount(self.user, minlength=len(self.scores))

    def likelihood(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """(B,) each user's mean log-likelihood per event under softmax(scores / temperature)."""
        scaled = self.scores * np.float32(1.0 / temperature)
        log_z = np.log(np.exp(scaled, out=scaled).sum(axis=1, dtype=np.float64))
        hit = self.scores[self.user, self.item].astype(np.float64)
        value = hit / temperature - log_z[self.user]
        total = np.bincount(self.user, weights=value, minlength=len(self.scores))
        return np.asarray(total / self.events)


def temperature_for(chunks: Sequence[ScoredUsers]) -> tuple[float, float]:
    """The temperature of the largest mean log-likelihood over users, and that mean.

    Maximises mean_u mean_m log softmax(scores_u / T)_m over T in [0.25, 8]. The likelihood is
    concave in 1 / T, so the bounded search finds its only peak, to 3 %.

    Args:
        chunks: scored users; each of them has an event.

    Returns:
        T, and the log-likelihood in nats.

    Example:
        >>> scores = np.log(np.array([[0.9, 0.1]], dtype=np.float32)).repeat(4, axis=0)
        >>> three_of_four = np.array([0, 0, 0, 1])
        >>> chunk = ScoredUsers(scores=scores, user=np.arange(4), item=three_of_four)
        >>> temperature, _ = temperature_for([chunk])  # (1/9)^(1/2) = 1/3
        >>> round(temperature, 1)
        2.0
    """

    def loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        return -float(np.concatenate([part.likelihood(temperature) for part in chunks]).mean())

    low, high = np.log(_TEMPERATURES)
    found = optimize.minimize_scalar(
        loss, bounds=(low, high), method="bounded", options={"xatol": 0.03}
    )
    return float(np.exp(found.x)), -float(found.fun)


def normalised_entropy(log_likelihood: NDArray[np.float64], base: NDArray[np.float64]) -> float:
    """The log loss of the events in units of that of the base rate; below 1 is better than it.

        NE = sum_m -log p(i_m | u_m) / sum_m -log b(i_m | u_m)

    He et al. 2014 (Practical Lessons from Predicting Clicks on Ads at Facebook, eq. 3) divide the
    log loss of a click model by the entropy of the average click rate. Here an event is a choice
    among the items a user does not own, so the base b is the prior as of the same cut, over the
    same items and renormalised per user like p.

    Args:
        log_likelihood: (M,) nats of each event, or (B,) means of each user.
        base: the same under the base.

    Raises:
        ValueError: they are not of the same events.

    Example:
        >>> normalised_entropy(np.log([0.5, 0.5]), np.log([0.25, 0.25]))
        0.5
    """
    if log_likelihood.shape != base.shape:
        raise ValueError(f"{log_likelihood.shape} and {base.shape} are not of the same events")
    return float(log_likelihood.sum() / base.sum())


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Expected and observed hits of (user, item) pairs, in bins of ascending probability.

    Attributes:
        pairs: (K,) number of (event, item) pairs: a user's items, times the user's events.
        expected: (K,) sum of p over these pairs.
        hits: (K,) number of events on items of the bin.
    """

    pairs: NDArray[np.float64]
    expected: NDArray[np.float64]
    hits: NDArray[np.float64]

    @property
    def expected_calibration_error(self) -> float:
        """The share of the events that fall into another bin than predicted, both ways counted.

            ECE = sum_k |hits_k - expected_k| / sum_k hits_k
                = sum_k (expected_k / M) * |observed rate_k / mean p_k - 1|

        It is relative to p, since the p of a catalogue are all close to 0. A perfect model has
        about sqrt(2 K / (pi M)), from chance alone.
        """
        return float(np.abs(self.hits - self.expected).sum() / self.hits.sum())

    @property
    def absolute_calibration_error(self) -> float:
        """The mean over pairs of |observed rate - mean p|, in units of probability."""
        return float(np.abs(self.hits - self.expected).sum() / self.pairs.sum())

    def merged(self, bins: int) -> Reliability:
        """At most `bins` bins of about equal expected hits; no bin is cut in two."""
        middle = np.cumsum(self.expected) - self.expected / 2
        group = np.minimum((middle / self.expected.sum() * bins).astype(np.int64), bins - 1)
        _, start = np.unique(group, return_index=True)
        columns = (np.add.reduceat(c, start) for c in (self.pairs, self.expected, self.hits))
        pairs, expected, hits = columns
        return Reliability(pairs=pairs, expected=expected, hits=hits)


def reliability(
    chunks: Iterable[ScoredUsers], *, bins: int, temperature: float = 1.0
) -> Reliability:
    """Hold the likelihood against what happened, in bins of equal expected hits.

    Args:
        chunks: scored users.
        bins: how many; most (user, item) pairs have next to no probability, so bins of as many
            pairs each would say nothing about the items that matter.
        temperature: divides the scores.

    Returns:
        At most `bins` bins, of ascending probability.

    Example:
        >>> scores = np.log(np.array([[0.75, 0.25]], dtype=np.float32)).repeat(4, axis=0)
        >>> chunk = ScoredUsers(scores=scores, user=np.arange(4), item=np.array([0, 0, 1, 1]))
        >>> round(reliability([chunk], bins=2).expected_calibration_error, 3)
        0.5
    """
    return _fine(chunks, temperature).merged(bins)


def binned_users(
    chunks: Iterable[ScoredUsers], temperature: float = 1.0
) -> Iterator[NDArray[np.float64]]:
    """What `reliability` sums up, of each user with events in turn.

    Args:
        chunks: scored users.
        temperature: divides the scores.

    Yields:
        (3, F) pairs, expected hits and hits, in fine bins of descending probability.
    """
    for chunk in chunks:
        events = chunk.events
        for row in np.flatnonzero(events):
            log_p = log_softmax(chunk.scores[row : row + 1] / np.float32(temperature))[0]
            possible = np.isfinite(log_p)
            bucket = np.zeros(len(log_p), dtype=np.int64)
            bucket[possible] = np.minimum(-log_p[possible] * _FINE_PER_NAT, _FINE_BINS - 1)
            p = np.exp(log_p, dtype=np.float64)
            hit = chunk.item[chunk.user == row]
            yield np.stack(
                (
                    events[row] * np.bincount(bucket, weights=possible, minlength=_FINE_BINS),
                    events[row] * np.bincount(bucket, weights=p, minlength=_FINE_BINS),
                    np.bincount(bucket[hit], minlength=_FINE_BINS),
                )
            )


def _fine(chunks: Iterable[ScoredUsers], temperature: float) -> Reliability:
    """Reliability in the fine bins that are not empty."""
    sums = np.zeros((3, _FINE_BINS))
    for user in binned_users(chunks, temperature):
        sums += user
    pairs, expected, hits = sums[:, ::-1][:, sums[0, ::-1] > 0]
    return Reliability(pairs=pairs, expected=expected, hits=hits)
