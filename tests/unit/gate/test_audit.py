"""Every rule against a batch that breaks exactly it, and a drawn batch that breaks none."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_drawings import SCHEMA, small_drawing

from scalr_ray.gate import Observed, audit, first_failure, population_stability
from scalr_ray.generate.refining.discriminate import DiscriminatorReport, FeatureShift
from scalr_ray.generate.refining.refine import (
    ObservedTarget,
    RefineSettings,
    fit_refinement,
    refine,
)
from scalr_ray.generate.refining.separation import Auc
from scalr_ray.translator import as_prior

NAMES = [
    "not_empty",
    "one_batch",
    "unique_event_id",
    "unique_pair",
    "clocks",
    "likelihood",
    "propensity",
    "label",
    "weights",
    "not_real",
    "in_catalogue",
    "lineage",
    "popularity_drift",
    "synthetic_mass",
]
MOMENT = timedelta(microseconds=1)
DRAWING = small_drawing()
AS_OF = DRAWING.settings.as_of
RULES = slice(1, 12)


def seen(table):
    return pa.Table.from_pylist(
        [
            event
            for event in table.to_pylist()
            if event["event_timestamp"] < AS_OF and event["available_at"] <= AS_OF
        ],
        schema=table.schema,
    )


OBSERVED = Observed(
    as_of=AS_OF,
    source=seen(DRAWING.source),
    target=seen(DRAWING.target),
    item_ids=DRAWING.translator.target_items.ids,
    prior=DRAWING.translator.prior,
)


def refined(drawing):
    """A batch with negatives and with weights of several factors, and what was found of it."""
    drawn = drawing.draw(negatives=1)
    target = ObservedTarget(
        events=OBSERVED.target,
        item_ids=OBSERVED.item_ids,
        prior=np.exp(drawing.translator.log_prior.astype(np.float64)),
        first_seen=drawing.translator.first_seen,
    )
    settings = RefineSettings(
        likelihood_power=0.5, age_half_life_days=20.0, scale=0.1, as_of=AS_OF, seed=1
    )
    refinement, report = fit_refinement(drawn, target, settings)
    return refine(drawn, refinement, SCHEMA).select(SCHEMA.names), report


BATCH, REPORT = refined(DRAWING)
POSITIVE = BATCH["label"].to_numpy() > 0
EVENTS = BATCH.filter(pa.array(POSITIVE))

FIRST_SEEN = {}
for _event in OBSERVED.target.to_pylist():
    _moment = _event["event_timestamp"]
    FIRST_SEEN[_event["item_id"]] = min(FIRST_SEEN.get(_event["item_id"], _moment), _moment)
TRIGGERED = {event["event_id"]: event["event_timestamp"] for event in OBSERVED.source.to_pylist()}


def check(batch, observed=OBSERVED, *, max_psi=2.0, max_mass_frac=2.0, **others):
    checks = audit(
        batch, observed, batch_id="batch-1", max_psi=max_psi, max_mass_frac=max_mass_frac, **others
    )
    return {answer.name: answer for answer in checks}


def changed(position=0, **values):
    """The batch with other values in one row; nulls are let in, as a damaged file would."""
    rows = BATCH.to_pylist()
    rows[position] |= values
    loose = pa.schema([field.with_nullable(nullable=True) for field in SCHEMA])
    return pa.Table.from_pylist(rows, schema=loose)


@pytest.mark.parametrize(("known", "repeats"), [(0, 0), (3, 3)])
def test_what_is_published_already_may_not_be_added_again(known, repeats):
    published = pa.concat_tables(
        [
            BATCH.select(["user_id", "item_id"]).slice(0, known),
            pa.table({"user_id": ["somebody"], "item_id": ["else"]}).cast(
                BATCH.select(["user_id", "item_id"]).schema
            ),
        ]
    )
    checks = {
        answer.name: answer
        for answer in audit(
            BATCH,
            replace(OBSERVED, published=published),
            batch_id="batch-1",
            max_psi=9.0,
            max_mass_frac=9.0,
        )
    }
    assert checks["not_published"].value == repeats
    assert checks["not_published"].passed == (repeats == 0)
    assert "not_published" not in check(BATCH)


def failing(checks):
    return [name for name, answer in checks.items() if not answer.passed]


def test_a_drawn_batch_passes_every_check():
    checks = check(BATCH)
    assert list(checks) == NAMES
    assert failing(checks) == []
    assert first_failure(list(checks.values())) is None
    for name in NAMES[RULES]:
        assert (checks[name].value, checks[name].threshold) == (0.0, 0.0)


def test_an_empty_batch_is_not_judged_further():
    checks = check(BATCH.slice(0, 0))
    assert list(checks) == ["not_empty"]
    assert failing(checks) == ["not_empty"]
    assert checks["not_empty"].detail == "0 rows are staged"


def first_row():
    return BATCH.slice(0, 1).to_pylist()[0]


def event_of_another_user():
    """A source event from before the first row, of somebody else."""
    row = first_row()
    return next(
        event["event_id"]
        for event in OBSERVED.source.to_pylist()
        if event["user_id"] != row["user_id"] and event["event_timestamp"] < row["event_timestamp"]
    )


def row_where(condition):
    return next((at, row) for at, row in enumerate(BATCH.to_pylist()) if condition(row))


def owned_pair():
    """A user of the batch with an item they have, at a time when the item had been seen."""
    users = BATCH["user_id"].to_pylist()
    for event in OBSERVED.target.to_pylist():
        if event["user_id"] in users:
            position = users.index(event["user_id"])
            moment = max(event["event_timestamp"], BATCH["event_timestamp"][position].as_py())
            return position, {"item_id": event["item_id"], "event_timestamp": moment}
    raise AssertionError


def later_item(position=0):
    """An item that the user does not get and that was first seen after the event."""
    moment = BATCH["event_timestamp"][position].as_py()
    user = BATCH["user_id"][position].as_py()
    taken = {e["item_id"] for e in OBSERVED.target.to_pylist() if e["user_id"] == user}
    rows = zip(BATCH["user_id"].to_pylist(), BATCH["item_id"].to_pylist(), strict=True)
    taken |= {item for owner, item in rows if owner == user}
    return next(
        (item for item, at in FIRST_SEEN.items() if at > moment and item not in taken), None
    )


def early_row():
    """A row before the first sighting of some item that its user neither has nor gets."""
    positions = range(BATCH.num_rows)
    return next((at, later_item(at)) for at in positions if later_item(at) is not None)


def breaches():
    row = first_row()
    event, _ = row_where(lambda row: row["label"] == 1)
    negative, _ = row_where(lambda row: row["label"] == 0)
    position, owned = owned_pair()
    early, unseen = early_row()
    # Its item had been seen when the source event came, so that only the lineage breaks.
    on_trigger, triggered = row_where(
        lambda row: FIRST_SEEN[row["item_id"]] <= TRIGGERED[row["source_event_id"]]
    )
    return {
        "foreign batch": ("one_batch", 0, {"batch_id": "batch-2"}),
        "no batch": ("one_batch", 0, {"batch_id": None}),
        "repeated event id": ("unique_event_id", 1, {"event_id": row["event_id"]}),
        "no event id": ("unique_event_id", 1, {"event_id": None}),
        "repeated pair": (
            "unique_pair",
            1,
            {name: row[name] for name in ("user_id", "item_id", "event_timestamp")}
            | {"source_event_id": row["source_event_id"]},
        ),
        "known after the cut": ("clocks", 0, {"available_at": AS_OF + MOMENT}),
        "known before its translator": ("clocks", 0, {"available_at": AS_OF - MOMENT}),
        "at the cut": ("clocks", 0, {"event_timestamp": AS_OF}),
        "translator from later": ("clocks", 0, {"train_cutoff": AS_OF + MOMENT}),
        "no translator cutoff": ("clocks", 0, {"train_cutoff": None}),
        "likelihood zero": ("likelihood", 0, {"likelihood": 0.0}),
        "likelihood above one": ("likelihood", 0, {"likelihood": 1.0 + 1e-9}),
        "likelihood not a number": ("likelihood", 0, {"likelihood": float("nan")}),
        "no likelihood": ("likelihood", 0, {"likelihood": None}),
        "propensity zero": ("propensity", 0, {"propensity": 0.0}),
        "propensity above one": ("propensity", 0, {"propensity": 1.0 + 1e-9}),
        "no propensity": ("propensity", 0, {"propensity": None}),
        "label between": ("label", event, {"label": 0.5}),
        "no label": ("label", event, {"label": None}),
        "event labelled as negative": ("label", event, {"label": 0.0}),
        "negative labelled as event": ("label", negative, {"label": 1.0}),
        "negative of the type of events": ("label", negative, {"event_type": "synthetic"}),
        "event of another type": ("label", event, {"event_type": "purchase"}),
        "other weight": ("weights", 0, {"sample_weight": row["sample_weight"] * (1 + 1e-8)}),
        "other factor": ("weights", 0, {"age_weight": row["age_weight"] * 0.5}),
        "no factor": ("weights", 0, {"density_weight": None}),
        "weight without a factor": ("weights", 0, {"density_weight": 0.0}),
        "observed pair": ("not_real", position, owned),
        "item seen later": ("in_catalogue", early, {"item_id": unseen}),
        "unknown item": ("in_catalogue", 0, {"item_id": "nowhere"}),
        "unknown source event": ("lineage", 0, {"source_event_id": "nowhere"}),
        "no source event": ("lineage", 0, {"source_event_id": None}),
        "source event of another": (
            "lineage",
            0,
            {"source_event_id": event_of_another_user()},
        ),
        "at the time of its source event": (
            "lineage",
            on_trigger,
            {"event_timestamp": TRIGGERED[triggered["source_event_id"]]},
        ),
    }


@pytest.mark.parametrize("breach", list(breaches()))
def test_each_breach_fails_its_rule_alone(breach):
    name, position, values = breaches()[breach]
    checks = check(changed(position, **values))
    assert failing(checks) == [name]
    assert checks[name].value == 1.0
    assert checks[name].detail.startswith("1 rows break the rule: ")
    assert first_failure(list(checks.values())) is checks[name]


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_without_bound_fails_its_rules_and_the_mass(weight):
    event, _ = row_where(lambda row: row["label"] == 1)
    checks = check(changed(event, sample_weight=weight))
    assert failing(checks) == ["likelihood", "weights", "synthetic_mass"]


def test_a_negative_weight_fails_both_rules_of_weights():
    assert failing(check(changed(0, sample_weight=-1e-9))) == ["likelihood", "weights"]


def with_columns(batch, **columns):
    for name, values in columns.items():
        at = SCHEMA.get_field_index(name)
        batch = batch.set_column(at, SCHEMA.field(at), pa.array(values))
    return batch


def test_a_batch_without_any_weight_keeps_to_the_rule_of_weights():
    nothing = np.zeros(BATCH.num_rows)
    none = with_columns(BATCH, history_weight=nothing, sample_weight=nothing)
    assert failing(check(none)) == []
    some = with_columns(BATCH, history_weight=nothing)
    assert check(some)["weights"].value == BATCH.num_rows


@pytest.mark.parametrize("rows", [1, 3, 17])
def test_details_count_the_rows_that_break_the_rule(rows):
    ids = pa.array(["batch-2"] * rows + ["batch-1"] * (BATCH.num_rows - rows))
    at = SCHEMA.get_field_index("batch_id")
    checks = check(BATCH.set_column(at, SCHEMA.field(at), ids))
    assert failing(checks) == ["one_batch"]
    assert checks["one_batch"].value == rows
    assert checks["one_batch"].detail.startswith(f"{rows} rows break the rule")


def test_the_item_may_be_first_seen_at_the_time_of_the_event():
    position, row = row_where(
        lambda row: TRIGGERED[row["source_event_id"]] < FIRST_SEEN[row["item_id"]] - MOMENT
    )
    first = FIRST_SEEN[row["item_id"]]
    assert failing(check(changed(position, event_timestamp=first))) == []
    assert failing(check(changed(position, event_timestamp=first - MOMENT))) == ["in_catalogue"]


def test_an_item_without_events_may_be_known_by_its_features():
    position, row = row_where(lambda _: True)
    batch = changed(position, item_id="never touched")
    assert failing(check(batch)) == ["in_catalogue"]

    def known_from(first):
        told = pa.table(
            {
                "item_id": ["never touched"],
                "first_known": pa.array([first], SCHEMA.field("event_timestamp").type),
            }
        )
        return replace(OBSERVED, first_known=told)

    happened = row["event_timestamp"]
    assert failing(check(batch, known_from(happened))) == []
    assert failing(check(batch, known_from(happened + MOMENT))) == ["in_catalogue"]


def test_drift_is_the_stability_index_against_the_prior():
    codes = DRAWING.translator.target_items.codes(EVENTS["item_id"])
    psi = population_stability(
        OBSERVED.prior, np.bincount(codes, minlength=len(OBSERVED.prior)).astype(float)
    )
    assert psi > 0
    answer = check(BATCH)["popularity_drift"]
    assert answer.value == pytest.approx(psi)
    assert f"{psi:.3f}" in answer.detail
    assert failing(check(BATCH, max_psi=psi * 1.001)) == []
    assert failing(check(BATCH, max_psi=psi * 0.999)) == ["popularity_drift"]


def test_a_batch_of_one_item_drifts():
    rarest = int(np.argmin(np.where(OBSERVED.prior > 0, OBSERVED.prior, 1.0)))
    at = SCHEMA.get_field_index("item_id")
    one = pa.repeat(OBSERVED.item_ids[rarest], BATCH.num_rows)
    checks = check(BATCH.set_column(at, SCHEMA.field(at), one))
    assert not checks["popularity_drift"].passed


def test_items_outside_the_catalogue_drift_without_bound():
    at = SCHEMA.get_field_index("item_id")
    unknown = pa.repeat(pa.scalar("nowhere"), BATCH.num_rows)
    checks = check(BATCH.set_column(at, SCHEMA.field(at), unknown))
    assert checks["popularity_drift"].value == float("inf")
    assert not checks["popularity_drift"].passed


def test_mass_is_the_sum_of_weights_per_real_event():
    share = sum(EVENTS["sample_weight"].to_pylist()) / OBSERVED.target.num_rows
    answer = check(BATCH)["synthetic_mass"]
    assert answer.value == pytest.approx(share)
    assert f"{share:.2f}" in answer.detail
    assert failing(check(BATCH, max_mass_frac=share * 1.001)) == []
    assert failing(check(BATCH, max_mass_frac=share * 0.999)) == ["synthetic_mass"]


def test_published_batches_count_towards_the_mass():
    share = check(BATCH)["synthetic_mass"].value
    published = 0.5 * OBSERVED.target.num_rows
    answer = check(BATCH, published_mass=published)["synthetic_mass"]
    assert answer.value == pytest.approx(share + 0.5)
    assert failing(check(BATCH, published_mass=published, max_mass_frac=share + 0.4)) == [
        "synthetic_mass"
    ]


def test_weights_lowered_to_just_the_bound_keep_to_it():
    bound = 0.5 * check(BATCH)["synthetic_mass"].value
    assert failing(check(BATCH, max_mass_frac=bound)) == ["synthetic_mass"]
    lowered = with_columns(BATCH, sample_weight=BATCH["sample_weight"].to_numpy() * 0.5)
    assert failing(check(lowered, max_mass_frac=bound * (1 - 1e-12))) == []


def test_negatives_count_neither_in_mass_nor_in_drift():
    whole, alone = check(BATCH), check(EVENTS)
    for name in ("synthetic_mass", "popularity_drift"):
        assert whole[name].value == pytest.approx(alone[name].value, rel=1e-12)
    assert whole["not_empty"].value == BATCH.num_rows > EVENTS.num_rows


def test_a_pair_that_is_event_and_negative_stands_twice():
    event, row = row_where(lambda row: row["label"] == 1)
    negative, _ = row_where(lambda row: row["label"] == 0)
    same = {
        name: row[name] for name in ("user_id", "item_id", "event_timestamp", "source_event_id")
    }
    assert event != negative
    assert failing(check(changed(negative, **same))) == ["unique_pair"]


def test_files_are_audited_like_the_rows_they_hold(tmp_path):
    paths = [tmp_path / "part-0.parquet", tmp_path / "part-1.parquet"]
    half = BATCH.num_rows // 2
    pq.write_table(BATCH.slice(0, half), paths[0])
    pq.write_table(BATCH.slice(half), paths[1])
    whole, read = check(BATCH), check(paths)
    assert [(a.name, a.passed, a.detail) for a in read.values()] == [
        (a.name, a.passed, a.detail) for a in whole.values()
    ]
    for name, answer in whole.items():
        assert read[name].value == pytest.approx(answer.value, rel=1e-12)


def test_the_discriminator_is_told_but_refuses_nothing():
    answers = check(BATCH, refinement=REPORT)
    assert list(answers) == [*NAMES, "discriminator"]
    told = answers["discriminator"]
    assert told.passed
    assert told.value is None
    assert "too few events" in told.detail
    area = Auc(estimate=0.9, low=0.88, high=0.92)
    shift = FeatureShift(name="weekday", psi=0.6, auc=0.55, importance=0.3)
    found = DiscriminatorReport(
        rows=(900, 900), before=area, after=None, weighted=None, features=(shift,)
    )
    told = check(BATCH, refinement=replace(REPORT, discriminator=found))["discriminator"]
    assert told.passed
    assert told.value == 0.9
    assert "told by weekday; shifted: weekday" in told.detail


def test_an_empty_observation_fails_what_rests_on_it():
    nothing = Observed(
        as_of=AS_OF,
        source=OBSERVED.source.slice(0, 0),
        target=OBSERVED.target.slice(0, 0),
        item_ids=OBSERVED.item_ids,
        prior=OBSERVED.prior,
    )
    checks = audit(BATCH, nothing, batch_id="batch-1", max_psi=9.0, max_mass_frac=1e9)
    assert [answer.name for answer in checks if not answer.passed] == ["in_catalogue", "lineage"]


def test_a_batch_id_with_quotes_is_text():
    hostile = "x' OR '1'='1"
    checks = audit(BATCH, OBSERVED, batch_id=hostile, max_psi=9.0, max_mass_frac=9.0)
    assert first_failure(checks).name == "one_batch"
    assert first_failure(checks).value == BATCH.num_rows


def test_a_placebo_batch_passes_too():
    placebo, _ = refined(DRAWING.by(as_prior(DRAWING.translator)))
    assert failing(check(placebo)) == []
