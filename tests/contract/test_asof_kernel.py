"""The as-of kernel against the brute-force oracle, on generated histories full of ties."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from asof_drawn import ORIGIN, rules, times_or_null
from asof_oracle import FeatureRow, Rule, look_up
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scalr_ray.core.duck import duck
from scalr_ray.core.errors import UsageError
from scalr_ray.core.events import TIMESTAMP
from scalr_ray.offline_store.kernel import AsOfJoin, as_of_join

KEY_KINDS: dict[str, tuple[tuple[pa.DataType, st.SearchStrategy[Any]], ...]] = {
    "string": ((pa.string(), st.sampled_from(["1", "11", "", "é", None])),),
    "int": ((pa.int64(), st.sampled_from([1, 11, -1, 2**62, None])),),
    "composite": (
        (pa.string(), st.sampled_from(["1", "11", None])),
        (pa.string(), st.sampled_from(["11", "1", None])),
    ),
    "mixed": ((pa.int64(), st.sampled_from([1, 2])), (pa.string(), st.sampled_from(["a", "b"]))),
    "none": (),
}

# Few distinct instants, microseconds and a day apart, so that ties and boundaries are the rule.


@st.composite
def histories(draw: st.DrawFn) -> tuple[str, list[FeatureRow], list[Any]]:
    kind = draw(st.sampled_from(sorted(KEY_KINDS)))
    keys = st.tuples(*(strategy for _, strategy in KEY_KINDS[kind]))
    values = st.tuples(
        st.one_of(st.none(), st.integers(0, 2)), st.one_of(st.none(), st.sampled_from(["a", "b"]))
    )
    rows = draw(
        st.lists(st.builds(FeatureRow, keys, times_or_null, times_or_null, values), max_size=14)
    )
    entities = draw(st.lists(st.tuples(keys, times_or_null), max_size=10))
    return kind, rows, entities


@pytest.fixture(scope="module")
def session():
    with duck(memory_limit="1GB", threads=2) as connection:
        yield connection


def feature_table(kind: str, rows: list[FeatureRow]) -> pa.Table:
    keys = {
        f"key_{place}": pa.array([row.key[place] for row in rows], type_)
        for place, (type_, _) in enumerate(KEY_KINDS[kind])
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


def run_kernel(
    session: duckdb.DuckDBPyConnection,
    kind: str,
    rows: list[FeatureRow],
    entities: list[Any],
    rule: Rule,
    columns: tuple[str, ...] = ("a number", "text"),
) -> pa.Table:
    session.register("history", feature_table(kind, rows))
    join = AsOfJoin(
        relation="history",
        keys=tuple(f"key_{place}" for place in range(len(KEY_KINDS[kind]))),
        event_time="ts",
        created="created",
        columns=columns,
        ttl=rule.ttl,
        cut_off=rule.cut_off,
        strictly_before=rule.strictly_before,
    )
    keys = [
        pa.chunked_array([pa.array([key[place] for key, _ in entities], type_)])
        for place, (type_, _) in enumerate(KEY_KINDS[kind])
    ]
    moments = pa.chunked_array([pa.array([t for _, t in entities], TIMESTAMP)])
    return as_of_join(session, join, keys=keys, times=moments)


@given(history=histories(), rule=rules)
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_entity_row_gets_what_the_oracle_says(session, history, rule) -> None:
    kind, rows, entities = history
    found = run_kernel(session, kind, rows, entities, rule)
    expected = [look_up(rows, key, t, rule) or (None, None) for key, t in entities]
    assert list(zip(*found.to_pydict().values(), strict=True)) == expected


@given(history=histories(), rule=rules, data=st.data())
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_order_of_the_history_and_of_the_columns_is_irrelevant(
    session, history, rule, data
) -> None:
    kind, rows, entities = history
    shuffled = data.draw(st.permutations(rows))
    straight = run_kernel(session, kind, rows, entities, rule)
    turned = run_kernel(session, kind, shuffled, entities, rule, columns=("text", "a number"))
    assert turned.select(straight.column_names) == straight


def test_many_entity_rows_keep_their_order_and_number(session) -> None:
    rows = [
        FeatureRow(
            ("1",), ORIGIN + timedelta(hours=hour), ORIGIN + timedelta(hours=2 * hour), (h, "")
        )
        for hour in range(500)
        for h in (hour,)
    ]
    entities = [(("1",), ORIGIN + timedelta(hours=(7919 * n) % 1000)) for n in range(20_000)]
    found = run_kernel(session, "string", rows, entities, Rule(cut_off=True))
    newest = [min((t - ORIGIN) // timedelta(hours=2), 499) for _, t in entities]
    assert found["a number"].to_pylist() == newest


def test_cut_off_without_a_created_column_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be cut off"):
        AsOfJoin(relation="history", keys=("k",), event_time="ts", columns=("f",), cut_off=True)
