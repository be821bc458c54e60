from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from simulate_arrays import domain_events

from scalr_ray.core.clock import from_micros
from scalr_ray.core.events import TIMESTAMP
from scalr_ray.simulate import WORLD_START, World


def of_domain(world, domain):
    return world.events.filter(pc.equal(world.events["domain"], domain))


def test_equal_configurations_give_equal_events(small_world):
    assert World.generate(small_world.config).events.equals(small_world.events)


def test_another_seed_gives_other_events(small_world):
    other = World.generate(replace(small_world.config, seed=1))
    assert not other.events.equals(small_world.events)


def test_schema_is_the_promised_one_and_nothing_is_null(small_world):
    assert small_world.events.schema == pa.schema(
        {
            "user_id": pa.string(),
            "item_id": pa.string(),
            "domain": pa.string(),
            "event_timestamp": TIMESTAMP,
            "event_type": pa.string(),
            "value": pa.float64(),
            "available_at": TIMESTAMP,
        }
    )
    assert all(column.null_count == 0 for column in small_world.events.columns)


def test_ids_name_user_and_domain(small_world):
    events = small_world.events
    assert pc.all(pc.match_substring_regex(events["user_id"], r"^u\d{6}$")).as_py()
    prefix = pc.list_element(pc.split_pattern(events["item_id"], ":"), 0)
    assert pc.all(pc.equal(prefix, events["domain"])).as_py()
    assert set(events["domain"].to_pylist()) == {"books", "films", "music"}
    assert set(of_domain(small_world, "music")["item_id"].to_pylist()) <= set(
        small_world.target_item_ids
    )


def test_events_are_sorted_and_lie_within_the_world(small_world):
    micros = small_world.events["event_timestamp"].cast(pa.int64()).to_numpy()
    days = (from_micros(int(micros[-1])) - WORLD_START).days
    assert (np.diff(micros) >= 0).all()
    assert from_micros(int(micros[0])) >= WORLD_START
    assert days < small_world.config.days


def test_nothing_is_available_before_it_happened_and_a_few_are_days_late(default_world):
    events = default_world.events
    delay = pc.subtract(
        events["available_at"].cast(pa.int64()), events["event_timestamp"].cast(pa.int64())
    ).to_numpy()
    hours = delay / 3.6e9
    assert delay.min() >= 0
    assert np.median(hours) < 0.25
    assert 0.005 < (hours > 6).mean() < 0.03


def test_a_user_has_each_item_once(default_world):
    pairs = default_world.events.group_by(["user_id", "item_id"]).aggregate([])
    assert pairs.num_rows == default_world.events.num_rows


def test_the_value_is_a_property_of_the_item(small_world):
    prices = small_world.events.group_by("item_id").aggregate([("value", "count_distinct")])
    assert pc.max(prices["value_count_distinct"]).as_py() == 1
    assert pc.min(small_world.events["value"]).as_py() > 0


def test_most_events_share_a_session_of_an_hour_with_another(default_world):
    events = domain_events(default_world, "source")
    order = np.lexsort((events.day, events.user))
    user, hour = events.user[order], events.day[order] * 24
    near = (np.diff(user) == 0) & (np.diff(hour) < 1)
    has_neighbour = np.append(near, False) | np.insert(near, 0, False)
    assert 0.6 < has_neighbour.mean() < 0.95


def test_the_transfer_dial_leaves_source_events_and_target_times_alone(small_world):
    null = World.generate(replace(small_world.config, transfer=0.0))
    for domain in small_world.config.source_domains:
        assert of_domain(null, domain).equals(of_domain(small_world, domain))
    unchanged = ["user_id", "event_timestamp", "available_at"]
    before, after = of_domain(small_world, "music"), of_domain(null, "music")
    assert after.select(unchanged).equals(before.select(unchanged))
    assert not after["item_id"].equals(before["item_id"])


@pytest.mark.parametrize("kept", ["films", "music"])
def test_a_domain_does_not_depend_on_which_others_there_are(small_world, kept):
    fewer = World.generate(replace(small_world.config, source_domains=("films",)))
    assert of_domain(fewer, kept).equals(of_domain(small_world, kept))


def test_a_world_without_target_users_has_source_events_only(small_world):
    lonely = World.generate(
        replace(small_world.config, overlap_frac=0.0, target_only_frac=0.0, users=50)
    )
    assert set(lonely.events["domain"].to_pylist()) == {"books", "films"}
