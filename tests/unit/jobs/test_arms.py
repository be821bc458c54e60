from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import sparse
from scipy.special import logsumexp
from small_worlds import day, event_table, matrix

from scalr_ray.core.errors import DataError
from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.jobs.arms import (
    Holdout,
    best_likelihood,
    chunks,
    code_rows,
    holdout,
    outcome_codes,
    real_rows,
    synthetic_rows,
    trainer_config,
)
from scalr_ray.learn import TrainingEvents
from scalr_ray.learn.prior import prior_as_of
from scalr_ray.translator.prior_mix import PriorMix
from training.models import Interactions
from training.models.popularity import log_popularity

CUT = day(10)

users = st.sampled_from(["u0", "u1", "u2", "u3"])
items = st.sampled_from(["a", "b", "c", "d"])
days = st.integers(0, 19)
logged = st.lists(st.tuples(users, items, days, days), min_size=1, max_size=14)


def known_after(rows: list) -> list:
    return [(user, item, happened, max(happened, known)) for user, item, happened, known in rows]


def visible(rows: list, cut: datetime) -> set[tuple[str, str]]:
    return {
        (user, item)
        for user, item, happened, known in rows
        if day(happened) < cut and day(known) <= cut
    }


@given(source=logged.map(known_after), target=logged.map(known_after), compacted=st.booleans())
def test_holdout_is_what_a_reader_of_the_rows_would_choose(source, target, compacted):
    assume({row[0] for row in source} & {row[0] for row in target})
    coded = TrainingEvents.of(event_table(source, "source"), event_table(target, "target"))
    events = coded.as_of(CUT)
    if compacted:
        events = events.compact()
    later = [(user, item) for user, item, happened, _ in target if day(happened) >= CUT]
    outcomes = pa.table(
        {
            "user_id": [*(user for user, _ in later), "nobody"],
            "item_id": [*(item for _, item in later), "nothing"],
        }
    )
    own, has_source = visible(target, CUT), {user for user, _ in visible(source, CUT)}
    seen = {item for _, item in own}
    expected = {}
    for user in sorted(has_source):
        new = {item for who, item in later if who == user and (user, item) not in own}
        if new & seen:
            expected[user] = new & seen
    codes = outcome_codes(outcomes, events.users, events.target_items)
    if not expected:
        with pytest.raises(DataError, match="nobody has source events before the cut"):
            holdout(events, *codes)
        return
    test = holdout(events, *codes)
    user_ids, item_ids = events.users.ids.to_pylist(), events.target_items.ids.to_pylist()
    found = [user_ids[code] for code in test.users]
    assert found == sorted(expected)
    for at, user in enumerate(found):
        assert {item_ids[i] for i in test.relevant[at].indices} == expected[user]
        assert {item_ids[i] for i in test.known[at].indices} == {i for u, i in own if u == user}
        assert test.segments["hidden"][at] == (user not in {u for u, _ in own})
    assert (test.segments["warm"] == ~test.segments["hidden"]).all()
    assert test.segments["all"].all()
    assert {item_ids[i] for i in np.flatnonzero(test.rankable)} == seen
    assert set(test.relevant.data) == {1.0}
    assert test.sizes == {name: int(mask.sum()) for name, mask in test.segments.items()}


def small_events() -> TrainingEvents:
    source = event_table([("u0", "s", 0), ("u1", "s", 1), ("u2", "s", 2)], "source")
    target = event_table([("u0", "b", 3), ("u0", "a", 4), ("u1", "a", 5)], "target")
    return TrainingEvents.of(source, target)


def test_real_rows_are_the_first_events_at_weight_one():
    rows = real_rows(small_events())
    assert rows.select(["user_id", "item_id", "event_timestamp"]).to_pylist() == [
        {"user_id": "u0", "item_id": "b", "event_timestamp": day(3)},
        {"user_id": "u0", "item_id": "a", "event_timestamp": day(4)},
        {"user_id": "u1", "item_id": "a", "event_timestamp": day(5)},
    ]
    assert rows["sample_weight"].to_pylist() == [1.0] * 3
    assert rows["is_synthetic"].to_pylist() == [False] * 3


def drawn(rows: list[tuple[str, str, float, float]]) -> pa.Table:
    schema = synthetic_event_schema("string", "string")
    names = ("user_id", "item_id", "event_timestamp", "sample_weight")
    return pa.Table.from_pylist(
        [
            dict(zip(names, (user, item, day(happened), weight), strict=True))
            for user, item, happened, weight in rows
        ],
        schema=pa.schema([(field.name, field.type) for field in schema]),
    )


def test_rows_are_coded_under_the_vocabulary_of_the_events():
    events = small_events()
    synthetic = synthetic_rows(drawn([("u2", "b", 6, 0.25), ("u2", "b", 7, 0.5)]))
    coded = code_rows(pa.concat_tables([real_rows(events), synthetic]), events)
    assert coded.shape == (3, 2)
    assert coded.matrix().toarray().tolist() == [[1.0, 1.0], [1.0, 0.0], [0.0, 0.75]]
    assert coded.is_synthetic.tolist() == [False, False, False, True, True]


def test_a_row_outside_the_vocabulary_is_refused():
    events = small_events()
    stranger = synthetic_rows(drawn([("u9", "b", 6, 0.25)]))
    with pytest.raises(DataError, match="u9"):
        code_rows(stranger, events)


def test_outcome_codes_are_minus_one_where_unknown():
    events = small_events()
    table = pa.table({"user_id": ["u1", "u9", "u0"], "item_id": ["b", "a", "z"]})
    found_users, found_items = outcome_codes(table, events.users, events.target_items)
    assert found_users.tolist() == [1, -1, 0]
    assert found_items.tolist() == [1, 0, -1]


@given(
    target=st.lists(st.tuples(users, items, days), min_size=1, max_size=14),
    mix=st.sampled_from(
        [
            PriorMix.recent(window_days=3, background=0.5),
            PriorMix(windows_days=(2, 6, None), weights=(0.5, 0.2, 0.3)),
            PriorMix(windows_days=(None,), weights=(1.0,)),
        ]
    ),
)
def test_the_trainer_has_the_prior_of_the_translator(target, mix):
    source = [(f"u{n}", "s", 0) for n in range(4)]
    coded = TrainingEvents.of(event_table(source, "source"), event_table(target, "target"))
    events = coded.as_of(CUT)
    assume(len(events.target))
    data = code_rows(real_rows(events), events)
    popularity = np.exp(log_popularity(data, trainer_config(CUT, mix).prior))
    prior = prior_as_of(events, CUT, kind="frequency", mix=mix)
    seen = prior > 0
    np.testing.assert_allclose(popularity[seen] / popularity[seen].sum(), prior[seen])
    assert (popularity[~seen] > 0).all()


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513, 1300])
def test_chunks_cover_everybody_once(count):
    covered = [user for part in chunks(count) for user in range(part.start, part.stop)]
    assert covered == list(range(count))


class TableRanker:
    """Scores that were written down."""

    def __init__(self, scores: np.ndarray) -> None:
        self._scores = scores.astype(np.float32)
        self._scores.flags.writeable = False

    def fit(self, interactions: Interactions, *, seed: int) -> None:
        """Nothing is learnt."""

    def scores(self, user_codes: np.ndarray) -> np.ndarray:
        return self._scores[user_codes]


def random_holdout(generator: np.random.Generator, users: int, items: int) -> Holdout:
    rankable = np.ones(items, dtype=bool)
    rankable[-2:] = False
    known, relevant = [], []
    for _ in range(users):
        order = generator.permutation(items - 2)
        relevant.append(order[: generator.integers(1, 4)])
        known.append(order[4 : 4 + generator.integers(0, 3)])
    return Holdout(
        users=generator.permutation(users).astype(np.int64),
        known=matrix(known, items),
        relevant=matrix(relevant, items),
        rankable=rankable,
        segments={"all": np.ones(users, dtype=bool)},
    )


def direct_likelihood(scores: np.ndarray, test: Holdout, temperature: float) -> np.ndarray:
    values = []
    for at, user in enumerate(test.users):
        possible = test.rankable.copy()
        possible[test.known[at].indices] = False
        row = scores[user] / temperature
        norm = logsumexp(row[possible])
        values.append(np.mean([row[item] - norm for item in test.relevant[at].indices]))
    return np.array(values)


def informative(seed: int) -> tuple[np.ndarray, Holdout]:
    """Scores that know the outcomes a little: the best temperature lies well inside its bounds."""
    generator = np.random.default_rng(seed)
    test = random_holdout(generator, users=60, items=12)
    scores = generator.normal(0, 0.2, (60, 12))
    scores[test.users] += 0.2 * test.relevant.toarray()
    return scores, test


@pytest.mark.parametrize("seed", range(5))
def test_best_likelihood_is_that_of_the_best_single_temperature(seed):
    scores, test = informative(seed)
    found = best_likelihood(TableRanker(scores), test)
    tried = [direct_likelihood(scores, test, t) for t in np.geomspace(0.05, 1.0, 120)]
    best = max(tried, key=lambda values: values.mean())
    assert found.mean() == pytest.approx(best.mean(), abs=1e-4)
    assert found == pytest.approx(best, abs=0.02)


@pytest.mark.parametrize("scale", [0.2, 0.5, 2.0, 5.0])
def test_an_arm_gains_nothing_by_the_scale_of_its_scores(scale):
    scores, test = informative(0)
    plain = best_likelihood(TableRanker(scores), test)
    scaled = best_likelihood(TableRanker(scale * scores), test)
    assert scaled.mean() == pytest.approx(plain.mean(), abs=1e-4)
    assert scaled == pytest.approx(plain, abs=0.03)


def test_an_arm_gains_nothing_by_a_constant_per_user():
    scores, test = informative(1)
    shift = np.random.default_rng(2).normal(0, 3, (60, 1))
    plain = best_likelihood(TableRanker(scores), test)
    assert best_likelihood(TableRanker(scores + shift), test) == pytest.approx(plain, abs=1e-3)


def test_scores_of_owned_and_unrankable_items_do_not_matter():
    scores, test = informative(3)
    plain = best_likelihood(TableRanker(scores), test)
    noisy = scores.copy()
    noisy[:, ~test.rankable] = 50.0
    rows, cols = test.known.nonzero()
    noisy[test.users[rows], cols] = 50.0
    assert best_likelihood(TableRanker(noisy), test).tolist() == plain.tolist()


def test_better_scores_have_more_likelihood_and_blind_ones_that_of_a_guess():
    scores, test = informative(4)
    blind = best_likelihood(TableRanker(np.zeros_like(scores)), test)
    possible = test.rankable.sum() - np.diff(test.known.indptr)
    assert blind == pytest.approx(-np.log(possible), abs=1e-5)
    assert best_likelihood(TableRanker(scores), test).mean() > blind.mean() + 0.05


def test_users_beyond_one_chunk_are_scored_alike():
    generator = np.random.default_rng(5)
    base, scores = random_holdout(generator, users=60, items=12), generator.normal(size=(60, 12))
    repeats = 10
    test = Holdout(
        users=np.tile(base.users, repeats),
        known=sparse.vstack([base.known] * repeats).tocsr(),
        relevant=sparse.vstack([base.relevant] * repeats).tocsr(),
        rankable=base.rankable,
        segments={"all": np.ones(60 * repeats, dtype=bool)},
    )
    assert len(chunks(len(test.users))) > 1
    plain = best_likelihood(TableRanker(scores), base)
    repeated = best_likelihood(TableRanker(scores), test)
    assert repeated == pytest.approx(np.tile(plain, repeats), abs=1e-6)
