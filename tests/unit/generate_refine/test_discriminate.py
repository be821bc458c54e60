"""Planted worlds: where nothing differs nothing is found, and what differs is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from refine_rows import CUT, DAY, SCHEMA, drawn_rows, observed_target, settings

from scalr_ray.core.clock import to_micros
from scalr_ray.generate.refining.refine import Served, fit_refinement, refine

ITEMS = 60
PRIOR = 1 / np.arange(1, ITEMS + 1)
PRIOR = PRIOR / PRIOR.sum()
ROWS = 6000


def events(seed, *, shape=PRIOR, days=None, rows=ROWS, of_first=0):
    """Users, items and days of events on items drawn in proportion to `shape`."""
    rng = np.random.default_rng(seed)
    users = of_first + rng.integers(0, rows // 2, rows)
    items = rng.choice(ITEMS, size=rows, p=shape / shape.sum())
    return users, items, rng.uniform(0.1, 60, rows) if days is None else days(rng, rows)


def world(*, prior=PRIOR, **synthetic):
    """A real side of the prior, and drawn rows that differ from it as told."""
    real = events(0, shape=prior)
    observed = observed_target(
        prior,
        list(zip(*(column.tolist() for column in real), strict=True)),
        first_seen=np.full(ITEMS, CUT - 90 * DAY),
    )
    users, items, days = events(1, of_first=1_000_000, **synthetic)
    return drawn_rows(users, items, of=ITEMS, days=days), observed


def refined(drawn, observed, **changes):
    refinement, report = fit_refinement(drawn, observed, settings(**changes))
    return refine(drawn, refinement, SCHEMA), report


def named(report):
    return {feature.name: feature for feature in report.discriminator.features}


def test_where_nothing_differs_nothing_is_found_and_weights_stay_near_one():
    drawn, observed = world()
    out, report = refined(drawn, observed, density_clip=10.0)
    found = report.discriminator
    assert 0.47 < found.before.estimate < 0.53
    assert found.before.low < 0.51
    assert found.before.high > 0.49
    assert found.given_away_by == ()
    # Users without target history differ by design; the discriminator does not look at it.
    assert set(found.shifted) <= {"target_events"}
    density = out["density_weight"].to_numpy()
    assert density.mean() == pytest.approx(1.0)
    assert density.std() < 0.25


def weekends(rng, rows):
    """Days before the cut, a Sunday, that fall on weekends twice as often as by chance."""
    days = rng.uniform(0.1, 60, rows)
    return np.where(
        rng.random(rows) < 0.5, np.floor(days / 7) * 7 + rng.uniform(0.1, 1, rows), days
    )


def old(rng, rows):
    return rng.uniform(30, 60, rows)


SHIFTS = {
    "log_prior": {"shape": PRIOR**0.2},
    "days_before_cut": {"days": old},
    "weekday": {"days": weekends},
}


@pytest.mark.parametrize("name", list(SHIFTS))
def test_what_differs_is_found_and_named(name):
    drawn, observed = world(**SHIFTS[name])
    found = refined(drawn, observed)[1].discriminator
    assert found.before.low > 0.6
    assert name in found.shifted
    assert name in found.given_away_by or name == "days_before_cut"
    assert name in found.sentence
    others = set(found.shifted) - {name, "target_events"}
    # With equal first sightings, the age of an item is the time before the cut turned round.
    assert others <= ({"item_age_days"} if name == "days_before_cut" else set())


def test_alignment_lowers_the_area_and_weights_lower_it_further():
    drawn, observed = world(shape=PRIOR**0.2)
    out, report = refined(drawn, observed, by="popularity", density_clip=10.0)
    found = report.discriminator
    assert found.after.high < found.before.low
    assert found.weighted.estimate < found.after.estimate
    assert abs(found.weighted.estimate - 0.5) < 0.03
    assert found.final == found.weighted
    kept = out.filter(out["reason"].is_null())
    assert kept["density_weight"].to_numpy().mean() == pytest.approx(1.0)


def test_density_weights_follow_the_true_ratio_within_the_clip():
    shape = PRIOR**0.2 / (PRIOR**0.2).sum()
    drawn, observed = world(shape=shape)
    out, _ = refined(drawn, observed, density_clip=3.0)
    density = out["density_weight"].to_numpy()
    true = np.clip(PRIOR / shape, 1 / 3, 3)[drawn["item_code"].to_numpy()]
    assert np.corrcoef(np.log(density), np.log(true))[0, 1] > 0.9
    # Within the clip before they are scaled to mean 1, by the same number for all.
    assert density.max() / density.min() <= 9 * (1 + 1e-9)


def test_real_events_count_as_the_prior_counts_their_items():
    """Old favourites fill the log, but neither the prior nor the batch."""
    rng = np.random.default_rng(5)
    log = rng.choice(ITEMS, size=ROWS, p=PRIOR[::-1])
    observed = observed_target(
        PRIOR,
        [
            (user, item, day)
            for user, (item, day) in enumerate(zip(log, rng.uniform(0.1, 60, ROWS), strict=True))
        ],
    )
    users, items, days = events(1, of_first=1_000_000)
    found = refined(drawn_rows(users, items, of=ITEMS, days=days), observed)[1].discriminator
    assert found.before.estimate < 0.55


def test_the_first_event_of_an_item_is_not_held_against_the_batch():
    """Each item sells once before anybody could have proposed it, and as the prior says after."""
    drawn, observed = world()
    firsts = observed_target(PRIOR, [(5_000_000 + at, at % ITEMS, 90) for at in range(ROWS)])
    both = pa.concat_tables([observed.events, firsts.events])
    with_firsts = replace(observed, events=both)
    alone = refined(drawn, observed)[1].discriminator
    found = refined(drawn, with_firsts)[1].discriminator
    assert found.rows == alone.rows
    assert found.before.estimate == pytest.approx(alone.before.estimate, abs=0.02)
    assert "item_age_days" not in found.shifted


def test_a_feature_of_the_items_and_source_counts_take_part():
    drawn, observed = world()
    prices = np.where(np.arange(ITEMS) % 2, 1.0, 5.0)
    dear = drawn.filter(pa.array(drawn["item_code"].to_numpy() % 2 == 0))
    counts = pa.table(
        {
            "user_id": dear["user_id"].unique(),
            "events": pa.array([7] * len(dear["user_id"].unique())),
        }
    )
    observed = observed_target(
        PRIOR,
        list(
            zip(
                [int(user[1:]) for user in observed.events["user_id"].to_pylist()],
                observed_codes(observed),
                [3.0] * observed.events.num_rows,
                strict=True,
            )
        ),
        item_values=pa.array(prices),
        source_counts=counts,
    )
    found = named(refined(dear, observed, by="price")[1])
    assert list(found)[4:] == ["price", "target_events", "source_events"]
    assert found["price"].shifted
    assert found["source_events"].auc == 1.0
    assert found["source_events"].importance is None


def test_served_features_are_asked_as_of_each_row_and_told_where_they_shift():
    drawn, observed = world()
    asked = {}

    def of_users(ids, times):
        asked["user_id"] = ids.to_pylist(), times
        new = np.array([int(user[1:]) >= 1_000_000 for user in ids.to_pylist()])
        return pa.table(
            {
                "visits": pa.array(np.where(new, 1, 9)),  # fewer for those who are drawn for
                "target_events": pa.array([None if one else 3 for one in new], pa.int64()),
                "joined": pa.array(times).cast(pa.timestamp("us", tz="UTC")),
                "recent": pa.array([["a"]] * len(ids)),
                "unknown": pa.nulls(len(ids)),
            }
        )

    def of_items(ids, times):
        asked["item_id"] = ids.to_pylist(), times
        return pa.table({"colour": pa.array(["red", "green", None] * len(ids)).slice(0, len(ids))})

    services = (
        Served(service="shop_users", key="user_id", ask=of_users),
        Served(service="shop_items", key="item_id", ask=of_items),
    )
    plain = refined(drawn, observed, density_clip=10.0)
    out, report = refined(drawn, replace(observed, served=services), density_clip=10.0)
    found = named(report)
    served = ["visits", "shop_users:target_events", "joined", "colour"]
    assert list(found)[-4:] == served
    shifted = {name for name in served if found[name].shifted}
    assert shifted == {"visits", "shop_users:target_events"}
    assert found["visits"].auc == 1.0
    assert {found[name].importance for name in served} == {None}
    # What the discriminator does not see changes no weight.
    assert out.equals(plain[0])
    rows = [*observed.events.to_pylist(), *drawn.to_pylist()]
    there = {(row["user_id"], row["item_id"], to_micros(row["event_timestamp"])) for row in rows}
    (users, times), (items, _) = asked["user_id"], asked["item_id"]
    assert set(zip(users, items, times.tolist(), strict=True)) <= there


def observed_codes(observed):
    return [int(item[1:]) for item in observed.events["item_id"].to_pylist()]


def test_too_few_rows_leave_weights_at_one_and_the_report_says_so():
    drawn, observed = world(rows=300)
    out, report = refined(drawn, observed, density_clip=5.0)
    assert report.discriminator is None
    assert "too few events" in report.sentences[0]
    assert set(out["density_weight"].to_pylist()) == {1.0}


def test_where_too_few_stay_only_what_was_drawn_is_judged():
    drawn, observed = world()
    out, report = refined(drawn, observed, density_clip=5.0, per_item=1)
    assert (report.discriminator.after, report.discriminator.weighted) == (None, None)
    assert report.discriminator.final == report.discriminator.before
    assert set(out["density_weight"].to_pylist()) == {1.0}
