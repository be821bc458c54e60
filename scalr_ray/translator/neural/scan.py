"""The K best items for each user and what all of them sum to, in one exact pass over the catalogue.

What a query makes of an item and its age, and the prior, are one inner product:

    <query, item> + by_age[age of the item] + log_prior
        = <(query, by_age, 1), (item, one-hot age, log_prior)>

so a chunk of the catalogue is one matrix product. While it lies in the cache, it is added to the
normaliser of the evidence and to that of the likelihood, and what may be among the K best is kept:
what is above a threshold that a sample of the catalogue gives, and of which a little more than K
are. Memory is that of a chunk and of the lists, whatever the catalogue.

Legend: U users of a block, I items of the table, C items of a chunk, K items listed, H items kept,
W = D + A + 1 for width D and A age classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scalr_ray.translator.neural.best import Best, room, sampling
from scalr_ray.translator.neural.steady import padded_rows

_LOWEST = torch.finfo(torch.float32).min
# Users and items of a block: 1 MB of scores stays in the cache of a core, 128 MB keep a GPU busy.
_CPU_BLOCK, _GPU_BLOCK = (256, 1024), (1024, 1 << 15)
# Lists in the making.
_LIST_BYTES = 256 << 20
# Below this exponent a score says too little of the evidence to read it off.
_SMALLEST_EXPONENT = 0.25


@dataclass(frozen=True, kw_only=True)
class ItemTable:
    """The items that the prior knows, as of a time.

    Attributes:
        vectors: (I, W) float32 item vectors, one-hot age classes and log priors, side by side.
    """

    vectors: Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def log_prior(self) -> Tensor:
        """(I,) of each item."""
        return self.vectors[:, -1]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of every user.

    Attributes:
        k: how many items to list; None lists all, in order.
        exponent: of the lift, in the score that items are listed by.
        alpha: of the lift, in the likelihood.
        temperature: of the likelihood.
        allowed: (I,) items that may be listed.
    """

    k: int | None
    exponent: float
    alpha: float
    temperature: float
    allowed: Tensor


@dataclass(frozen=True, kw_only=True)
class Barred:
    """Items that may not be listed for single users.

    Attributes:
        rows: (N,) the user of each.
        items: (N,) ascending.
    """

    rows: Tensor
    items: Tensor

    def of_rows(self, rows: Tensor, users: int) -> Barred:
        """Those of `rows` (V,) among `users`, numbered anew."""
        number = torch.full((users,), -1, device=rows.device)
        number[rows] = torch.arange(len(rows), device=rows.device)
        kept = number[self.rows] >= 0
        return Barred(rows=number[self.rows[kept]], items=self.items[kept])

    def every(self, step: int) -> Barred:
        """Those of each `step`-th item, numbered anew."""
        kept = self.items % step == 0
        return Barred(rows=self.rows[kept], items=self.items[kept] // step)

    def mask(self, scores: Tensor, start: int = 0) -> None:
        """Set the scores (U, C) of the items from `start` on to minus infinity where barred."""
        bounds = torch.tensor([start, start + scores.shape[1]], device=self.items.device)
        low, high = torch.searchsorted(self.items, bounds).tolist()
        if low < high:
            scores[self.rows[low:high], self.items[low:high] - start] = -torch.inf


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found for U users.

    Attributes:
        items: (U, K) the best first, equal ones by position in the table; -1 where there are fewer.
            All by position where all are listed.
        evidence: (U, K) float32 of each; without meaning where there is no item.
        log_norm: (U,) float32 of the likelihood, over all items that may be listed.
    """

    items: Tensor
    evidence: Tensor
    log_norm: Tensor


def users_at_once(items: int, k: int | None, device: torch.device) -> int:
    """How many users to scan for in one block, so that their lists stay small."""
    most, _ = _block(device)
    width = items if k is None else room(items, k)
    return max(1, min(most, _LIST_BYTES // (8 * max(width, 1))))


def scan(queries: Tensor, table: ItemTable, wanted: Wanted, barred: Barred) -> Found:
    """The items of largest log_prior + exponent * evidence for each user, and the sum of all.

    On a CPU, what is found for a user is the same to the last bit whoever else is asked about.

    Args:
        queries: (U, W) of the users: query, what it makes of each age class, and 1.
        table: of the items.
        wanted: what is asked.
        barred: what is not listed for whom.
    """
    users = len(queries)
    found = _found(padded_rows(queries), table, wanted, barred)
    return Found(
        items=found.items[:users], evidence=found.evidence[:users], log_norm=found.log_norm[:users]
    )


def _found(queries: Tensor, table: ItemTable, wanted: Wanted, barred: Barred) -> Found:
    """`scan`, of users that come by the number that `padded_rows` gives."""
    if wanted.k is None:
        # The score of exponent 1 holds the evidence as it is.
        wanted = replace(wanted, exponent=1.0)
        return _scan(queries, table, wanted, barred, _All(queries, len(table)))
    least, chunk = _threshold(queries, table, wanted, barred), _block(queries.device)[1]
    best = Best(least, len(table), wanted.k, chunk=chunk)
    found = _scan(queries, table, wanted, barred, best)
    short = torch.nonzero((best.fill < wanted.k) & (least[:, 0] > -torch.inf))[:, 0]
    if len(short):
        # The sample promised more than there is: rare, but where many scores are equal.
        asked, count = padded_rows(queries[short]), len(short)
        best = Best(least.new_full((len(asked), 1), -torch.inf), len(table), wanted.k, chunk=chunk)
        again = _scan(asked, table, wanted, barred.of_rows(short, len(queries)), best)
        found.items[short], found.evidence[short] = again.items[:count], again.evidence[:count]
    return found


def _scan(
    queries: Tensor, table: ItemTable, wanted: Wanted, barred: Barred, lists: _All | Best
) -> Found:
    """One pass over the table, in chunks."""
    users = len(queries)
    _, size = _block(queries.device)
    of_evidence, of_likelihood = _LogSum(queries), _LogSum(queries)
    tempered = _Scores.of(table, wanted, wanted.alpha, wanted.temperature)
    listed = _Scores.of(table, wanted, wanted.exponent, 1.0)
    scratch = queries.new_empty(2, users * size)
    for start in range(0, len(table), size):
        stop = min(start + size, len(table))
        base, other = (flat[: users * (stop - start)].view(users, -1) for flat in scratch)
        torch.mm(queries, table.vectors[start:stop].T, out=base)
        of_evidence.add(base, scratch=other)
        scores = tempered.write(base, start, out=other)
        barred.mask(scores, start)
        of_likelihood.add(scores, scratch=other)
        scores = base if listed.is_base else listed.write(base, start, out=other)
        barred.mask(scores, start)
        lists.add(scores, start)
    items, scores = lists.listed()
    over_prior = of_evidence.value - torch.logsumexp(table.log_prior.double(), 0)
    some = items.clamp(min=0)
    if wanted.exponent < _SMALLEST_EXPONENT:
        evidence = products(queries, table, some)
    else:
        evidence = (scores - table.log_prior[some]) / wanted.exponent
    return Found(
        items=items,
        evidence=torch.where(items >= 0, evidence - over_prior.float()[:, None], 0.0),
        log_norm=_log_norm(of_likelihood.value, over_prior, wanted),
    )


def _log_norm(total: Tensor, over_prior: Tensor, wanted: Wanted) -> Tensor:
    """(U,) the sum of the likelihood, of which the normaliser of the evidence is a constant."""
    return (total - over_prior * (wanted.alpha / wanted.temperature)).float()


def products(queries: Tensor, table: ItemTable, items: Tensor) -> Tensor:
    """(U, K) what each query makes of its items (U, K)."""
    step = max(1, _LIST_BYTES // (4 * max(items.shape[1], 1) * queries.shape[1]))
    parts = [
        torch.einsum("uw,ukw->uk", some, table.vectors[listed][..., :-1])
        for some, listed in zip(
            torch.split(queries[:, :-1], step), torch.split(items, step), strict=True
        )
    ]
    return torch.cat(parts)


@dataclass(frozen=True, kw_only=True)
class _Scores:
    """(log_prior + exponent * match) / temperature, from log_prior + match.

    Attributes:
        scale: of the latter.
        bias: (I,) what is added; -inf for items that may not be listed.
        is_base: whether both are the same.
    """

    scale: float
    bias: Tensor
    is_base: bool

    @classmethod
    def of(cls, table: ItemTable, wanted: Wanted, exponent: float, temperature: float) -> _Scores:
        bias = table.log_prior * ((1.0 - exponent) / temperature)
        return cls(
            scale=exponent / temperature,
            bias=torch.where(wanted.allowed, bias, -torch.inf),
            is_base=exponent == temperature == 1.0 and bool(wanted.allowed.all()),
        )

    def write(self, base: Tensor, start: int, *, out: Tensor) -> Tensor:
        """The scores (U, C) of a chunk."""
        bias = self.bias[start : start + base.shape[1]]
        return torch.add(bias, base, alpha=self.scale, out=out)


class _LogSum:
    """The logarithm of the sum of the exponentials of each row, chunk by chunk."""

    def __init__(self, queries: Tensor) -> None:
        self._peak = queries.new_full((len(queries), 1), -torch.inf)
        self._total = queries.new_zeros((len(queries), 1), dtype=torch.float64)

    @property
    def value(self) -> Tensor:
        """(U,) float64; -inf where there is nothing, NaN where there was a NaN or +inf."""
        return (self._peak + self._total.log())[:, 0]

    def add(self, scores: Tensor, *, scratch: Tensor) -> None:
        """Add a chunk (U, C), overwriting `scratch`, which may be the chunk itself."""
        peak = torch.maximum(self._peak, scores.amax(dim=1, keepdim=True))
        shift = peak.clamp(min=_LOWEST)
        terms = torch.sub(scores, shift, out=scratch).exp_()
        self._total *= (self._peak - shift).exp()
        self._total += terms.sum(dim=1, keepdim=True)
        self._peak = peak


class _All:
    """The scores of all items, in order."""

    def __init__(self, queries: Tensor, items: int) -> None:
        self._scores = queries.new_empty(len(queries), items)

    def add(self, scores: Tensor, start: int) -> None:
        """Keep a chunk (U, C) of the items from `start` on."""
        self._scores[:, start : start + scores.shape[1]] = scores

    def listed(self) -> tuple[Tensor, Tensor]:
        """(U, I) items, -1 where one may not be listed, and their scores."""
        items = torch.arange(self._scores.shape[1], device=self._scores.device)
        return torch.where(self._scores > -torch.inf, items, -1), self._scores


def _block(device: torch.device) -> tuple[int, int]:
    """Users and items of a block."""
    return _GPU_BLOCK if device.type == "cuda" else _CPU_BLOCK


def _threshold(queries: Tensor, table: ItemTable, wanted: Wanted, barred: Barred) -> Tensor:
    """(U, 1) a score that the K-th best is most likely above, but not far; -inf if unknown."""
    assert wanted.k is not None
    step, rank = sampling(len(table), wanted.k)
    sample = ItemTable(vectors=table.vectors[::step])
    if rank > len(sample):
        return queries.new_full((len(queries), 1), -torch.inf)
    asked = replace(wanted, allowed=wanted.allowed[::step])
    base = queries @ sample.vectors.T
    scores = _Scores.of(sample, asked, wanted.exponent, 1.0).write(
        base, 0, out=torch.empty_like(base)
    )
    barred.every(step).mask(scores)
    return scores.topk(rank, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
