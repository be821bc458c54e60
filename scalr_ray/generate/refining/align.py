"""Alignment: rows are left out until the batch is spread over the items as the target domain is.

Items stand in buckets, by popularity or by a feature. A bucket of which the batch has more than the
target domain is thinned (the paper's bucket-wise downsampling): of its rows the share
`min(1, target / synthetic)` stays. That leaves the batch smaller, so that the buckets that were not
thinned grow, and the step is taken again. All those steps together are one family,

    keep_b = min(1, c * target_b / synthetic_b),

with c falling from 1 to the least ratio of synthetic to target, where the shares agree. A bucket
with hardly any rows would pull c to 0; c therefore stops where a quarter of the rows is left, even
where that is above 1.

A row stays when its keyed `thinning` value lies below `keep` of its item, and the cap of rows per
item keeps the smallest `thinning` values: neither looks at any other row, so that it does not
matter how the rows are split among workers.

Legend: I items, B buckets, N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# No more than three quarters of what was drawn are thrown away for the sake of equal shares.
LEAST_KEPT_FRAC = 0.25


@dataclass(frozen=True, kw_only=True)
class AlignmentReport:
    """What alignment found and did.

    Attributes:
        by: `popularity`, or the feature the buckets are of.
        target: (B,) share of each bucket in the target domain, as the prior counts it.
        before: (B,) share of each bucket in the rows that were drawn.
        after: (B,) the same in the rows that stay.
        kept_frac: share of the rows that stay.
    """

    by: str
    target: tuple[float, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    kept_frac: float

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> AlignmentReport:
        """What `asdict` gave, before or after it went through JSON."""
        shares = {name: tuple(saved[name]) for name in ("target", "before", "after")}
        return cls(**{**saved, **shares})

    @property
    def distance(self) -> tuple[float, float]:
        """Total variation between batch and target over the buckets, before and after."""
        return _total_variation(self.before, self.target), _total_variation(self.after, self.target)

    @property
    def sentence(self) -> str:
        """The finding in one line."""
        before, after = self.distance
        return (
            f"alignment by {self.by}: {before:.1%} of the rows stood in other buckets than the "
            f"target domain's, {after:.1%} of those that stay; {self.kept_frac:.1%} stay"
        )


@dataclass(frozen=True, kw_only=True)
class ItemCaps:
    """For each item with more rows than the cap, the last row that stays.

    Attributes:
        items: (C,) item codes, ascending.
        thinning: (C,) the `thinning` value of the last row.
        event_ids: (C,) its event id, which decides between equal values.
    """

    items: NDArray[np.int64]
    thinning: NDArray[np.float64]
    event_ids: pa.Array

    @classmethod
    def none(cls) -> ItemCaps:
        """No item has too many rows."""
        return cls(
            items=np.zeros(0, dtype=np.int64),
            thinning=np.zeros(0),
            event_ids=pa.array([], pa.string()),
        )

    def exceeded(
        self, item: NDArray[np.int64], thinning: NDArray[np.float64], event_ids: pa.Array
    ) -> NDArray[np.bool_]:
        """(N,) whether each row comes after the last one of its item."""
        if not len(self.items):
            return np.zeros(len(item), dtype=bool)
        at = np.minimum(np.searchsorted(self.items, item), len(self.items) - 1)
        capped, last = self.items[at] == item, self.thinning[at]
        above = thinning > last
        tied = np.flatnonzero(capped & (thinning == last))
        if tied.size:
            ids = pc.take(event_ids, pa.array(tied))
            above[tied] = pc.greater(ids, self.event_ids.take(pa.array(at[tied]))).to_numpy(
                zero_copy_only=False
            )
        return np.asarray(capped & above)


def popularity_buckets(prior: NDArray[np.float64], buckets: int) -> NDArray[np.int64]:
    """(I,) the bucket of each item: sorted by `prior` (I,), cut into equal mass, popular first."""
    order = np.argsort(-prior, kind="stable")
    bucket = np.empty(len(prior), dtype=np.int64)
    bucket[order] = _equal_mass(prior[order], buckets)
    return bucket


def feature_buckets(
    values: NDArray[np.float64],
    prior: NDArray[np.float64],
    buckets: int,
    *,
    categories: bool = False,
) -> NDArray[np.int64]:
    """(I,) the bucket of each item by a feature of the items.

    Args:
        values: (I,) of the feature, NaN where unknown, which is a bucket of its own. They are cut
            into buckets of about equal prior mass, equal values always together.
        prior: (I,) popularity of the items.
        buckets: number of buckets.
        categories: each value is a bucket instead.
    """
    distinct, place = np.unique(values, return_inverse=True)
    if categories:
        return np.asarray(place, dtype=np.int64)
    mass = _sums(place, prior)
    known = ~np.isnan(distinct)
    bucket = np.full(len(distinct), buckets, dtype=np.int64)
    bucket[known] = _equal_mass(mass[known], buckets)
    return np.asarray(bucket[place])


def keep_fractions(
    target: NDArray[np.float64],
    synthetic: NDArray[np.float64],
    *,
    least_kept_frac: float = LEAST_KEPT_FRAC,
) -> NDArray[np.float64]:
    """(B,) the share of each bucket's rows that stays.

    Buckets without rows cannot be filled, so the shares are held against the target's among the
    others. Rows of a bucket that the target domain does not have never stay.

    Args:
        target: (B,) masses of the target domain.
        synthetic: (B,) numbers of rows.
        least_kept_frac: where equal shares would leave fewer rows than this, c stops there.
    """
    filled = (synthetic > 0) & (target > 0)
    if not filled.any():
        return np.ones(len(target))
    target_share = np.where(filled, target, 0.0) / target[filled].sum()
    share = synthetic / synthetic.sum()
    ratio = np.sort(share[filled] / target_share[filled])
    # What stays is linear in c between two ratios of neighbouring buckets.
    kept = np.minimum(share[filled], ratio[:, None] * target_share[filled]).sum(axis=1)
    level = float(np.interp(least_kept_frac, kept, ratio))
    return np.asarray(np.minimum(1.0, level * target_share / np.where(share > 0, share, 1.0)))


def align_shares(
    by: str, bucket: NDArray[np.int64], prior: NDArray[np.float64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], AlignmentReport]:
    """(I,) the share of each item's rows that stays, and what that does.

    Args:
        by: what the buckets are of, for the report.
        bucket: (I,) the bucket of each item.
        prior: (I,) recent popularity in the target domain.
        rows: (I,) rows of each item that were drawn.
    """
    target, synthetic = _sums(bucket, prior), _sums(bucket, rows.astype(np.float64))
    keep = keep_fractions(target, synthetic)
    left = keep * synthetic
    report = AlignmentReport(
        by=by,
        target=_shares(target),
        before=_shares(synthetic),
        after=_shares(left),
        kept_frac=float(left.sum() / max(synthetic.sum(), 1.0)),
    )
    return keep[bucket], report


def find_item_caps(session: duckdb.DuckDBPyConnection, per_item: int) -> ItemCaps:
    """The last row that stays of each item with more than `per_item` rows.

    Args:
        session: with the relation `staying`: `item_code`, `thinning` and `event_id` of the rows
            that alignment leaves.
        per_item: rows that stay of an item.
    """
    found = session.sql(
        f"""
        SELECT item_code, thinning, event_id
        FROM staying SEMI JOIN (
            SELECT item_code FROM staying GROUP BY ALL HAVING count(*) > {per_item}
        ) USING (item_code)
        QUALIFY row_number() OVER (PARTITION BY item_code ORDER BY thinning, event_id) = {per_item}
        ORDER BY item_code
        """
    ).to_arrow_table()
    return ItemCaps(
        items=found["item_code"].to_numpy(),
        thinning=found["thinning"].to_numpy(),
        event_ids=found["event_id"].combine_chunks(),
    )


def _equal_mass(mass: NDArray[np.float64], buckets: int) -> NDArray[np.int64]:
    """The bucket of each entry of `mass`, in order; an entry stands where its middle lies.

    By its end, an entry of most of the mass would fall into the last bucket with all that follow.
    """
    total = max(float(mass.sum()), np.finfo(np.float64).tiny)
    middle = (np.cumsum(mass) - 0.5 * mass) / total
    return np.asarray(np.clip(middle * buckets, 0, buckets - 1), dtype=np.int64)


def _sums(place: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of the `values` at each place, in order of place."""
    return np.asarray(np.bincount(place, weights=values), dtype=np.float64)


def _shares(mass: NDArray[np.float64]) -> tuple[float, ...]:
    total = float(mass.sum())
    return tuple((mass / total if total else mass).tolist())


def _total_variation(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return 0.5 * sum(abs(a - b) for a, b in zip(one, other, strict=True))
