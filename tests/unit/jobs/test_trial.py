from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from small_worlds import day, domain_tables, event_table, matrix, quantile_day

from scalr_ray.core.config import ScalrConfig, WeightSettings
from scalr_ray.jobs.arms import (
    Holdout,
    best_likelihood,
    best_prior_weight,
    code_rows,
    real_rows,
    trainer_config,
)
from scalr_ray.jobs.drawing import decays
from scalr_ray.jobs.surroundings import Surroundings
from scalr_ray.jobs.trial import (
    Gain,
    Stage,
    Trial,
    _best_weights,
    _gains,
    _newcomers,
    run_trial,
    trainings,
)
from scalr_ray.learn import TrainingEvents, translator_as_of
from scalr_ray.simulate import World, WorldConfig
from scalr_ray.translator import PriorMix, Strength, Vocabulary
from training.models import IALS

CUT = day(10)


def segments(warm: list[bool]) -> Holdout:
    mask = np.array(warm)
    empty = matrix([[]] * len(warm), 1)
    return Holdout(
        users=np.arange(len(warm)),
        known=empty,
        relevant=empty,
        rankable=np.ones(1, dtype=bool),
        segments={"all": np.ones(len(warm), dtype=bool), "hidden": ~mask, "warm": mask},
    )


def population(*, newcomers: int, others: int, events_each: int) -> TrainingEvents:
    """Everybody has one source event; the others have target events, all before the cut."""
    names = [f"u{n:04d}" for n in range(newcomers + others)]
    source = [(name, "s", 0) for name in names]
    target = [(name, f"i{n}", 1) for name in names[newcomers:] for n in range(events_each)]
    return TrainingEvents.of(event_table(source, "source"), event_table(target, "target"))


@pytest.mark.parametrize(
    ("newcomers", "others", "events_each", "share"),
    [
        (0, 900, 2, 0.1),  # nobody to help: the least
        (300, 900, 2, 0.25),  # one newcomer per six events: h / (2 (1 - h)) = 1 / 6
        (300, 900, 5, 0.25),  # users with five events each count alike
        (600, 600, 1, 0.5),
        (900, 100, 1, 0.5),  # the most
    ],
)
def test_as_many_newcomers_per_real_event_as_there_will_be(newcomers, others, events_each, share):
    events = population(newcomers=newcomers, others=others, events_each=events_each)
    hidden = _newcomers(events, events.as_of(CUT), seed=0)
    assert not hidden[:newcomers].any()
    count = int(hidden.sum())
    assert stats.binomtest(count, others, share).pvalue > 1e-3
    assert hidden.tolist() == _newcomers(events, events.as_of(CUT), seed=0).tolist()
    assert hidden.tolist() != _newcomers(events, events.as_of(CUT), seed=1).tolist()


def test_only_history_before_the_trial_is_taken():
    late = [("u0", "s", 0), ("u1", "s", 0), ("u2", "s", 0)]
    target = [("u0", "a", 1), ("u1", "a", 15), ("u2", "a", 1, 15)]
    events = TrainingEvents.of(event_table(late, "source"), event_table(target, "target"))
    for seed in range(40):
        hidden = _newcomers(events, events.as_of(CUT), seed=seed)
        assert not hidden[1:].any()


def test_gains_are_paired_means_with_their_normal_interval():
    generator = np.random.default_rng(0)
    treated, control = generator.normal(size=(2, 30))
    test = segments([n % 3 == 0 for n in range(30)])
    found = _gains(treated, control, test)
    assert set(found) == {"all", "hidden", "warm"}
    for name, mask in test.segments.items():
        difference = (treated - control)[mask]
        error = stats.sem(difference)
        low, high = stats.norm.interval(0.95, loc=difference.mean(), scale=error)
        assert found[name].estimate == pytest.approx(difference.mean())
        assert (found[name].low, found[name].high) == pytest.approx((low, high), abs=1e-5)


def test_a_segment_of_one_user_has_no_interval_and_is_left_out():
    found = _gains(np.array([1.0, 2.0, 3.0]), np.zeros(3), segments([True, False, False]))
    assert set(found) == {"all", "hidden"}


def test_where_every_weight_costs_warm_users_only_what_is_sure_is_out():
    warm = np.arange(40) < 20
    noise = np.tile([-0.1, 0.1], 20)

    def gains(warm_gain, hidden_gain):
        return noise + np.where(warm, warm_gain, hidden_gain)

    little, much, more = (0.0, 0.03), (0.0, 0.1), (0.0, 0.3)
    tried = {little: gains(0.0, 0.1), much: gains(-0.01, 0.3), more: gains(-0.5, 9.0)}
    assert _best_weights(tried, warm) == little
    tried[little] = gains(-0.01, 0.1)
    assert _best_weights(tried, warm) == much
    tried[much] = gains(-0.5, 0.3)
    assert _best_weights(tried, warm) == little
    tried[little] = gains(-0.6, 0.1)
    assert _best_weights(tried, warm) == little


def trial(**changes) -> Trial:
    gains = {
        "all": Gain(estimate=0.1, low=0.05, high=0.15),
        "hidden": Gain(estimate=0.2, low=0.1, high=0.3),
    }
    return replace(
        Trial(
            weight_scale=0.03,
            decay_events=0.0,
            users={"all": 80, "hidden": 60, "warm": 20},
            over_real=gains,
            over_placebo=dict(gains),
        ),
        **changes,
    )


def test_a_trial_survives_json():
    before = trial()
    assert Trial.from_json(json.loads(json.dumps(before.to_json()))) == before


@pytest.mark.parametrize(("hidden", "focus"), [(49, "all"), (50, "hidden")])
def test_the_focus_is_on_newcomers_where_there_are_enough(hidden, focus):
    asked = trial(users={"all": 80, "hidden": hidden, "warm": 80 - hidden})
    assert asked.focus == focus
    who = {"hidden": "users without target history", "all": "all users"}[focus]
    estimate = {"hidden": "+0.200", "all": "+0.100"}[focus]
    assert asked.sentence.startswith(f"{who}: {estimate} nats per event [")


@pytest.mark.parametrize(
    ("warm", "said"),
    [
        (Gain(estimate=0.0, low=-0.1, high=0.1), ""),
        (Gain(estimate=-0.002, low=-0.1, high=0.1), "; warm users lose, though not surely: -0.002"),
        (Gain(estimate=-0.2, low=-0.3, high=-0.1), "; warm users lose: -0.200"),
    ],
)
def test_what_warm_users_lose_is_said(warm, said):
    asked = trial(over_real={**trial().over_real, "warm": warm})
    assert asked.cost_to_warm.startswith(said)
    assert bool(asked.cost_to_warm) is bool(said)
    assert asked.sentence.endswith(f"over a placebo{asked.cost_to_warm}")
    assert trial().cost_to_warm == ""


@pytest.fixture(scope="module")
def planted() -> tuple[TrainingEvents, datetime, datetime]:
    world = World.generate(
        WorldConfig(
            users=400,
            source_items=60,
            target_items=120,
            days=120,
            transfer=1.0,
            sharpness=6.0,
            overlap_frac=0.85,
            source_events_per_user=20,
            target_events_per_user=12,
        )
    )
    source, target = domain_tables(world)
    start, end = quantile_day(target, 0.65), quantile_day(target, 0.8)
    return TrainingEvents.of(source, target), start, end


CONFIG = ScalrConfig.model_validate(
    {"weights": {"scales": [0.01, 0.1]}, "generation": {"per_user": 20}}
)
STRENGTH = Strength(shrinkage=1.0, alpha=1.0)
MIX = PriorMix.recent(window_days=90, background=0.01)


def try_out(
    events: TrainingEvents, start: datetime, end: datetime, config: ScalrConfig = CONFIG
) -> tuple[Trial, list[int]]:
    steps: list[int] = []
    stage = Stage.of(events.as_of(end).compact(), validation_cut=start, cutoff=end, seed=0)
    translator = translator_as_of(stage.visible, start, strength=STRENGTH, mix=MIX)
    around = Surroundings.none(translator)
    found = run_trial(stage, translator, config, advance=steps.append, around=around)
    return found, steps


def test_the_prior_weighs_what_suits_a_model_of_real_events(planted):
    events, start, end = planted
    stage = Stage.of(events.as_of(end).compact(), validation_cut=start, cutoff=end, seed=0)
    found = best_prior_weight(stage.visible, stage.test, start, MIX)
    rows, reached = code_rows(real_rows(stage.visible), stage.visible), {}
    for weight in (0.02, 0.05, 0.1, 0.2, 0.4):
        model = IALS(trainer_config(start, MIX, prior_weight=weight))
        model.fit(rows, seed=0)
        reached[weight] = best_likelihood(model, stage.test).mean()
    assert found == max(reached, key=reached.__getitem__)
    assert max(reached.values()) > min(reached.values()) + 0.01


def test_a_trial_trains_what_it_announces_and_repeats_to_the_last_bit(planted):
    first, steps = try_out(*planted)
    again, _ = try_out(*planted)
    assert sum(steps) == trainings(CONFIG) == 4
    assert first == again
    assert first.weight_scale in CONFIG.weights.scales
    assert first.users["all"] == first.users["hidden"] + first.users["warm"]
    assert first.users["hidden"] > 0
    assert first.decay_events == 0.0


def test_where_every_weight_surely_harms_the_least_is_tried_and_said_to_harm(planted):
    # Placed on everybody, rows of a whole real event each crowd out what these users did.
    heavy = WeightSettings(scales=(3.0, 1.0), decay_events=1e9)
    found, _ = try_out(*planted, CONFIG.model_copy(update={"weights": heavy}))
    assert found.over_real["warm"].high < 0
    assert found.weight_scale == 1.0
    assert "warm users lose: " in found.sentence


def test_how_weight_falls_with_history_can_be_chosen_by_the_trial(planted):
    auto = CONFIG.model_copy(update={"weights": WeightSettings(scales=(0.1,), decay_events="auto")})
    found, steps = try_out(*planted, auto)
    assert sum(steps) == trainings(auto) == 5
    assert found.decay_events in decays(auto)


def test_the_mass_bounds_the_weight_that_is_tried(planted):
    free, _ = try_out(*planted, with_mass(None))
    loose, _ = try_out(*planted, with_mass(1000.0))
    tight, _ = try_out(*planted, with_mass(1e-4))
    assert loose == free
    assert abs(tight.over_real["all"].estimate) < abs(free.over_real["all"].estimate) / 5


def with_mass(mass_frac: float | None) -> ScalrConfig:
    return CONFIG.model_copy(update={"weights": WeightSettings(scales=(0.1,), mass_frac=mass_frac)})


def test_several_types_of_events_can_be_tried(planted):
    events, start, end = planted
    source = events.source_log
    types = Vocabulary(ids=pa.array(["buy", "view"]))
    kinds = np.arange(len(source)) % 2
    several = replace(events, event_types=types, source_log=replace(source, types=kinds))
    found, _ = try_out(several, start, end)
    # A table without weights of types takes them all alike.
    assert found == try_out(*planted)[0]
