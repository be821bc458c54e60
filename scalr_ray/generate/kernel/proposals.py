"""Candidates: the items drawn for each user, with how likely each of them is.

Users are scored in chunks of so many listed scores, and drawn for in smaller ones that stay in the
processor's cache: memory is bounded whatever the catalogue and the number of users.

Legend: B users, I target items, K listed items, N candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scalr_ray.core.keyed import keyed_gumbel, stream_seed
from scalr_ray.generate.kernel.block import Block, DrawSettings
from scalr_ray.generate.kernel.sampling import distribution, largest
from scalr_ray.translator.histories import Users
from scalr_ray.translator.protocol import Translator
from scalr_ray.translator.shortlist import Shortlist, shortlist

if TYPE_CHECKING:
    from scalr_ray.translator.neural.index import ItemIndex

# Larger arrays than 32 MB are taken from the system and given back each time, which costs more.
_LISTED_SCORES = 1 << 22
_CACHED_SCORES = 1 << 16

# Evidence is float32 and goes through a logarithm: what is this close to 0 says nothing.
_NO_EVIDENCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """N drawn items, by user, and then in the order in which they were drawn.

    Attributes:
        row: (N,) the user, as a row of the block.
        item: (N,) code of the target item.
        propensity: (N,) probability with which a single draw takes the item.
        log_p: (N,) calibrated log-likelihood.
        log_prior: (N,) what that would be if nothing transferred.
        log_norm: (N,) of the user, as in `Shortlist`.
        informed: (N,) whether the translator knows anything of the user.
    """

    row: NDArray[np.int64]
    item: NDArray[np.int64]
    propensity: NDArray[np.float64]
    log_p: NDArray[np.float64]
    log_prior: NDArray[np.float64]
    log_norm: NDArray[np.float32]
    informed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def none(cls) -> Self:
        """No candidate."""
        code, number = np.empty(0, dtype=np.int64), np.empty(0)
        return cls(
            row=code,
            item=code,
            propensity=number,
            log_p=number,
            log_prior=number,
            log_norm=number.astype(np.float32),
            informed=number.astype(np.bool_),
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Those of several parts, in order of user, and of a user's in order of part."""
        row = np.concatenate([part.row for part in parts])
        order = np.argsort(row, kind="stable")
        columns = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])[order]
            for field in fields(cls)
        }
        return cls(**columns)


def propose(
    block: Block, translator: Translator, settings: DrawSettings, index: ItemIndex | None
) -> Candidates:
    """Draw as many items for each user as the user has slots, or as many as there are to draw."""
    parts = [Candidates.none()]
    for possible, rows in block.by_group(block.slots):
        prior = PriorAlone.of(translator, possible)
        for chunk in chunks(rows, min(settings.candidates, len(possible)), _LISTED_SCORES):
            users = block.users.take(chunk)
            listed = shortlist(
                translator,
                users,
                k=settings.candidates,
                exponent=settings.evidence,
                barred=block.barred[chunk],
                allowed=possible,
                index=index,
            )
            row, place, propensity = _drawn(listed, block, chunk, translator, settings)
            item, evidence = listed.items[row, place], listed.evidence[row, place]
            parts.append(
                Candidates(
                    row=chunk[row],
                    item=item,
                    propensity=propensity,
                    log_p=log_likelihood_of(translator, item, evidence, listed.log_norm[row]),
                    log_prior=prior.log_p(block.barred[chunk], row, item),
                    log_norm=listed.log_norm[row],
                    informed=_informed(users, translator, listed)[row],
                )
            )
    return Candidates.joined(parts)


def chunks(rows: NDArray[np.int64], width: int, scores: int) -> Iterator[NDArray[np.int64]]:
    """The rows, in runs of at most `scores` scores of so many a row, or of one row."""
    size = max(1, scores // max(width, 1))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def log_likelihood_of(
    translator: Translator,
    item: NDArray[np.int64],
    evidence: NDArray[np.float32],
    log_norm: NDArray[np.float32],
) -> NDArray[np.float64]:
    """(N,) calibrated log-probability of each item, of which this is the evidence.

    `log_norm` (N,) is that of the user's shortlist: the sum is over all that may be proposed.
    """
    score = translator.log_prior[item].astype(np.float64)
    if translator.alpha > 0.0:
        score += translator.alpha * evidence
    return np.asarray(np.minimum(score / translator.temperature - log_norm, 0.0))


def mass_left(weights: NDArray[np.float64], taken: sparse.csr_matrix) -> NDArray[np.float64]:
    """(B,) the sum of the weights (I,) of the items that a user has no stored entry for."""
    return np.asarray(np.maximum(weights.sum() - taken @ weights, 0.0))


def _drawn(
    listed: Shortlist,
    block: Block,
    chunk: NDArray[np.int64],
    translator: Translator,
    settings: DrawSettings,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(N,) row of the chunk, place in the list, and propensity, by row, then by slot."""
    nobody = np.empty(0, dtype=np.int64)
    parts = [(nobody, nobody, np.empty(0))]
    for part in chunks(np.arange(len(chunk)), listed.items.shape[1], _CACHED_SCORES):
        users, within = chunk[part], slice(part[0], part[-1] + 1)
        items, evidence = listed.items[within], listed.evidence[within]
        weights, item_keys = _log_weights(translator, items, evidence, settings.evidence)
        if settings.strategy == "top":
            row, place = largest(weights, block.slots[users])
            propensity = np.ones(len(row))  # nothing is left to chance
        else:
            log_p = distribution(weights, temperature=settings.temperature, top_p=settings.top_p)
            noise = keyed_gumbel(
                stream_seed("item", settings.seed), block.keys[users, None], item_keys
            )
            noise += log_p
            row, place = largest(noise, block.slots[users])
            propensity = np.exp(log_p[row, place], dtype=np.float64)
        parts.append((part[row], place, propensity))
    row, place, propensity = (np.concatenate(column) for column in zip(*parts, strict=True))
    return row, place, propensity


def _log_weights(
    translator: Translator,
    items: NDArray[np.int64],
    evidence: NDArray[np.float32],
    exponent: float,
) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
    """(B, K) log prior + exponent * evidence, -inf where no item is listed; keys of the items."""
    # A list of all items is in order of code, and need not be looked up.
    codes = slice(None) if items.shape[1] == len(translator.log_prior) else items
    prior = translator.log_prior[codes]
    # Evidence may be -inf, which counts nothing to the power 0.
    weights = np.float32(exponent) * evidence if exponent > 0.0 else np.zeros_like(evidence)
    weights += prior
    weights[items < 0] = -np.inf
    return weights, translator.target_items.keys[codes]


@dataclass(frozen=True, kw_only=True)
class PriorAlone:
    """What the likelihood would be if nothing transferred.

    Attributes:
        score: (I,) log prior over the temperature, at most 0 for a possible item.
        weight: (I,) its exponential; 0 for an item that is not possible.
    """

    score: NDArray[np.float64]
    weight: NDArray[np.float64]

    @classmethod
    def of(cls, translator: Translator, possible: NDArray[np.bool_]) -> Self:
        """Of the items that may be proposed to a group, of which there is at least one."""
        score = translator.log_prior.astype(np.float64) / translator.temperature
        score -= score[possible].max()
        return cls(score=score, weight=np.where(possible, np.exp(score), 0.0))

    def log_p(
        self, barred: sparse.csr_matrix, row: NDArray[np.int64], item: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """(N,) log-probability of items among those that are not barred to their users."""
        left = mass_left(self.weight, barred)[row]
        # A difference: where it is nothing but rounding, the item itself is still left.
        left = np.maximum(left, np.maximum(self.weight[item], np.finfo(np.float64).tiny))
        return np.asarray(np.minimum(self.score[item] - np.log(left), 0.0))


def _informed(users: Users, translator: Translator, listed: Shortlist) -> NDArray[np.bool_]:
    """(B,) whether the translator knows a source item of the user that says anything.

    Where nothing transfers, evidence is not asked for, and a known item is enough.
    """
    known = np.bincount(users.source.rows[users.source.items >= 0], minlength=len(users)) > 0
    if translator.alpha == 0.0:
        return known
    speaks = np.maximum(listed.evidence.max(axis=1), -listed.evidence.min(axis=1)) > _NO_EVIDENCE
    return np.asarray(known & speaks)
