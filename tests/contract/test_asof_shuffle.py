"""The distributed join without a cluster: however rows are cut, split and spread, the same answer.

The tasks of the Ray engine are run here one by one, on blocks, buckets, slices and partitions that
are drawn, and held against the brute-force oracle.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from asof_drawn import ORIGIN, rules, times, times_or_null
from asof_oracle import FeatureRow, Rule, look_up
from hypothesis import given, settings
from hypothesis import strategies as st

from scalr_ray.core.clock import to_micros
from scalr_ray.core.duck import duck
from scalr_ray.core.events import TIMESTAMP
from scalr_ray.offline_store.kernel import AsOfJoin
from scalr_ray.offline_store.limits import Limits
from scalr_ray.offline_store.parcels import key_buckets, key_types
from scalr_ray.offline_store.shuffle import Shuffle, ShuffledView, Slices

# Type of the entity key, type of the feature key, values: equal keys must meet whatever their type.
KEYINGS: dict[str, tuple[tuple[pa.DataType, pa.DataType, st.SearchStrategy[Any]], ...]] = {
    "text": ((pa.string(), pa.large_string(), st.sampled_from(["1", "11", "", "é", None])),),
    "whole": ((pa.int64(), pa.int16(), st.sampled_from([1, 11, -1, None])),),
    "float": ((pa.float64(), pa.int64(), st.sampled_from([1, 11, -1, None])),),
    "pair": (
        (pa.string(), pa.string(), st.sampled_from(["1", "11", None])),
        (pa.int64(), pa.int32(), st.sampled_from([1, 11, None])),
    ),
    "none": (),
}


@dataclass(frozen=True)
class Case:
    keying: str
    histories: tuple[list[FeatureRow], ...]  # of one or two views, keyed alike
    entities: list[Any]
    buckets: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    keying = draw(st.sampled_from(sorted(KEYINGS)))
    keys = st.tuples(*(strategy for *_, strategy in KEYINGS[keying]))
    values = st.tuples(
        st.one_of(st.none(), st.integers(0, 2)), st.one_of(st.none(), st.sampled_from(["a", "b"]))
    )
    history = st.lists(
        st.builds(FeatureRow, keys, times_or_null, times_or_null, values), max_size=14
    )
    return Case(
        keying=keying,
        histories=tuple(draw(st.lists(history, min_size=1, max_size=2))),
        entities=draw(st.lists(st.tuples(keys, times_or_null), max_size=12)),
        buckets=draw(st.integers(1, 4)),
    )


def shuffle_of(case: Case, rule: Rule) -> Shuffle:
    keys = tuple(f"key_{place}" for place in range(len(KEYINGS[case.keying])))
    views = []
    for place in range(len(case.histories)):
        join = AsOfJoin(
            relation=f"history_{place}",
            keys=keys,
            event_time="ts",
            created="created",
            columns=("a number", "text"),
            ttl=rule.ttl,
            cut_off=rule.cut_off,
            strictly_before=rule.strictly_before,
        )
        shown = {name: f"{name} {place}" for name in join.columns}
        schema = feature_table(case.keying, []).schema
        view = ShuffledView(
            name=f"view {place}", join=join, entity_keys=keys, shown=shown, schema=schema
        )
        views.append(view)
    return Shuffle(
        views=tuple(views),
        key_types=key_types(views[0].schema, keys),
        entities=entity_table(case.keying, []).schema,
        buckets=case.buckets,
        limits=Limits(memory_limit="1GB", threads=1, spill_dir=None),
    )


def feature_table(keying: str, rows: list[FeatureRow]) -> pa.Table:
    keys = {
        f"key_{place}": pa.array([row.key[place] for row in rows], kind)
        for place, (_, kind, _) in enumerate(KEYINGS[keying])
    }
    return pa.table(
        {
            **keys,
            "ts": pa.array([row.event_time for row in rows], TIMESTAMP),
            "created": pa.array([row.created for row in rows], TIMESTAMP),
            "a number": pa.array([row.values[0] for row in rows], pa.int64()),
            "text": pa.array([row.values[1] for row in rows], pa.string()),
        }
    )


def entity_table(keying: str, entities: list[Any]) -> pa.Table:
    keys = {
        f"key_{place}": pa.array([key[place] for key, _ in entities], kind)
        for place, (kind, *_) in enumerate(KEYINGS[keying])
    }
    moments = pa.array([t for _, t in entities], TIMESTAMP)
    return pa.table(keys | {"event_timestamp": moments, "row": np.arange(len(entities))})


def blocks(table: pa.Table, size: int) -> list[pa.Table]:
    return [table.slice(start, size) for start in range(0, max(1, table.num_rows), size)]


@given(
    case=cases(),
    rule=rules,
    size=st.integers(1, 6),
    starts=st.lists(st.lists(times, max_size=3), min_size=4, max_size=4),
    seed=st.integers(0, 2**32 - 1),
    partitions=st.integers(1, 4),
)
@settings(max_examples=150)
def test_every_entity_row_gets_what_the_oracle_says(
    case, rule, size, starts, seed, partitions
) -> None:
    shuffle = shuffle_of(case, rule)
    parcels = [
        shuffle.cut_entities(b) for b in blocks(entity_table(case.keying, case.entities), size)
    ]
    for side, history in enumerate(case.histories, 1):
        rows = feature_table(case.keying, history)
        parcels += [shuffle.cut_features(side, block) for block in blocks(rows, size)]
    heavy = {
        bucket: Slices(
            first=100 + 10 * bucket,
            starts=np.unique(np.array([to_micros(time) for time in some], np.int64)),
        )
        for bucket, some in enumerate(starts[: case.buckets])
        if some
    }
    split = pa.concat_tables([shuffle.split(block, heavy) for block in parcels])
    lots = np.random.default_rng(seed).integers(0, partitions, 200)  # whole buckets, anywhere
    its_lot = lots[split["bucket"].to_numpy()]
    answers = pa.concat_tables(
        [shuffle.answer(split.filter(pa.array(its_lot == lot))) for lot in range(partitions)]
    ).sort_by("row")

    assert answers["row"].to_pylist() == list(range(len(case.entities)))
    for place, history in enumerate(case.histories):
        right = [look_up(history, key, t, rule) or (None, None) for key, t in case.entities]
        found = [answers[f"{name} {place}"].to_pylist() for name in ("a number", "text")]
        assert list(zip(*found, strict=True)) == right


def test_a_key_with_all_rows_is_split_evenly_and_carries_little() -> None:
    history = [
        FeatureRow((1,), ORIGIN + timedelta(hours=h), ORIGIN + timedelta(hours=h), (h, "a"))
        for h in range(1000)
    ]
    case = Case("whole", (history,), [], 1)
    shuffle = shuffle_of(case, Rule())
    cut = shuffle.cut_features(1, feature_table("whole", history))
    assert cut["bucket"].to_pylist() == [0]
    moments = pc.list_flatten(cut["moments"]).to_numpy()
    assert len(moments) == 16
    slices = Slices.even(moments, 4, 1)
    split = shuffle.split(cut, {0: slices})
    assert split["bucket"].to_pylist() == [1, 2, 3, 4]
    assert sum(split["rows"].to_pylist()) == 1000 + 3  # the best of what came before, once a slice
    assert max(split["rows"].to_pylist()) <= 300


def test_rows_whose_key_matches_nothing_are_spread() -> None:
    nothing = pa.chunked_array([pa.nulls(4000, pa.int64())])
    with duck(threads=1) as session:
        buckets = key_buckets(session, [nothing], ("BIGINT",), 4)
    assert np.bincount(buckets).tolist() == [1000] * 4


def test_tasks_of_a_cluster_do_not_wait_for_feast() -> None:
    rooms = ("distribute", "shuffle", "sources.files", "sources.iceberg", "sources.postgres")
    imports = "".join(f"import scalr_ray.offline_store.{room}\n" for room in rooms)
    code = f"import sys\n{imports}print('feast' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
