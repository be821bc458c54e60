"""The row checks: everything about a staged batch that can be proven from its rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalr_ray.core.clock import time_literal
from scalr_ray.core.duck import duck, quote_text
from scalr_ray.gate.check import Check
from scalr_ray.gate.drift import population_stability
from scalr_ray.translator import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What was known as of the cut, to hold a batch against.

    Attributes:
        as_of: the cut.
        source: visible source events (columns of `core.events`).
        target: visible target events.
        item_ids: (I,) the target catalogue.
        prior: (I,) its time-aware popularity.
    """

    as_of: datetime
    source: pa.Table
    target: pa.Table
    item_ids: pa.Array
    prior: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _RowRule:
    """What must be true of every row: in words, and as SQL that counts the rows that break it."""

    name: str
    rule: str
    count: str


def audit(
    batch: pa.Table, observed: Observed, *, batch_id: str, max_psi: float, max_mass_frac: float
) -> list[Check]:
    """Hold the staged rows against every rule.

    Args:
        batch: rows in the schema of a synthetic event.
        observed: what was known as of the cut.
        batch_id: the batch under audit.
        max_psi: largest allowed popularity shift against the prior.
        max_mass_frac: largest allowed sum of sample weights per real target event.

    Returns:
        One check per rule, the emptiness check first; the others are left out when it fails.
    """
    filled = Check(
        name="not_empty",
        passed=batch.num_rows > 0,
        value=float(batch.num_rows),
        threshold=1.0,
        detail=f"{batch.num_rows} rows are staged",
    )
    if not filled.passed:
        return [filled]
    with duck() as session:
        session.register("batch", batch)
        session.register("source", observed.source)
        session.register("target", observed.target)
        rows = [_count(session, rule) for rule in _rules(batch_id, observed.as_of)]
    return [filled, *rows, _drift(batch, observed, max_psi), _mass(batch, observed, max_mass_frac)]


def _rules(batch_id: str, as_of: datetime) -> list[_RowRule]:
    cut = time_literal(as_of)
    return [
        _RowRule(
            name="one_batch",
            rule="every row names this batch",
            count=_breaking(f"batch_id = {quote_text(batch_id)}"),
        ),
        _RowRule(
            name="unique_event_id",
            rule="no event id stands twice",
            count="SELECT count(*) - count(DISTINCT event_id) FROM batch",
        ),
        _RowRule(
            name="unique_pair",
            rule="no user gets an item twice",
            count="SELECT count(*) - count(DISTINCT (user_id, item_id)) FROM batch",
        ),
        _RowRule(
            name="clocks",
            rule="known after it happened, no earlier than its translator, and by the cut",
            count=_breaking(
                "event_timestamp < available_at AND train_cutoff <= available_at "
                f"AND available_at <= {cut}"
            ),
        ),
        _RowRule(
            name="likelihood",
            rule="likelihood in (0, 1], weight finite and not negative",
            count=_breaking(
                "likelihood > 0 AND likelihood <= 1 "
                "AND isfinite(sample_weight) AND sample_weight >= 0"
            ),
        ),
        _RowRule(
            name="not_real",
            rule="no pair of user and item was already observed",
            count="SELECT count(*) FROM batch SEMI JOIN target USING (user_id, item_id)",
        ),
        _RowRule(
            name="in_catalogue",
            rule="the item had been seen by the time of the event",
            count=_breaking(
                "first <= event_timestamp",
                "LEFT JOIN (SELECT item_id, min(event_timestamp) AS first FROM target GROUP BY ALL)"
                " USING (item_id)",
            ),
        ),
        _RowRule(
            name="lineage",
            rule="the source event exists, is the user's own and comes strictly before",
            count=_breaking(
                "triggered < event_timestamp",
                "LEFT JOIN (SELECT event_id AS source_event_id, user_id, event_timestamp AS "
                "triggered FROM source) USING (source_event_id, user_id)",
            ),
        ),
    ]


def _breaking(holds: str, joined: str = "") -> str:
    """SQL that counts the rows for which `holds` is false or unknown."""
    return f"SELECT count(*) FROM batch {joined} WHERE NOT coalesce({holds}, false)"


def _count(session: duckdb.DuckDBPyConnection, rule: _RowRule) -> Check:
    found = session.execute(rule.count).fetchone()
    assert found is not None
    broken = int(found[0])
    detail = rule.rule if broken == 0 else f"{broken} rows break the rule: {rule.rule}"
    return Check(
        name=rule.name, passed=broken == 0, value=float(broken), threshold=0.0, detail=detail
    )


def _drift(batch: pa.Table, observed: Observed, max_psi: float) -> Check:
    codes = Vocabulary(ids=observed.item_ids).codes(batch["item_id"])
    drawn = np.bincount(codes[codes >= 0], minlength=len(observed.item_ids)).astype(np.float64)
    psi = population_stability(observed.prior, drawn) if drawn.sum() else float("inf")
    return Check(
        name="popularity_drift",
        passed=psi <= max_psi,
        value=psi,
        threshold=max_psi,
        detail=f"population stability index {psi:.3f} over ten popularity buckets",
    )


def _mass(batch: pa.Table, observed: Observed, max_mass_frac: float) -> Check:
    mass = float(np.sum(batch["sample_weight"].to_numpy()))
    share = mass / max(observed.target.num_rows, 1)
    return Check(
        name="synthetic_mass",
        passed=share <= max_mass_frac,
        value=share,
        threshold=max_mass_frac,
        detail=f"the weights sum to {share:.2f} per real target event; mass alone can harm",
    )
