"""The offline store on an Iceberg table: the newest snapshot, a pinned one, and none at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from iceberg_tables import (
    HOUR,
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

from scalr_ray.core.errors import DataError, UsageError

pytestmark = pytest.mark.feast


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
