"""The items that are worth drawing from for each user, and what all of them sum to.

A draw is from prior * lift^exponent. Of a large catalogue only the K largest of it can be drawn;
the calibrated likelihood of a draw still needs the sum over every item that may be proposed:

    likelihood(i | u) = exp((log prior(i) + alpha * evidence(u, i)) / temperature - log_norm(u))

Both come from one pass over the catalogue, in chunks of users: memory is bounded whatever the
number of users and items.

Legend: B users, I target items, K items listed for each user.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scalr_ray.core.errors import DataError
from scalr_ray.translator.histories import Users
from scalr_ray.translator.protocol import Translator, mask_entries

if TYPE_CHECKING:  # that one loads torch
    from scalr_ray.translator.neural.index import ItemIndex

# Scores of a chunk of users: 64 MB, and a few times that on the way.
_CHUNK_SCORES = 1 << 24
_SUBTRACTED = 1e-6


@dataclass(frozen=True, kw_only=True)
class Shortlist:
    """What may be drawn for each of B users.

    Attributes:
        items: (B, K) codes of target items, the likeliest to be drawn first; -1 in the last places
            where fewer may be proposed. With K = I, all items in order of code, -1 in the place of
            those that may not be proposed.
        evidence: (B, K) of each; 0 where there is no item.
        log_norm: (B,) log of the sum, over all items that may be proposed to the user, of
            exp((log_prior + alpha * evidence) / temperature); -inf where there are none.
    """

    items: NDArray[np.int64]
    evidence: NDArray[np.float32]
    log_norm: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.items)


def shortlist(
    translator: Translator,
    users: Users,
    *,
    k: int,
    exponent: float,
    barred: sparse.csr_matrix,
    allowed: NDArray[np.bool_],
    index: ItemIndex | None = None,
) -> Shortlist:
    """The min(k, I) items of largest log_prior + exponent * evidence, for each user.

    Exact unless an index is given; equal scores go by code. Where nothing transfers (alpha 0), the
    evidence is 0.

    Args:
        translator: of any kind.
        users: B users.
        k: how many items to list, at least 1.
        exponent: of the lift in drawing, at least 0.
        barred: (B, I) stored entries, each once, are not proposed to the user.
        allowed: (I,) items that may be proposed to these users at all; those of which the prior
            knows nothing are not, either way.
        index: of a neural translator's items, to find them without looking at all; which are found
            and what they sum to is then approximate.

    Raises:
        DataError: the translator's evidence is not finite.
    """
    possible = allowed & np.isfinite(translator.log_prior)
    if translator.kind == "neural" and translator.alpha != 0.0 and possible.any():
        search = partial(_exact, translator) if index is None else index.shortlist
        found = search(users, k=k, exponent=exponent, barred=barred, possible=possible)
        refuse_broken(translator, found.log_norm)
        return found
    by_prior = translator.alpha == 0.0 and k < len(possible)
    width = k + int(np.diff(barred.indptr).max(initial=0)) if by_prior else len(possible)
    size = max(1, _CHUNK_SCORES // max(width, 1))
    parts = [nobody(min(k, len(possible)))]
    for start in range(0, len(users), size):
        stop = min(start + size, len(users))
        masked = barred[start:stop]
        if by_prior:
            parts.append(_listed_by_prior(translator, k, masked, possible))
            continue
        evidence = _evidence(translator, users.part(start, stop))
        parts.append(_listed(translator, evidence, k, exponent, masked, possible))
    return joined(parts)


def nobody(k: int) -> Shortlist:
    """The shortlist of no users, with `k` columns."""
    return Shortlist(
        items=np.empty((0, k), dtype=np.int64),
        evidence=np.empty((0, k), dtype=np.float32),
        log_norm=np.empty(0, dtype=np.float32),
    )


def joined(parts: list[Shortlist]) -> Shortlist:
    """The shortlists of several chunks of users as one."""
    return Shortlist(
        items=np.concatenate([part.items for part in parts]),
        evidence=np.concatenate([part.evidence for part in parts]),
        log_norm=np.concatenate([part.log_norm for part in parts]),
    )


def refuse_broken(translator: Translator, log_norm: NDArray[np.float32]) -> None:
    """Raise DataError if any sum is not a number, as it is where evidence is NaN or infinite."""
    if np.isnan(log_norm).any() or np.isposinf(log_norm).any():
        raise DataError(
            f"the {translator.kind} translator of {translator.train_cutoff} gives scores that are "
            "no numbers; run `scalr train` again"
        )


def _exact(
    translator: Translator,
    users: Users,
    *,
    k: int,
    exponent: float,
    barred: sparse.csr_matrix,
    possible: NDArray[np.bool_],
) -> Shortlist:
    from scalr_ray.translator.neural.retrieval import retrieve
    from scalr_ray.translator.neural.translator import NeuralTranslator

    assert isinstance(translator, NeuralTranslator)
    return retrieve(translator, users, k=k, exponent=exponent, barred=barred, possible=possible)


def _evidence(translator: Translator, users: Users) -> NDArray[np.float32]:
    if translator.alpha == 0.0:
        return np.zeros((len(users), len(translator.log_prior)), dtype=np.float32)
    return translator.evidence(users)


def _listed(
    translator: Translator,
    evidence: NDArray[np.float32],
    k: int,
    exponent: float,
    barred: sparse.csr_matrix,
    possible: NDArray[np.bool_],
) -> Shortlist:
    """The shortlist of the users of a chunk, from their evidence (B, I)."""
    scores = _scores(translator, evidence, translator.alpha, barred, possible)
    scores /= np.float32(translator.temperature)
    log_norm = _log_sum_exp(scores)
    refuse_broken(translator, log_norm)
    scores = _scores(translator, evidence, exponent, barred, possible)
    catalogue = len(possible)
    if k >= catalogue:
        items = np.broadcast_to(np.arange(catalogue), scores.shape)
    else:
        items = _largest(scores, k)
    drawable = np.isfinite(np.take_along_axis(scores, items, axis=1))
    chosen = np.take_along_axis(evidence, items, axis=1)
    return Shortlist(
        items=np.where(drawable, items, -1),
        evidence=np.where(drawable, chosen, np.float32(0.0)),
        log_norm=log_norm,
    )


def _listed_by_prior(
    translator: Translator, k: int, barred: sparse.csr_matrix, possible: NDArray[np.bool_]
) -> Shortlist:
    """The shortlist of the users of a chunk where no evidence counts: all take the same items."""
    users, catalogue = barred.shape
    prior = np.where(possible, translator.log_prior, np.float32(-np.inf))
    row = np.repeat(np.arange(users), np.diff(barred.indptr))
    most = int(np.diff(barred.indptr).max(initial=0))
    best = _largest(prior[None, :], min(k + most, catalogue))[0]
    best = best[possible[best]]
    place = np.full(catalogue, -1)
    place[best] = np.arange(len(best))
    held = place[barred.indices] >= 0
    free = np.ones((users, len(best)), dtype=np.bool_)
    free[row[held], place[barred.indices[held]]] = False
    rank = np.cumsum(free, axis=1) - 1
    user, column = np.nonzero(free & (rank < k))
    items = np.full((users, k), -1)
    items[user, rank[user, column]] = best[column]
    return Shortlist(
        items=items,
        evidence=np.zeros(items.shape, dtype=np.float32),
        log_norm=_prior_norm(prior, translator.temperature, barred),
    )


def _prior_norm(
    prior: NDArray[np.float32], temperature: float, barred: sparse.csr_matrix
) -> NDArray[np.float32]:
    """(B,) log of the sum of exp(prior (I,) / temperature) over all items but the barred ones."""
    peak = prior.max(initial=-np.inf)
    if np.isneginf(peak):
        return np.full(barred.shape[0], -np.inf, dtype=np.float32)
    terms = np.exp((prior - peak).astype(np.float64) / temperature)
    marks = sparse.csr_matrix(
        (np.ones(len(barred.indices)), barred.indices, barred.indptr), shape=barred.shape
    )
    total = terms.sum()
    left = total - marks @ terms
    for user in np.flatnonzero(left < _SUBTRACTED * total):  # where little is left, rounding counts
        own = barred.indices[barred.indptr[user] : barred.indptr[user + 1]]
        left[user] = np.delete(terms, own).sum()
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(left) + peak / temperature, dtype=np.float32)


def _scores(
    translator: Translator,
    evidence: NDArray[np.float32],
    exponent: float,
    barred: sparse.csr_matrix,
    possible: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """(B, I) log_prior + exponent * evidence; -inf where an item may not be proposed."""
    prior = np.where(possible, translator.log_prior, -np.inf).astype(np.float32)
    if exponent == 0.0:  # of evidence -inf too
        scores = np.tile(prior, (len(evidence), 1))
    else:
        scores = np.float32(exponent) * evidence
        with np.errstate(invalid="ignore"):  # evidence of what may not be proposed says nothing
            scores += prior
        scores[:, ~possible] = -np.inf
    mask_entries(scores, barred)
    return scores


def _log_sum_exp(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B,) row by row; -inf for a row of minus infinities, NaN for one with a NaN or +inf."""
    if not scores.shape[1]:
        return np.full(len(scores), -np.inf, dtype=np.float32)
    peak = scores.max(axis=1)
    shift = np.where(np.isneginf(peak), np.float32(0.0), peak)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.exp(scores - shift).sum(axis=1, dtype=np.float64)
        return np.asarray(np.log(total) + shift[:, 0], dtype=np.float32)


def _largest(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """(B, k) positions of the k largest of each row, largest first, equal ones by position."""
    least = np.partition(scores, -k, axis=1)[:, -k, None]
    above, equal = scores > least, scores == least
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= room))
    position = np.nonzero(chosen)[1].reshape(len(scores), k)
    order = np.argsort(-np.take_along_axis(scores, position, axis=1), axis=1, kind="stable")
    return np.take_along_axis(position, order, axis=1)
