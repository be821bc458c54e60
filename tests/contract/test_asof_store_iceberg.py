"""The offline store on an Iceberg table: how little of it is read, and that the answer holds."""

from __future__ import annotations

import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from asof_oracle import FeatureRow, Rule, look_up
from hypothesis import given, settings
from hypothesis import strategies as st
from iceberg_tables import (
    HOUR,
    SALES,
    T0,
    append,
    ask,
    catalog,
    create,
    open_store,
    rows,
    sales,
    source,
    view,
)
from pyiceberg.exceptions import NoSuchTableError

from scalr_ray.core.duck import duck
from scalr_ray.core.events import TIMESTAMP

pytestmark = pytest.mark.feast


@pytest.fixture
def first(tmp_path) -> int:
    """A table with two shops; returns the snapshot after its first commit."""
    create(tmp_path)
    return append(tmp_path, rows(("a", 1, 1, T0, T0), ("b", 1, 2, T0, T0)))


@pytest.mark.usefixtures("first")
def test_pieces_can_be_sent_to_another_machine(tmp_path) -> None:
    append(tmp_path, rows(("c", 1, 3, T0, T0)))
    found = read_sales(tmp_path)
    batches = [
        batch
        for piece in found.pieces()
        for batch in pickle.loads(pickle.dumps(piece)).read()  # noqa: S301 - written by the line
    ]
    assert pa.Table.from_batches(batches, found.schema)["amount"].to_pylist() == [3, 1, 2]


def read_sales(repo: Path, *keys: Any) -> Any:
    from scalr_ray.offline_store.sources.find import find_rows
    from scalr_ray.offline_store.sources.reading import Access, Reading

    columns = {name: name for name in SALES.names}
    reading = Reading(columns=columns, times=("at",), keys=keys)
    return find_rows(source(repo), reading, Access(repo=repo))


@pytest.mark.parametrize("layout", ["sorted", "partitioned"])
def test_few_keys_leave_most_files_unread(tmp_path, layout) -> None:
    from pyiceberg.transforms import IdentityTransform

    from scalr_ray.offline_store.sources.reading import KeyFilter

    create(tmp_path)
    values = [(f"s{n // 60:02}", n, n, T0, T0) for n in range(3600)]
    if layout == "sorted":
        for start in range(0, 3600, 60):
            append(tmp_path, rows(*values[start : start + 60]))
    else:
        with sales(tmp_path) as table, table.update_spec() as change:
            change.add_field("shop", IdentityTransform())
        append(tmp_path, rows(*values))
    assert len(read_sales(tmp_path).pieces()) == 60
    by_till = read_sales(tmp_path, KeyFilter(column="till", values=(5, 2**40, 2**70)))
    by_shop = read_sales(tmp_path, KeyFilter(column="shop", values=("s00", "'s01'", "s07")))
    assert (len(by_till.pieces()), len(by_shop.pieces())) == (1, 2)
    with duck() as session:
        by_till.open(session, "found")
        assert session.sql("SELECT amount FROM found").fetchall() == [(5,)]
        by_shop.open(session, "found")
        assert session.sql("SELECT count(*) FROM found").fetchall() == [(120,)]


@pytest.mark.usefixtures("first")
def test_keys_of_another_kind_or_none_at_all(tmp_path) -> None:
    from scalr_ray.offline_store.sources.reading import KeyFilter

    other = read_sales(tmp_path, KeyFilter(column="till", values=("1",)))
    assert other.count == 2, "a filter that does not fit is left to the join"
    assert read_sales(tmp_path, KeyFilter(column="till", values=())).count == 0


@pytest.mark.parametrize("bits", [32, 64])
def test_the_first_and_the_last_integer_are_found_and_none_beyond(tmp_path, bits) -> None:
    from scalr_ray.offline_store.sources.reading import KeyFilter

    kind = {32: pa.int32(), 64: pa.int64()}[bits]
    ends = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1]
    place = SALES.get_field_index("till")
    schema = SALES.set(place, pa.field("till", kind))
    create(tmp_path, schema)
    append(tmp_path, rows(*(("a", end, 1, T0, T0) for end in ends)).cast(schema))
    for end, beyond in zip(ends, (-1, 1), strict=True):
        found = read_sales(tmp_path, KeyFilter(column="till", values=(end, end + beyond)))
        (batch,) = found.read(found.scan.plan_files())
        assert batch["till"].to_pylist() == [end]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array([3, None, 1, 3]), (3, 1)),
        (pa.array([3.0, None]), (3,)),
        (pa.array(["b", "a", None]), ("b", "a")),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ("b", "a")),
        (pa.nulls(2), ()),
        (pa.array([], pa.int64()), ()),
        (pa.array(range(200)), tuple(range(200))),
        (pa.array(range(201)), None),
        (pa.array([0] * 20_000 + list(range(1, 201))), None),
        (pa.array([1.5]), None),
        (pa.array([True]), None),
        (pa.array([b"x"]), None),
    ],
)
def test_keys_are_pushed_down_where_they_are_few_and_plain(column, values) -> None:
    from scalr_ray.offline_store.key_filters import key_filters
    from scalr_ray.offline_store.sources.reading import KeyFilter

    found = key_filters(pa.table({"given": column}), {"stored": "given"})
    assert found == (() if values is None else (KeyFilter(column="stored", values=values),))


shops = st.sampled_from(["", "1", "11", "'", "ß", "long" * 8, "long" * 8 + "er", "\U0001f6d2"])
tills = st.sampled_from([0, 1, -1, 2**31, -(2**63), 2**63 - 1])
moments = st.integers(-4, 4).map(lambda hours: T0 + hours * HOUR)
history = st.lists(
    st.builds(
        FeatureRow,
        st.tuples(st.none() | shops, st.none() | tills),
        moments,
        moments,
        st.tuples(st.integers(0, 3)),
    ),
    min_size=1,
    max_size=25,
)
asked = st.lists(
    st.tuples(st.tuples(st.none() | shops, st.none() | tills), moments), min_size=1, max_size=6
)


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    """A registry with a view that is keyed by shop and till."""
    folder = tmp_path_factory.mktemp("sales")
    create(folder)
    open_store(folder, view(source(folder), keys=("shop", "till")))
    return folder


@pytest.mark.parametrize("most", [0, 200], ids=["not pushed down", "pushed down"])
@given(stored=history, wanted=asked, cut_off=st.booleans(), by_shop=st.booleans())
@settings(max_examples=20)
def test_with_and_without_push_down_the_oracle_agrees(
    repo, most, stored, wanted, cut_off, by_shop
) -> None:
    from pyiceberg.transforms import IdentityTransform

    from scalr_ray.offline_store import key_filters

    with catalog(repo) as opened, suppress(NoSuchTableError):
        opened.drop_table("shop.sales")
    create(repo)
    if by_shop:
        with sales(repo) as table, table.update_spec() as change:
            change.add_field("shop", IdentityTransform())
    for half in (stored[::2], stored[1::2]):
        if half:
            append(repo, rows(*((*r.key, r.values[0], r.event_time, r.created) for r in half)))
    entities = pa.table(
        {
            "shop": pa.array([key[0] for key, _ in wanted], pa.string()),
            "till": pa.array([key[1] for key, _ in wanted], pa.int64()),
            "event_timestamp": pa.array([t for _, t in wanted], TIMESTAMP),
        }
    )
    store = open_store(repo)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_filters, "MOST_KEYS", most)
        found = store.get_historical_features(
            entities, ["sales:amount"], filter_by_created_timestamp=cut_off
        ).to_arrow()
    rule = Rule(cut_off=cut_off)
    expected = [(look_up(stored, key, t, rule) or (None,))[0] for key, t in wanted]
    assert found["amount"].to_pylist() == expected


@pytest.mark.parametrize("name", ['"; DROP TABLE x; --', "'; --", "two\nlines", "naïve ☃", "a b"])
def test_columns_of_a_table_may_have_any_name(tmp_path, name) -> None:
    mapping = {"amount": f"amount {name}", "at": f"at {name}", "known": f"known {name}"}
    renamed = [mapping.get(column, column) for column in SALES.names]
    stored = rows(("a", 1, 1, T0, T0), (name, 2, 2, T0, T0)).rename_columns(renamed)
    create(tmp_path, stored.schema)
    append(tmp_path, stored)
    times = {"timestamp_field": mapping["at"], "created_timestamp_column": mapping["known"]}
    feature = mapping["amount"]
    store = open_store(tmp_path, view(source(tmp_path, **times), feature))
    assert ask(store, name, "a", "' OR '1'='1", feature=f"sales:{feature}") == [2, 1, None]
