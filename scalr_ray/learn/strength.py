"""Choosing the strength of a translator on the validation window.

The criterion is the log-likelihood of the window's target events, a proper score: it uses every
event, where a ranking metric at 20 sees only the few that reach the top (on a window of 1,416 users
of a real log the same gain has z = 4.6 in likelihood and 0.8 in NDCG@20). Each candidate is scored
at its own best temperature.

A system that picks the best of many must not grade itself on the data it picked with. So the users
of the window are split in two by a hash, the candidates are searched on each half, and the winner
is held against the prior on the other (cross-fitting). Over both halves together the gain must be
there at 95 %, or alpha becomes 0. The strength that is used is then chosen on all of them.

Legend: B users of the window, I target items, M their new target events in the window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from scalr_ray.learn.window import Window
from scalr_ray.translator.calibration import (
    ScoredUsers,
    normalised_entropy,
    reliability,
    temperature_for,
)
from scalr_ray.translator.protocol import Translator, as_prior, log_scores

_Z_95 = 1.959964
# Scores that are held at a time while strengths are tried: 512 MB of float32. In a catalogue so
# large that the users do not fit, what is tried is tried on as many of them as do.
_HELD_SCORES = 1 << 27
_LEAST_HELD = 10
_RELIABILITY_BINS = 10

T = TypeVar("T", bound=Translator)


@dataclass(frozen=True, kw_only=True)
class Chosen(Generic[T]):
    """The translator that the window chose, and what it is worth.

    Attributes:
        translator: the best candidate at its best strength; at alpha 0 if it does not transfer.
        gain: what the winner of the other half adds to the prior's log-likelihood of an event, or
            to its own under the control, in nats, mean over the events of a user, then over users.
        z: paired z-value of that gain over users; 0 where no winner beats the prior.
        transfers: whether the gain holds on users it was not chosen on, at 95 %.
        users: number of users in the window.
        likelihood: mean log-likelihood of an event under the chosen translator, nats.
        over: what the gain is over, in words.
    """

    translator: T
    gain: float
    z: float
    transfers: bool
    users: int
    likelihood: float
    over: str = "the prior"


@dataclass(frozen=True, kw_only=True)
class _Tried(Generic[T]):
    """A candidate at one strength, and its mean log-likelihood on the users it was tried on."""

    translator: T
    likelihood: float


def choose_strength(
    candidates: Sequence[T],
    window: Window,
    *,
    alphas: Sequence[float],
    control: Callable[[Window], Window] | None = None,
) -> Chosen[T]:
    """Find the candidate, alpha and temperature under which the window is most likely.

    Args:
        candidates: translators as of the start of the window, all with the same prior.
        window: the validation window.
        alphas: exponents to try; 0 is always tried.
        control: the same users, of whom something else is known: the winner is then held against
            itself, told this, and the gain is what knowing the truth adds. None holds it against
            the prior.

    Returns:
        The choice; the candidates stand as of the start of the window, so refit the chosen one.
    """
    first, second = window.halves()
    parts = [window.rows(half[: _most_held(window) // 2]) for half in (first, second)]
    # The strengths that win on the first half, on the second, and on both.
    best, prior = _search(candidates, parts, alphas)
    gains = np.concatenate(
        [
            _gains(best[chosen].translator, prior[chosen].translator, rest, control)
            for chosen, rest in ((0, window.rows(second)), (1, window.rows(first)))
        ]
    )
    z = _z_value(gains)
    transfers = best[2].translator.alpha > 0 and z > _Z_95
    chosen = best[2] if transfers else prior[2]
    return Chosen(
        translator=chosen.translator,
        gain=float(gains.mean()),
        z=z,
        transfers=transfers,
        users=len(window),
        likelihood=chosen.likelihood,
    )


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How right the likelihoods of a translator are on a window, before and after its temperature.

    Attributes:
        ece: expected calibration error, relative to the likelihood (`Reliability`).
        ece_before: the same at temperature 1.
        normalised_entropy: log loss in units of that of the prior at its best temperature.
        normalised_entropy_before: the same at temperature 1.
    """

    ece: float
    ece_before: float
    normalised_entropy: float
    normalised_entropy_before: float


def calibration(translator: Translator, window: Window) -> Calibration:
    """Hold the likelihoods of a translator as of the start of the window against what happened."""
    # Any stretch of the window is a random sample of it.
    some = window.rows(np.arange(min(len(window), _most_held(window))))
    temperature, _ = temperature_for(list(_scores(as_prior(translator), some)))
    base = _likelihood(translator.tuned(alpha=0.0, temperature=temperature), window)

    def measured(temperature: float) -> tuple[float, float]:
        at = translator.tuned(alpha=translator.alpha, temperature=temperature)
        bins = reliability(_scores(at, window), bins=_RELIABILITY_BINS, temperature=temperature)
        return bins.expected_calibration_error, normalised_entropy(_likelihood(at, window), base)

    (before, entropy_before), (after, entropy) = measured(1.0), measured(translator.temperature)
    return Calibration(
        ece=after,
        ece_before=before,
        normalised_entropy=entropy,
        normalised_entropy_before=entropy_before,
    )


def mean_likelihood(translator: Translator, window: Window) -> float:
    """The mean log-likelihood of an event of the window, nats, over users."""
    return float(_likelihood(translator, window).mean())


def _gains(
    best: Translator, prior: Translator, rest: Window, control: Callable[[Window], Window] | None
) -> NDArray[np.float64]:
    """(B,) what the best strength adds to each user's mean log-likelihood."""
    if control is None:
        return _likelihood(best, rest) - _likelihood(prior, rest)
    return _likelihood(best, rest) - _likelihood(best, control(rest))


def _search(
    candidates: Sequence[T], parts: Sequence[Window], alphas: Sequence[float]
) -> tuple[list[_Tried[T]], list[_Tried[T]]]:
    """The best strength and the prior's, each on the first part, on the second, and on both."""
    chunks = [list(part.chunks()) for part in parts]
    prior = as_prior(candidates[0])
    plain = [[_scored(log_scores(prior, chunk.users), chunk) for chunk in part] for part in chunks]
    priors = _at_best_temperatures(partial(candidates[0].tuned, alpha=0.0), plain)
    best = list(priors)
    for candidate in candidates:
        evidence = [[candidate.evidence(chunk.users) for chunk in part] for part in chunks]
        for alpha in sorted(set(alphas) - {0.0}):
            scores = [
                [
                    _scored(np.float32(alpha) * held + candidate.log_prior, chunk)
                    for held, chunk in zip(of_part, part, strict=True)
                ]
                for of_part, part in zip(evidence, chunks, strict=True)
            ]
            tried = _at_best_temperatures(partial(candidate.tuned, alpha=alpha), scores)
            best = [
                new if new.likelihood > old.likelihood else old
                for old, new in zip(best, tried, strict=True)
            ]
    return best, priors


def _at_best_temperatures(
    tuned: Callable[..., T], parts: Sequence[Sequence[ScoredUsers]]
) -> list[_Tried[T]]:
    """At the temperature that suits best: on each part, then on all of them."""
    tried = []
    for scores in (*parts, [chunk for part in parts for chunk in part]):
        temperature, likelihood = temperature_for(scores)
        tried.append(_Tried(translator=tuned(temperature=temperature), likelihood=likelihood))
    return tried


def _likelihood(translator: Translator, window: Window) -> NDArray[np.float64]:
    """(B,) mean log-likelihood per event of each user at the translator's temperature, nats."""
    return np.concatenate(
        [chunk.likelihood(translator.temperature) for chunk in _scores(translator, window)]
    )


def _scores(translator: Translator, window: Window) -> Iterator[ScoredUsers]:
    """The scores of the window's users, a chunk at a time."""
    for chunk in window.chunks():
        yield _scored(log_scores(translator, chunk.users), chunk)


def _most_held(window: Window) -> int:
    """How many users' scores are held at the same time."""
    return max(_HELD_SCORES // int(window.own.shape[1]), 2 * _LEAST_HELD)


def _scored(scores: NDArray[np.float32], window: Window) -> ScoredUsers:
    return ScoredUsers.of(scores, own=window.own, relevant=window.relevant)


def _z_value(difference: NDArray[np.float64]) -> float:
    if len(difference) < 2:
        return 0.0
    spread = float(difference.std(ddof=1)) / len(difference) ** 0.5
    return float(difference.mean()) / spread if spread > 0 else 0.0
