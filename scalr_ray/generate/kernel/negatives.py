"""Negatives: items drawn from the prior that a user neither owns nor was proposed.

They say only that the item was not chosen; a pointwise trainer corrects for how they were drawn by
their propensity. Drawing is one after the other, each in proportion to the prior among what is
left: prior draws are made by inversion, and those of items that are out, or were drawn already, are
passed over. That costs a few look-ups per negative however large the catalogue is. Where what is
left is so unlikely that these attempts do not suffice, the rest is drawn by Gumbel noise over all
items, which is the same distribution.

Legend: B users, I target items, A attempts per user, N negatives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scalr_ray.core.keyed import keyed_gumbel, keyed_uniform, stream_seed
from scalr_ray.generate.kernel.block import Block
from scalr_ray.generate.kernel.proposals import (
    Candidates,
    PriorAlone,
    chunks,
    log_likelihood_of,
    mass_left,
)
from scalr_ray.generate.kernel.sampling import largest, ranks
from scalr_ray.translator.encode import incidence
from scalr_ray.translator.protocol import Translator
from scalr_ray.translator.shortlist import shortlist

_ATTEMPTS_AT_ONCE = 1 << 20
_SCORES_AT_ONCE = 1 << 22


def negatives_of(
    block: Block,
    translator: Translator,
    proposed: Candidates,
    *,
    wanted: NDArray[np.int64],
    seed: int,
) -> Candidates:
    """Negatives for the users of a block, with their likelihoods.

    Args:
        block: B users.
        translator: the prior and the likelihood are its.
        proposed: what was drawn for the users, accepted or not; at least one of each that wants.
        wanted: (B,) negatives of each user; who has fewer items left gets these.
        seed: of the run.
    """
    users, log_prior = len(block.users), translator.log_prior.astype(np.float64)
    drawn = incidence(proposed.row, proposed.item, block.barred.shape)
    out, log_norm = (block.barred + drawn).tocsr(), np.full(users, np.nan, dtype=np.float32)
    log_norm[proposed.row] = proposed.log_norm
    parts = [Candidates.none()]
    for possible, rows in block.by_group(wanted):
        row, item, propensity = draw_from_prior(
            np.where(possible, np.exp(log_prior), 0.0),
            out[rows],
            wanted=wanted[rows],
            user_keys=block.keys[rows],
            item_keys=translator.target_items.keys,
            seed=seed,
        )
        evidence = _evidence_of(block, translator, rows[row], item)
        parts.append(
            Candidates(
                row=rows[row],
                item=item,
                propensity=propensity,
                log_p=log_likelihood_of(translator, item, evidence, log_norm[rows[row]]),
                log_prior=PriorAlone.of(translator, possible).log_p(block.barred[rows], row, item),
                log_norm=log_norm[rows[row]],
                informed=np.ones(len(row), dtype=np.bool_),
            )
        )
    return Candidates.joined(parts)


def draw_from_prior(
    weights: NDArray[np.float64],
    out: sparse.csr_matrix,
    *,
    wanted: NDArray[np.int64],
    user_keys: NDArray[np.uint64],
    item_keys: NDArray[np.uint64],
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Draw as many items for each user as are wanted, or as many as there are.

    Args:
        weights: (I,) the prior, up to a constant; 0 for what may not be proposed.
        out: (B, I) stored entries are not drawn for the user.
        wanted: (B,).
        user_keys: (B,) what the draws of the users are keyed by.
        item_keys: (I,) what the items are keyed by.
        seed: of the run.

    Returns:
        (N,) user, item, and probability with which a single draw takes the item, by user, and then
        in the order in which they were drawn.
    """
    there = np.count_nonzero(weights) - out @ (weights > 0).astype(np.float64)
    wanted = np.minimum(wanted, there.astype(np.int64))
    row, item = _attempted(weights, out, wanted, user_keys, stream_seed("negative", seed))
    lacking = wanted - np.bincount(row, minlength=len(wanted))
    rows, items = [row], [item]
    for user in np.flatnonzero(lacking):
        weight = weights.copy()
        weight[out[[user]].indices] = 0.0
        weight[item[row == user]] = 0.0
        noise = keyed_gumbel(stream_seed("rest", seed), user_keys[user], item_keys)
        with np.errstate(divide="ignore"):
            values = np.log(weight) + noise
        _, rest = largest(values[None, :], lacking[[user]])
        rows.append(np.full(len(rest), user))
        items.append(rest)
    row, item = np.concatenate(rows), np.concatenate(items)
    order = np.argsort(row, kind="stable")
    row, item = row[order], item[order]
    left = np.maximum(mass_left(weights, out)[row], weights[item])
    return row, item, weights[item] / left


def _attempted(
    weights: NDArray[np.float64],
    out: sparse.csr_matrix,
    wanted: NDArray[np.int64],
    user_keys: NDArray[np.uint64],
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N,) user and item of what a number of attempts gives, by user, then as drawn."""
    sums, nobody = np.cumsum(weights), np.empty(0, dtype=np.int64)
    attempts = 4 * wanted + 8
    parts = [(nobody, nobody)]
    for chunk in chunks(np.flatnonzero(wanted), attempts.max(initial=0), _ATTEMPTS_AT_ONCE):
        tried = _by_inversion(sums, user_keys[chunk], attempts[chunk].max(), seed)
        # When a user stops trying must not depend on who else is tried for.
        late = np.arange(tried.shape[1]) >= attempts[chunk, None]
        row, item = _first_allowed(tried, late, out[chunk], wanted[chunk])
        parts.append((chunk[row], item))
    rows, items = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(items)


def _by_inversion(
    sums: NDArray[np.float64], user_keys: NDArray[np.uint64], attempts: int, seed: int
) -> NDArray[np.int64]:
    """(B, A) independent draws in proportion to the weights whose running sums (I,) these are."""
    uniform = keyed_uniform(seed, user_keys[:, None], np.arange(attempts)[None, :])
    # To the left of the first item that has the whole sum: rounding may reach that sum itself.
    last = np.searchsorted(sums, sums[-1])
    return np.asarray(np.minimum(np.searchsorted(sums, uniform * sums[-1], side="right"), last))


def _first_allowed(
    tried: NDArray[np.int64],
    late: NDArray[np.bool_],
    out: sparse.csr_matrix,
    wanted: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N,) row and item of the first `wanted` (B,) distinct items tried that are not out.

    Attempts that come too late (B, A) do not count.
    """
    users, items = out.shape
    pair = (np.arange(users)[:, None] * items + tried)[~late]
    taken = np.repeat(np.arange(users), np.diff(out.indptr)) * items + out.indices
    distinct, first = np.unique(pair, return_index=True)
    accepted = np.sort(first[np.isin(distinct, taken, invert=True)])
    row, item = np.divmod(pair[accepted], items)
    kept = ranks(row) < wanted[row]
    return row[kept], item[kept]


def _evidence_of(
    block: Block, translator: Translator, row: NDArray[np.int64], item: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(N,) the evidence of each item for its user (N,), `row` ascending.

    By shortlists of nothing but these items, so that memory does not grow with the catalogue.
    """
    evidence = np.zeros(len(row), dtype=np.float32)
    if translator.alpha == 0.0:
        return evidence
    asked = np.unique(item)
    allowed = np.zeros(len(translator.target_items), dtype=np.bool_)
    allowed[asked] = True
    for chunk in chunks(np.unique(row), len(asked), _SCORES_AT_ONCE):
        listed = shortlist(
            translator,
            block.users.take(chunk),
            k=len(asked),
            exponent=1.0,
            barred=sparse.csr_matrix((len(chunk), len(allowed)), dtype=np.float32),
            allowed=allowed,
        )
        # What is not listed is what a user would never take.
        table = np.full((len(chunk), len(asked)), -np.inf, dtype=np.float32)
        user, place = np.nonzero(listed.items >= 0)
        table[user, np.searchsorted(asked, listed.items[user, place])] = listed.evidence[
            user, place
        ]
        mine = slice(*np.searchsorted(row, [chunk[0], chunk[-1] + 1]))
        column = np.searchsorted(asked, item[mine])
        evidence[mine] = table[np.searchsorted(chunk, row[mine]), column]
    return evidence
