"""Refinement is the same however the rows are ordered, split and sent about."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as few
from hypothesis import strategies as st
from refine_rows import SCHEMA, drawn_rows, observed_target, settings, written

from scalr_ray.generate.refining.refine import RefinementReport, fit_refinement, refine

ITEMS = 40
ROWS = 9000


def example(rows=ROWS):
    rng = np.random.default_rng(2)
    prior = 1 / np.arange(1, ITEMS + 1)
    real = zip(
        rng.integers(0, 900, 2000).tolist(),
        rng.choice(ITEMS, 2000, p=prior / prior.sum()).tolist(),
        rng.uniform(0.1, 60, 2000).tolist(),
        strict=True,
    )
    users, items = np.divmod(rng.choice(1200 * ITEMS, rows, replace=False), ITEMS)
    label = (rng.random(rows) < 0.9).astype(float)
    drawn = drawn_rows(
        users + 10_000,
        items,
        of=ITEMS,
        days=rng.uniform(0.1, 60, rows),
        label=label,
        history=rng.random(rows),
        log_lift=rng.normal(size=rows),
        reason=[None if one < 0.9 else "likelihood_floor" for one in rng.random(rows)],
    )
    return drawn, observed_target(prior, list(real))


DRAWN, OBSERVED = example()
CHOSEN = settings(
    by="popularity",
    buckets=4,
    per_item=60,
    density_clip=4.0,
    likelihood_power=0.5,
    age_half_life_days=30.0,
    mass_frac=0.05,
)
REFINEMENT, REPORT = fit_refinement(DRAWN, OBSERVED, CHOSEN)
WHOLE = refine(DRAWN, REFINEMENT, SCHEMA)


def by_event(table):
    return table.sort_by("event_id")


def test_the_example_has_every_kind_of_row():
    reasons = set(WHOLE["reason"].to_pylist())
    assert reasons == {None, "above_bucket_share", "item_cap", "likelihood_floor"}
    assert REPORT.mass.scale < 1
    assert WHOLE["density_weight"].to_numpy().std() > 0.1


@few(max_examples=25)
@given(
    st.lists(st.integers(0, ROWS), max_size=6).map(sorted),
    st.integers(0, 2**32 - 1),
)
def test_any_order_and_split_gives_the_same_rows_bit_for_bit(cuts, seed):
    shuffled = DRAWN.take(pa.array(np.random.default_rng(seed).permutation(ROWS)))
    edges = [0, *cuts, ROWS]
    parts = [
        refine(shuffled.slice(start, stop - start), REFINEMENT, SCHEMA)
        for start, stop in pairwise(edges)
    ]
    assert by_event(pa.concat_tables(parts)).equals(by_event(WHOLE))


@pytest.mark.parametrize("parts", [1, 3, 8])
def test_it_is_learnt_alike_from_files_and_from_any_order(parts, tmp_path):
    shuffled = DRAWN.take(pa.array(np.random.default_rng(parts).permutation(ROWS)))
    refinement, report = fit_refinement(written(shuffled, tmp_path, parts), OBSERVED, CHOSEN)
    assert report == REPORT
    assert refine(DRAWN, refinement, SCHEMA).equals(WHOLE)


def test_a_refinement_travels_to_workers():
    sent = pickle.loads(pickle.dumps(REFINEMENT))  # noqa: S301 - our own bytes
    assert refine(DRAWN, sent, SCHEMA).equals(WHOLE)


def test_the_report_survives_json():
    saved = json.loads(json.dumps(REPORT.to_json()))
    assert RefinementReport.from_json(saved) == REPORT
    assert saved["discriminator"]["shifted"] == list(REPORT.discriminator.shifted)
    assert len(REPORT.sentences) == 4
    assert all("\n" not in sentence for sentence in REPORT.sentences)


def test_rows_keep_their_order_and_columns_but_for_weights_and_reason():
    assert WHOLE.schema.names == [*SCHEMA.names, "reason"]
    changed = {"sample_weight", "likelihood_weight", "density_weight", "age_weight"}
    same = [name for name in SCHEMA.names if name not in changed]
    assert WHOLE.select(same).equals(DRAWN.select(same))


def test_another_seed_looks_at_another_sample_but_keeps_the_same_rows():
    refinement, _ = fit_refinement(DRAWN, OBSERVED, replace(CHOSEN, seed=99))
    again = refine(DRAWN, refinement, SCHEMA)
    assert again["reason"].equals(WHOLE["reason"])
