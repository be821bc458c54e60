"""The shortlist of a neural translator: users and masks in, one scan of the catalogue, codes out.

Legend: B users, I target items, K items listed for each user.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from scalr_ray.translator.histories import Users
from scalr_ray.translator.neural.scan import Barred, Found, Wanted, scan, users_at_once
from scalr_ray.translator.neural.translator import KnownItems, NeuralTranslator
from scalr_ray.translator.shortlist import Shortlist, joined, nobody


def retrieve(
    translator: NeuralTranslator,
    users: Users,
    *,
    k: int,
    exponent: float,
    barred: sparse.csr_matrix,
    possible: NDArray[np.bool_],
) -> Shortlist:
    """The exact shortlist, from the device that the translator is on.

    Args:
        translator: of which the evidence counts.
        users: B users.
        k: how many items to list, at least 1.
        exponent: of the lift in drawing.
        barred: (B, I) stored entries are not proposed to the user.
        possible: (I,) items that may be proposed, all of them known to the prior.

    Raises:
        DataError: the net was trained with user features, and there are none.
    """
    with torch.inference_mode():
        known = translator.known_items(users.as_of)
        everything = k >= len(possible)
        wanted = Wanted(
            k=None if everything else min(k, len(known.table)),
            exponent=exponent,
            alpha=translator.alpha,
            temperature=translator.temperature,
            allowed=torch.from_numpy(possible[known.codes]).to(translator.device),
        )
        width = min(k, len(possible))
        size = users_at_once(len(known.table), wanted.k, translator.device)
        parts = [nobody(width)]
        for start in range(0, len(users), size):
            stop = min(start + size, len(users))
            found = scan(
                translator.queries(users.part(start, stop)),
                known.table,
                wanted,
                barred_items(barred[start:stop], known, translator.device),
            )
            parts.append(coded(found, known.codes, width, by_code=everything))
        return joined(parts)


def barred_items(barred: sparse.csr_matrix, known: KnownItems, device: torch.device) -> Barred:
    """The stored entries of `barred` (U, I), of the items that are known."""
    row = np.repeat(np.arange(barred.shape[0]), np.diff(barred.indptr))
    place = known.places[barred.indices]
    order = np.argsort(place, kind="stable")
    order = order[np.searchsorted(place[order], 0) :]
    return Barred(
        rows=torch.from_numpy(row[order]).to(device),
        items=torch.from_numpy(place[order]).to(device),
    )


def coded(
    found: Found, codes: NDArray[np.int64], width: int, *, by_code: bool = False
) -> Shortlist:
    """The same under the codes of the items, in `width` columns: the first, or that of the code."""
    items = _numpy(found.items)
    columns = codes if by_code else np.arange(items.shape[1])
    listed = Shortlist(
        items=np.full((len(items), width), -1, dtype=np.int64),
        evidence=np.zeros((len(items), width), dtype=np.float32),
        log_norm=_numpy(found.log_norm),
    )
    listed.items[:, columns] = np.where(items >= 0, codes[items], -1)
    listed.evidence[:, columns] = _numpy(found.evidence)
    return listed


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return np.asarray(tensor.cpu())
