"""The K best of many scores that come in chunks, without sorting what has no chance.

Only what is above a threshold is kept. A sample of the scores gives one that a little more than K
of all are above; where there turn out to be more than there is room for, the K best so far are
chosen, and the threshold rises to the least of them.

Legend: U users, I items, C items of a chunk, K items listed, H items kept of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NOTHING = torch.iinfo(torch.int64).min
_CODES = 0x7FFFFFFF
# Every so manieth item is sampled, or fewer if there are more than so many of those.
_STEP, _SAMPLE = 16, 1 << 14
# Where fewer than one item in so many is kept, most groups of `_GROUP` hold none.
_SPARSE, _GROUP = 32, 16


class Best:
    """The K best scores so far of each row and some more, as keys that sort like (score, -item).

    Args:
        least: (U, 1) a score that the K-th best of each row is above, or -inf.
        items: I.
        k: K, at most I.
        chunk: the most scores of a row that come at a time.

    Attributes:
        fill: (U,) how many are kept of each row.
    """

    def __init__(self, least: Tensor, items: int, k: int, *, chunk: int) -> None:
        self._k, self._chunk, self._least = k, chunk, least
        self._group = _GROUP if k * _SPARSE < items else 1
        self._keys = torch.full((len(least), room(items, k) + chunk), _NOTHING, device=least.device)
        self.fill = torch.zeros(len(least), dtype=torch.int64, device=least.device)

    def add(self, scores: Tensor, start: int) -> None:
        """Keep what is above the threshold of a chunk (U, C) of the items from `start` on."""
        row, item = self._hits(scores)
        value = scores[row, item]
        counts = torch.bincount(row, minlength=len(scores))
        begin = self.fill - (counts.cumsum(0) - counts)
        place = begin[row] + torch.arange(len(row), device=row.device)
        self._keys[row, place] = sort_keys(value, item + start)
        self.fill += counts
        if int(self.fill.max()) + self._chunk > self._keys.shape[1]:
            self._keep_best()

    def listed(self) -> tuple[Tensor, Tensor]:
        """(U, K) items, -1 where there are fewer, and their scores, the best first."""
        best = self._top().sort(dim=1, descending=True).values
        items = torch.where(best == _NOTHING, -1, _CODES - (best & _CODES))
        return items, _values(best)

    def _hits(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """(H,) rows, ascending, and columns of the scores that are above the threshold."""
        groups = scores.shape[1] // self._group
        if self._group == 1 or scores.shape[1] % self._group:
            row, column = torch.nonzero(scores > self._least, as_tuple=True)
            return row, column
        # Members of a group stand far apart: that way the largest are found along the cache lines.
        grouped = scores.view(len(scores), self._group, groups)
        row, group = torch.nonzero(grouped.amax(dim=1) > self._least, as_tuple=True)
        hit, member = torch.nonzero(grouped[row, :, group] > self._least[row], as_tuple=True)
        return row[hit], member * groups + group[hit]

    def _keep_best(self) -> None:
        top = self._top()
        self._keys.fill_(_NOTHING)
        self._keys[:, : self._k] = top
        last = top.amin(dim=1, keepdim=True)
        self._least = torch.where(last == _NOTHING, self._least, _values(last))
        self.fill = (top != _NOTHING).sum(dim=1)

    def _top(self) -> Tensor:
        kept = max(int(self.fill.max()), self._k)
        return self._keys[:, :kept].topk(self._k, dim=1, sorted=False).values


def sampling(items: int, k: int) -> tuple[int, int]:
    """Every how-manieth item is sampled, and which of the sample's scores the K-th hardly exceeds.

    Of the K best, K / step are expected in the sample, and four standard deviations more in one
    case out of ten thousands.
    """
    step = max(_STEP, items // _SAMPLE)
    expected = k / step
    return step, int(expected + 4.0 * expected**0.5 + 6.0)


def room(items: int, k: int) -> int:
    """How many items are kept of a user before the best of them are chosen."""
    step, rank = sampling(items, k)
    return min(items, max(2 * k, 2 * step * rank))


def sort_keys(scores: Tensor, items: Tensor) -> Tensor:
    """int64 that sort by score, then by falling item."""
    # Adding 0 makes -0 and 0 equal. As integers, negative floats sort the wrong way round.
    bits = (scores + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & _CODES)
    return (ordered.to(torch.int64) << 32) | (_CODES - items)


def _values(keys: Tensor) -> Tensor:
    """The scores of keys."""
    ordered = (keys >> 32).to(torch.int32)
    return (ordered ^ ((ordered >> 31) & _CODES)).view(torch.float32)
