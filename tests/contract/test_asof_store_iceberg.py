"""The offline store on Iceberg tables: pinned snapshots, and how little is read for few keys."""

from __future__ import annotations

import pickle
import shutil
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from asof_oracle import FeatureRow, Rule, look_up
from hypothesis import given, settings
from hypothesis import strategies as st
from iceberg_tables import SALES, append, catalog, create, open_store, sales, source, view
from pyiceberg.exceptions import NoSuchTableError

from scalr_ray.core.duck import duck
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import TIMESTAMP

pytestmark = pytest.mark.feast

T0 = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def rows(*values: tuple[Any, ...]) -> pa.Table:
    """(shop, till, amount, at, known)"""
    columns = zip(*values, strict=True)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SALES, strict=True)],
        schema=SALES,
    )


def ask(store: Any, *shops: str | None, feature: str = "sales:amount") -> list[Any]:
    entities = pd.DataFrame({"shop": list(shops), "event_timestamp": T0 + 24 * HOUR})
    entities["shop"] = entities["shop"].astype(object)
    found = store.get_historical_features(entities, [feature]).to_arrow()
    return found[feature.partition(":")[2]].to_pylist()


@pytest.fixture
def first(tmp_path) -> int:
    """A table with two shops; returns the snapshot after its first commit."""
    create(tmp_path)
    return append(tmp_path, rows(("a", 1, 1, T0, T0), ("b", 1, 2, T0, T0)))


def change_everything(repo: Path) -> None:
    """Append, delete, overwrite, rename, drop and add columns."""
    append(repo, rows(("a", 1, 10, T0 + HOUR, T0 + HOUR)))
    with sales(repo) as table:
        table.delete("shop = 'b'")
        table.overwrite(rows(("a", 1, 20, T0, T0)))
        with table.update_schema() as change:
            change.rename_column("amount", "euros")
            change.rename_column("at", "happened")
            change.delete_column("till")
        with table.update_schema() as change:
            change.add_column("amount", table.schema().find_type("shop"))


@pytest.mark.parametrize("way", ["tag", "config"])
def test_a_pin_reads_what_the_table_held_then(tmp_path, first, way) -> None:
    tags, options = {}, {}
    if way == "tag":
        tags = {"snapshot_id": str(first)}
    else:
        options = {"snapshots": {"sales_source": first}}
    pinned = open_store(tmp_path, view(source(tmp_path, tags=tags)), **options)
    assert ask(pinned, "a", "b") == [1, 2]
    append(tmp_path, rows(("a", 1, 10, T0 + HOUR, T0 + HOUR)))
    assert ask(pinned, "a", "b") == [1, 2]
    change_everything(tmp_path)
    assert ask(pinned, "a", "b") == [1, 2]
    again = open_store(tmp_path, **options)  # another process, which knows only the registry
    assert ask(again, "a", "b", None) == [1, 2, None]
    event_set = again.get_historical_features(features=["sales:amount"], end_date=T0).to_arrow()
    assert sorted(event_set["amount"].to_pylist()) == [1, 2]
    pull = again._get_provider().offline_store.pull_latest_from_table_or_query(
        again.config, source(tmp_path, tags=tags), ["shop"], ["till"], "at", "known", T0, T0
    )
    assert pull.to_arrow()["till"].to_pylist() == [1, 1]


@pytest.mark.usefixtures("first")
def test_without_a_pin_the_newest_is_read_and_later_names_apply(tmp_path) -> None:
    assert ask(open_store(tmp_path, view(source(tmp_path))), "a", "b") == [1, 2]
    change_everything(tmp_path)
    now = view(source(tmp_path, timestamp_field="happened"), feature="euros")
    assert ask(open_store(tmp_path, now), "a", "b", feature="sales:euros") == [20, None]


def test_the_pin_of_a_session_wins_over_the_tag(tmp_path, first) -> None:
    second = append(tmp_path, rows(("a", 1, 10, T0 + HOUR, T0 + HOUR)))
    append(tmp_path, rows(("a", 1, 11, T0 + 2 * HOUR, T0 + HOUR)))
    tagged = view(source(tmp_path, tags={"snapshot_id": str(first)}))
    assert ask(open_store(tmp_path, tagged), "a") == [1]
    assert ask(open_store(tmp_path, snapshots={"sales_source": second}), "a") == [10]


@pytest.mark.parametrize(
    ("asked", "error", "line"),
    [
        ("77", DataError, "'sales_source' has no snapshot 77, or it has expired; the newest"),
        ("0", DataError, "has no snapshot 0"),
        ("-5", DataError, "has no snapshot -5"),
        ("newest", UsageError, "'sales_source': tag 'snapshot_id' is 'newest'"),
        ("", UsageError, "tag 'snapshot_id' is ''"),
        ("1.5", UsageError, "tag 'snapshot_id' is '1.5'"),
    ],
)
@pytest.mark.usefixtures("first")
def test_a_pin_that_names_no_snapshot_is_refused(tmp_path, asked, error, line) -> None:
    tagged = source(tmp_path, tags={"snapshot_id": asked})
    with pytest.raises(error, match=line):
        ask(open_store(tmp_path, view(tagged)), "a")


def test_an_expired_pin_is_refused(tmp_path, first) -> None:
    append(tmp_path, rows(("a", 1, 10, T0 + HOUR, T0 + HOUR)))
    store = open_store(tmp_path, view(source(tmp_path)), snapshots={"sales_source": first})
    assert ask(store, "a") == [1]
    with sales(tmp_path) as table:
        table.maintenance.expire_snapshots().by_id(first).commit()
    with pytest.raises(DataError, match=f"no snapshot {first}, or it has expired; the newest it"):
        ask(store, "a")


def test_a_pin_on_what_is_no_iceberg_source_is_refused(tmp_path, first) -> None:
    store = open_store(tmp_path, view(source(tmp_path)), snapshots={"sales": first})
    with pytest.raises(UsageError, match="pins sales, but the Iceberg sources are sales_source"):
        ask(store, "a")


def test_columns_that_came_after_the_pin_are_missing(tmp_path, first) -> None:
    with sales(tmp_path) as table, table.update_schema() as change:
        change.add_column("later", table.schema().find_type("amount"))
    append(tmp_path, rows(("a", 1, 1, T0, T0)).append_column("later", pa.array([3])))
    assert ask(open_store(tmp_path, view(source(tmp_path), "later")), "a", feature="sales:later")
    pinned = open_store(tmp_path, snapshots={"sales_source": first})
    with pytest.raises(DataError, match=r"lacks the column.* later; it has shop, till, amount"):
        ask(pinned, "a", feature="sales:later")


def test_no_table_means_no_data_yet_unless_it_is_pinned(tmp_path) -> None:
    assert ask(open_store(tmp_path, view(source(tmp_path))), "a") == [None]
    pinned = open_store(tmp_path, snapshots={"sales_source": 5})
    with pytest.raises(DataError, match="pinned to snapshot 5, but its table does not exist"):
        ask(pinned, "a")


@pytest.mark.usefixtures("first")
def test_a_dropped_table_reads_as_one_without_data(tmp_path) -> None:
    store = open_store(tmp_path, view(source(tmp_path)))
    with catalog(tmp_path) as opened:
        opened.drop_table("shop.sales")
    assert ask(store, "a") == [None]


@pytest.mark.parametrize(
    ("gone", "line"),
    [("data", "a file of its Iceberg table cannot be read"), ("metadata", "cannot be opened")],
)
@pytest.mark.usefixtures("first")
def test_files_that_are_gone_are_an_error_of_the_source(tmp_path, gone, line) -> None:
    store = open_store(tmp_path, view(source(tmp_path)))
    shutil.rmtree(tmp_path / "lake" / "shop" / "sales" / gone)
    with pytest.raises(DataError, match=f"'sales_source': .*{line}"):
        ask(store, "a")


def test_a_catalog_that_is_gone_is_an_error_of_the_source(tmp_path) -> None:
    lost = source(tmp_path, catalog_properties={"uri": f"sqlite:///{tmp_path}/none/lake.db"})
    with pytest.raises(DataError, match="'sales_source': its catalog cannot be read"):
        ask(open_store(tmp_path, view(lost)), "a")


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
    from scalr_ray.offline_store.sources import Access, Reading, find_rows

    columns = {name: name for name in SALES.names}
    reading = Reading(columns=columns, times=("at",), keys=keys)
    return find_rows(source(repo), reading, Access(repo=repo))


@pytest.mark.parametrize("layout", ["sorted", "partitioned"])
def test_few_keys_leave_most_files_unread(tmp_path, layout) -> None:
    from pyiceberg.transforms import IdentityTransform

    from scalr_ray.offline_store.sources import KeyFilter

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
    from scalr_ray.offline_store.sources import KeyFilter

    other = read_sales(tmp_path, KeyFilter(column="till", values=("1",)))
    assert other.count == 2, "a filter that does not fit is left to the join"
    assert read_sales(tmp_path, KeyFilter(column="till", values=())).count == 0


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
    from scalr_ray.offline_store.sources import KeyFilter

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
