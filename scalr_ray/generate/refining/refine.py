"""Refinement: what can only be decided once the whole batch has been drawn.

`fit_refinement` looks at all drawn rows together, column by column through DuckDB, and learns a few
numbers per item, two small models and one scale. `refine` then treats each row by itself
(`refinement`). Neither depends on the order of the rows or on how files split them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalr_ray.core.clock import to_micros
from scalr_ray.core.duck import duck
from scalr_ray.core.errors import DataError
from scalr_ray.core.keyed import stream_seed
from scalr_ray.generate.disk import full_disk_told
from scalr_ray.generate.refining.align import (
    AlignmentReport,
    ItemCaps,
    align_shares,
    feature_buckets,
    find_item_caps,
    popularity_buckets,
)
from scalr_ray.generate.refining.contrast import (
    Contrast,
    ItemFacts,
    ObservedTarget,
    Served,
    draw_contrast,
    item_numbers,
)
from scalr_ray.generate.refining.discriminate import (
    Density,
    DiscriminatorReport,
    discriminator_auc,
    enough,
    feature_shifts,
    fit_discriminator,
    reweighted,
)
from scalr_ray.generate.refining.drawn import Rows, expose_rows
from scalr_ray.generate.refining.refinement import Refinement, refine, weight_factors
from scalr_ray.generate.refining.report import RefinementReport
from scalr_ray.generate.refining.weigh import ExactSum, MassReport, WeightRule, product

__all__ = [
    "ObservedTarget",
    "RefineSettings",
    "Refinement",
    "RefinementReport",
    "Served",
    "fit_refinement",
    "refine",
]

POPULARITY = "popularity"

_CHUNK_ROWS = 65_536
_NEEDED = (
    "event_id",
    "user_id",
    "event_timestamp",
    "label",
    "history_weight",
    "item_code",
    "thinning",
    "log_lift",
)


@dataclass(frozen=True, kw_only=True)
class RefineSettings:
    """How a batch is refined.

    Attributes:
        by: `popularity`, or the name of the feature in `ObservedTarget.item_values`; None does not
            align.
        buckets: number of buckets for numbers.
        density_clip: bounds the density weight; None leaves it at 1.
        per_item: rows that stay of an item; None: all.
        likelihood_power: exponent of the likelihood over that of the prior.
        age_half_life_days: of the weight, before the cut; None: no decay.
        mass_frac: largest sum of the weights per real target event; None: any.
        published_mass: how much of that sum is published already, and stays.
        scale: of the weights, lowered where `mass_frac` asks for it.
        as_of: the cut.
        seed: of the comparison with real events.
    """

    by: str | None = None
    buckets: int = 10
    density_clip: float | None = None
    per_item: int | None = None
    likelihood_power: float = 0.0
    age_half_life_days: float | None = None
    mass_frac: float | None = None
    published_mass: float = 0.0
    scale: float = 1.0
    as_of: datetime
    seed: int = 0


def fit_refinement(
    drawn: Rows, observed: ObservedTarget, settings: RefineSettings
) -> tuple[Refinement, RefinementReport]:
    """Decide what each row of a batch is held against.

    Args:
        drawn: rows of `draw_events`; files are read by column, and never all in memory.
        observed: the target domain as of `settings.as_of`.
        settings: of this batch.

    Raises:
        DataError: alignment goes by a feature of which `observed` has no values.
        RetryLater: the disk for temporary files is full.
    """
    with full_disk_told("temporary files of DuckDB"), duck() as session:
        _expose(session, drawn)
        rows = _rows_by_item(session, len(observed.prior))
        keep, alignment = _alignment(observed, settings, rows)
        caps, left = _caps(session, keep, settings.per_item)
        facts = ItemFacts.of(observed, as_of_micros=to_micros(settings.as_of), by=settings.by)
        seed = stream_seed("refine", settings.seed)
        contrast = draw_contrast(session, observed, facts, seed=seed)
        density, discriminator = _compare(contrast, keep, caps, facts, settings)
        refinement = Refinement(
            keep=keep,
            caps=caps,
            density=density,
            weights=WeightRule(
                as_of_micros=to_micros(settings.as_of),
                likelihood_power=settings.likelihood_power,
                age_half_life_days=settings.age_half_life_days,
                scale=settings.scale,
            ),
        )
        refinement, mass = _balance(session, refinement, observed, settings)
    report = RefinementReport(
        drawn=int(rows.sum()),
        thinned=int(rows.sum()) - left,
        capped=left - mass.rows,
        alignment=alignment,
        discriminator=discriminator,
        mass=mass,
    )
    return refinement, report


def _expose(session: duckdb.DuckDBPyConnection, drawn: Rows) -> None:
    """The relation `candidates`: what the draw accepted, without negatives."""
    expose_rows(session, "drawn", drawn)
    session.execute(
        f"CREATE TEMP VIEW candidates AS SELECT {', '.join(_NEEDED)}, item_id "
        "FROM drawn WHERE reason IS NULL AND label > 0"
    )


def _rows_by_item(session: duckdb.DuckDBPyConnection, items: int) -> NDArray[np.int64]:
    """(I,) the number of candidates of each item."""
    found = session.sql("SELECT item_code, count(*) AS rows FROM candidates GROUP BY ALL")
    counts = found.to_arrow_table()
    rows = np.zeros(items, dtype=np.int64)
    rows[counts["item_code"].to_numpy()] = counts["rows"].to_numpy()
    return rows


def _alignment(
    observed: ObservedTarget, settings: RefineSettings, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], AlignmentReport | None]:
    """(I,) the share of each item's rows that stays."""
    if settings.by is None or not rows.any():
        return np.ones(len(rows)), None
    if settings.by == POPULARITY:
        bucket = popularity_buckets(observed.prior, settings.buckets)
    elif observed.item_values is None:
        raise DataError(
            f"the items have no values of {settings.by!r} as of {settings.as_of:%Y-%m-%d %H:%M}; "
            "name another feature as alignment.by, or popularity"
        )
    else:
        values, categories = item_numbers(observed.item_values)
        bucket = feature_buckets(values, observed.prior, settings.buckets, categories=categories)
    return align_shares(settings.by, bucket, observed.prior, rows)


def _caps(
    session: duckdb.DuckDBPyConnection, keep: NDArray[np.float64], per_item: int | None
) -> tuple[ItemCaps, int]:
    """The caps, and the number of rows that alignment leaves; makes the relation `staying`."""
    session.register("kept", pa.table({"item_code": np.arange(len(keep)), "keep": keep}))
    session.execute(
        "CREATE TEMP VIEW staying AS SELECT candidates.* "
        "FROM candidates JOIN kept USING (item_code) WHERE thinning < keep"
    )
    found = session.execute("SELECT count(*) FROM staying").fetchone()
    assert found is not None
    caps = ItemCaps.none() if per_item is None else find_item_caps(session, per_item)
    return caps, int(found[0])


def _compare(
    contrast: Contrast,
    keep: NDArray[np.float64],
    caps: ItemCaps,
    facts: ItemFacts,
    settings: RefineSettings,
) -> tuple[Density | None, DiscriminatorReport | None]:
    """The density weights, and how well synthetic events can be told from real ones."""
    if not enough(contrast):
        return None, None
    seed = stream_seed("discriminator", settings.seed)
    fitted = fit_discriminator(contrast, seed=seed)
    before = after = discriminator_auc(fitted, contrast, seed=seed)
    over = caps.exceeded(contrast.item, contrast.thinning, contrast.event_ids)
    stays = contrast.real | ((contrast.thinning < keep[contrast.item]) & ~over)
    left = contrast.where(stays)
    if not enough(left):
        report = DiscriminatorReport(
            rows=contrast.sides,
            before=before,
            after=None,
            weighted=None,
            features=feature_shifts(fitted, contrast, seed=seed),
        )
        return None, report
    if not stays.all():
        fitted = fit_discriminator(left, seed=seed)
        after = discriminator_auc(fitted, left, seed=seed)
    density, weighted = None, None
    if settings.density_clip is not None:
        density = Density(facts=facts, discriminator=fitted, clip=settings.density_clip)
        weighted = discriminator_auc(fitted, reweighted(left, density), seed=seed)
    report = DiscriminatorReport(
        rows=contrast.sides,
        before=before,
        after=after,
        weighted=weighted,
        features=feature_shifts(fitted, left, seed=seed),
    )
    return density, report


def _balance(
    session: duckdb.DuckDBPyConnection,
    refinement: Refinement,
    observed: ObservedTarget,
    settings: RefineSettings,
) -> tuple[Refinement, MassReport]:
    """Scale the density to mean 1 over the rows that stay, and the weights to their bound.

    The bound holds for the batch and what is published together.
    """
    rows, ratios, masses = 0, ExactSum(), ExactSum()
    for block in _staying_blocks(session, refinement):
        factors = weight_factors(block, refinement)
        rows += block.num_rows
        ratios.add(factors["density_weight"])
        masses.add(product(factors))
    density, mean = refinement.density, ratios.value / max(rows, 1)
    if density is None or rows == 0:
        mean = 1.0
    else:
        density = replace(density, mean=mean)
    asked, real = refinement.weights.scale, observed.events.num_rows
    mass, most, scale = masses.value / mean, masses.most / mean, asked
    if settings.mass_frac is not None:
        room = max(settings.mass_frac * real - settings.published_mass, 0.0)
        if asked * most > room:
            scale = room / most
    weighed = replace(refinement, density=density, weights=replace(refinement.weights, scale=scale))
    return weighed, MassReport(
        rows=rows,
        mass=scale * mass,
        real_events=real,
        asked_scale=asked,
        scale=scale,
        published=settings.published_mass,
    )


def _staying_blocks(
    session: duckdb.DuckDBPyConnection, refinement: Refinement
) -> Iterator[pa.Table]:
    """The rows that stay, a block at a time, with the columns that weights are computed from."""
    reader = session.sql(f"SELECT {', '.join(_NEEDED)} FROM staying").to_arrow_reader(_CHUNK_ROWS)
    for batch in reader:
        block = pa.table(batch)
        over = refinement.caps.exceeded(
            block["item_code"].to_numpy(),
            block["thinning"].to_numpy(),
            block["event_id"].combine_chunks(),
        )
        yield block.filter(pa.array(~over))
