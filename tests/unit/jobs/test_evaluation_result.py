from __future__ import annotations

from bisect import bisect_right

import numpy as np
import pyarrow as pa
import pytest
from small_drawings import small_drawing
from small_worlds import day, event_table, matrix

from scalr_ray.jobs.arms import Holdout
from scalr_ray.jobs.evaluation_result import (
    _CALIBRATION_EDGES,
    Subject,
    _of_recency,
    _ranked_counts,
    calibration_of,
    popularity_of,
)
from scalr_ray.learn import TrainingEvents
from scalr_ray.translator import (
    FrequencyTranslator,
    PriorMix,
    Strength,
    Vocabulary,
    count_users,
    log_likelihood,
)
from training.lift import ArmResult

ITEMS = ("a", "b", "c")


def subject(translator: FrequencyTranslator, events: TrainingEvents, test: Holdout) -> Subject:
    return Subject(
        batch=None,
        record=None,
        translator=translator,
        events=events,
        test=test,
        users=None if test is None else events.known(test.users, translator.train_cutoff),
    )


def everybody(users: int, known: np.ndarray, relevant: np.ndarray) -> Holdout:
    return Holdout(
        users=np.arange(users),
        known=known,
        relevant=relevant,
        rankable=np.ones(known.shape[1], dtype=bool),
        segments={"all": np.ones(users, dtype=bool)},
    )


def blind_translator(events: TrainingEvents, prior: list[float]) -> FrequencyTranslator:
    """One that knows the prior and nothing else."""
    return FrequencyTranslator(
        train_cutoff=day(10),
        source_items=events.source_items,
        target_items=Vocabulary(ids=pa.array(ITEMS)),
        counts=count_users(events.history(), events.own()),
        marginal=np.ones(3),
        mix=PriorMix.recent(window_days=30, background=0.01),
        prior=np.array(prior),
        first_seen=np.zeros(3, dtype=np.int64),
        delays=np.zeros(1, dtype=np.int64),
        strength=Strength(shrinkage=1.0, alpha=0.0),
    )


def watchers(count: int, own: str = "") -> TrainingEvents:
    """Users u0, u1, ... of whom u0 has the items `own`, and one more who has them all."""
    source = [(f"u{n}", "s", 0) for n in range(count)] + [("z", "s", 0)]
    target = [("z", item, 1) for item in ITEMS] + [("u0", item, 1) for item in own]
    return TrainingEvents.of(event_table(source, "source"), event_table(target, "target"))


def test_outcomes_in_the_proportions_that_were_predicted_lie_on_the_diagonal():
    # Of four users two take the item of 1/2 and one each those of 1/4; one of them takes two.
    events = watchers(4)
    relevant = matrix([[0], [0], [1], [2]], 3)
    test = everybody(4, known=matrix([[]] * 4, 3), relevant=relevant)
    found = calibration_of(subject(blind_translator(events, [0.5, 0.25, 0.25]), events, test))
    assert [row["count"] for row in found] == [8, 4]
    for row, expected in zip(found, [0.25, 0.5], strict=True):
        assert row["predicted"] == pytest.approx(expected, abs=1e-6)
        assert row["observed"] == expected


def test_a_user_with_two_events_counts_twice():
    events = watchers(2)
    test = everybody(2, known=matrix([[], []], 3), relevant=matrix([[0, 1], [0]], 3))
    found = calibration_of(subject(blind_translator(events, [0.5, 0.25, 0.25]), events, test))
    assert [row["count"] for row in found] == [6, 3]
    assert [row["observed"] for row in found] == [pytest.approx(1 / 6), pytest.approx(2 / 3)]


def test_an_owned_item_takes_no_probability():
    events = watchers(1, own="a")
    test = everybody(1, known=matrix([[0]], 3), relevant=matrix([[1]], 3))
    found = calibration_of(subject(blind_translator(events, [0.5, 0.25, 0.25]), events, test))
    (row,) = [row for row in found if row["predicted"] > 0.1]
    assert row["predicted"] == pytest.approx(0.5, abs=1e-6)
    assert (row["observed"], row["count"]) == (0.5, 2)


def test_calibration_is_what_counting_pair_by_pair_gives():
    drawing = small_drawing()
    events = drawing.events.as_of(drawing.settings.as_of)
    own = events.own()
    generator = np.random.default_rng(0)
    # More users than one chunk holds.
    users = np.concatenate([generator.permutation(own.shape[0]) for _ in range(5)])
    rows = [
        generator.choice(np.setdiff1d(np.arange(own.shape[1]), own[user].indices), 2)
        for user in users
    ]
    test = Holdout(
        users=users,
        known=own[users],
        relevant=matrix(rows, own.shape[1]),
        rankable=np.ones(own.shape[1], dtype=bool),
        segments={},
    )
    translator = drawing.translator
    likelihood = np.exp(log_likelihood(translator, events.known(users, translator.train_cutoff)))
    bins: dict[int, list[float]] = {}
    for at in range(len(users)):
        relevant = set(test.relevant[at].indices)
        for item in range(own.shape[1]):
            p = float(likelihood[at, item])
            sums = bins.setdefault(bisect_right(_CALIBRATION_EDGES, p), [0.0, 0.0, 0.0])
            sums[0] += len(relevant) * p
            sums[1] += item in relevant
            sums[2] += len(relevant)
    expected = [sums for _, sums in sorted(bins.items()) if sums[0] > 0]
    found = calibration_of(subject(translator, events, test))
    assert len(found) == len(expected) > 3
    for row, (mass, hits, pairs) in zip(found, expected, strict=True):
        assert row["count"] == pairs
        assert row["predicted"] == pytest.approx(mass / pairs, rel=1e-6)
        assert row["observed"] == pytest.approx(hits / pairs)


def arm(ndcg: float) -> ArmResult:
    return ArmResult(
        top=np.zeros((1, 2, 20), dtype=np.int64),
        ndcg=np.full((1, 2), ndcg),
        recall=np.zeros((1, 2)),
        catalogue_size=5,
    )


def test_a_shorter_window_that_ranks_better_is_a_caution():
    baselines = {"popularity_14d": arm(0.3), "popularity_all_time": arm(0.1)}
    (caution,) = _of_recency({"synthetic": arm(0.2)}, baselines)
    assert "(14d)" in caution
    assert "0.3000" in caution
    assert "0.2000" in caution


@pytest.mark.parametrize(
    ("best", "mended"),
    [
        ("popularity_14d", "train again with prior.window_days=14."),
        ("popularity_all_time", "train again with a longer prior.window_days."),
    ],
)
def test_the_caution_says_which_look_back_to_train_with(best, mended):
    (caution,) = _of_recency({"synthetic": arm(0.1)}, {best: arm(0.2)})
    assert caution.endswith(mended)


def test_popularity_that_ranks_no_better_is_none():
    baselines = {"popularity_14d": arm(0.2), "popularity_all_time": arm(0.1)}
    assert _of_recency({"synthetic": arm(0.2)}, baselines) == []


def test_popularity_is_counted_from_the_most_popular_down():
    assert _ranked_counts(np.array([2, 0, 2, 5, 2, 0])) == [3, 2, 1]
    assert _ranked_counts(np.array([], dtype=np.int64)) == []
    assert _ranked_counts(np.array([-1, -1, 4])) == [1]


def test_real_and_synthetic_popularity_are_kept_apart():
    events = watchers(2)
    rows = pa.table({"item_id": ["a", "b", "b"], "is_synthetic": [False, True, True]})
    found = popularity_of(subject(None, events, None), rows)
    assert found == {"real": [1, 1, 1], "synthetic": [2]}
