"""The row checks: everything about a staged batch that can be proven from its rows.

The rows are read by DuckDB, from memory or column by column from files, so that a batch of any size
can be audited. Events (label 1) and negatives (label 0) keep to the same rules; only events count
where the batch is held against the target domain: in drift and mass.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalr_ray.core.clock import time_literal
from scalr_ray.core.duck import duck, quote_text
from scalr_ray.core.events import EVENT_TIMESTAMP, WEIGHT_FACTORS
from scalr_ray.gate.check import Check
from scalr_ray.gate.drift import population_stability
from scalr_ray.generate.kernel.draw import EVENT_TYPE, NEGATIVE_TYPE
from scalr_ray.generate.refining.drawn import Rows, expose_rows
from scalr_ray.generate.refining.report import RefinementReport
from scalr_ray.translator import Vocabulary

# The product of the factors, in SQL.
_PRODUCT = f"({' * '.join(WEIGHT_FACTORS)})"


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What was known as of the cut, to hold a batch against.

    Attributes:
        as_of: the cut.
        source: visible source events (columns of `scalr_ray.core.events`).
        target: visible target events.
        item_ids: (I,) the target catalogue.
        prior: (I,) its time-aware popularity.
        first_known: `item_id` and `first_known`, when an item became known that needs no event on
            it, since it has features; None where there are none.
        published: `user_id` and `item_id` of the synthetic events that the batch adds to; None
            where it is not one that adds, and may repeat them.
    """

    as_of: datetime
    source: pa.Table
    target: pa.Table
    item_ids: pa.Array
    prior: NDArray[np.float64]
    first_known: pa.Table | None = None
    published: pa.Table | None = None


@dataclass(frozen=True, kw_only=True)
class _RowRule:
    """What must be true of every row: in words, and as SQL that counts the rows that break it."""

    name: str
    rule: str
    count: str


_NOT_PUBLISHED = _RowRule(
    name="not_published",
    rule="no pair of user and item was already published",
    count="SELECT count(*) FROM batch SEMI JOIN published USING (user_id, item_id)",
)


def audit(
    batch: Rows,
    observed: Observed,
    *,
    batch_id: str,
    max_psi: float,
    max_mass_frac: float,
    published_mass: float = 0.0,
    refinement: RefinementReport | None = None,
) -> list[Check]:
    """Hold the staged rows against every rule.

    Args:
        batch: rows in the schema of a synthetic event, or the Parquet files that hold them.
        observed: what was known as of the cut.
        batch_id: the batch under audit.
        max_psi: largest allowed popularity shift against the prior.
        max_mass_frac: largest allowed sum of sample weights per real target event.
        published_mass: sum of the weights of batches that are published already and stay.
        refinement: what was found while the batch was refined; None leaves its check out.

    Returns:
        One check per rule, the emptiness check first; the others are left out when it fails.
    """
    with duck() as session:
        expose_rows(session, "batch", batch)
        filled = _filled(session)
        if not filled.passed:
            return [filled]
        session.register("source", observed.source)
        session.register("target", observed.target)
        nothing = observed.target.select(["item_id", EVENT_TIMESTAMP]).slice(0, 0)
        known = nothing if observed.first_known is None else observed.first_known
        session.register("known", known)
        rules = _rules(batch_id, observed.as_of)
        if observed.published is not None:
            session.register("published", observed.published)
            rules.append(_NOT_PUBLISHED)
        rows = [_count(session, rule) for rule in rules]
        drift = _drift(_events_by_item(session), observed, max_psi)
        mass = _mass(_mass_of_events(session) + published_mass, observed, max_mass_frac)
    told = [] if refinement is None else [_discriminator(refinement)]
    return [filled, *rows, drift, mass, *told]


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
            name="propensity",
            rule="the chance of a single draw lies in (0, 1]",
            count=_breaking("propensity > 0 AND propensity <= 1"),
        ),
        _RowRule(
            name="label",
            rule="label 1 for events, label 0 for negatives",
            count=_breaking(
                f"(label = 1 AND event_type = {quote_text(EVENT_TYPE)}) "
                f"OR (label = 0 AND event_type = {quote_text(NEGATIVE_TYPE)})"
            ),
        ),
        _RowRule(
            name="weights",
            rule="the weight is the product of its factors times the scale of the batch",
            count=_breaking(
                f"abs(sample_weight - scale * {_PRODUCT}) <= 1e-9 * abs(scale * {_PRODUCT})",
                ", (SELECT coalesce(approx_quantile(sample_weight / "
                f"{_PRODUCT}, 0.5), 0.0) AS scale FROM batch "
                f"WHERE {_PRODUCT} > 0 AND isfinite(sample_weight))",
            ),
        ),
        _RowRule(
            name="not_real",
            rule="no pair of user and item was already observed",
            count="SELECT count(*) FROM batch SEMI JOIN target USING (user_id, item_id)",
        ),
        _RowRule(
            name="in_catalogue",
            rule="the item had been seen, or its features told, by the time of the event",
            count=_breaking(
                "first <= event_timestamp",
                "LEFT JOIN (SELECT item_id, min(since) AS first FROM (SELECT item_id, "
                "event_timestamp AS since FROM target UNION ALL FROM known) GROUP BY ALL) "
                "USING (item_id)",
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


def _filled(session: duckdb.DuckDBPyConnection) -> Check:
    rows = _number(session, "SELECT count(*) FROM batch")
    return Check(
        name="not_empty",
        passed=rows > 0,
        value=rows,
        threshold=1.0,
        detail=f"{rows:.0f} rows are staged",
    )


def _number(session: duckdb.DuckDBPyConnection, sql: str) -> float:
    found = session.execute(sql).fetchone()
    assert found is not None
    return float(found[0])


def _events_by_item(session: duckdb.DuckDBPyConnection) -> pa.Table:
    """`item_id` and the number of its `events` in the batch."""
    return session.sql(
        "SELECT item_id, count(*) AS events FROM batch WHERE label > 0 GROUP BY ALL"
    ).to_arrow_table()


def _mass_of_events(session: duckdb.DuckDBPyConnection) -> float:
    """The sum of the weights; compensated, so that the order of the rows hardly matters."""
    return _number(session, "SELECT coalesce(fsum(sample_weight), 0.0) FROM batch WHERE label > 0")


def _drift(events: pa.Table, observed: Observed, max_psi: float) -> Check:
    codes = Vocabulary(ids=observed.item_ids).codes(events["item_id"])
    counts = np.where(codes >= 0, events["events"].to_numpy(), 0)
    drawn = np.zeros(len(observed.item_ids))
    np.add.at(drawn, np.maximum(codes, 0), counts)
    psi = population_stability(observed.prior, drawn) if drawn.sum() else float("inf")
    return Check(
        name="popularity_drift",
        passed=psi <= max_psi,
        value=psi,
        threshold=max_psi,
        detail=f"population stability index {psi:.3f} over ten popularity buckets",
    )


def _mass(mass: float, observed: Observed, max_mass_frac: float) -> Check:
    share = mass / max(observed.target.num_rows, 1)
    return Check(
        name="synthetic_mass",
        # A batch whose weights were lowered to just this bound keeps to it but for rounding.
        passed=share <= max_mass_frac * (1.0 + 1e-9),
        value=share,
        threshold=max_mass_frac,
        detail=f"the weights sum to {share:.2f} per real target event; mass alone can harm",
    )


def _discriminator(refinement: RefinementReport) -> Check:
    """How well synthetic events can be told from real ones: told, but no reason to refuse."""
    found = refinement.discriminator
    if found is None:
        detail = "too few events of either kind to tell real from synthetic"
        return Check(name="discriminator", passed=True, detail=detail)
    return Check(
        name="discriminator", passed=True, value=found.final.estimate, detail=found.sentence
    )
