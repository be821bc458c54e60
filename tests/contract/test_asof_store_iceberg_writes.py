"""Writing feature rows to an Iceberg table: once, whole, and exactly, whoever else writes."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast_config import feast_config
from iceberg_tables import SALES, append, create, open_store, sales, source, view

from scalr_ray.core.config import IdTypes
from scalr_ray.core.errors import DataError, RetryLater, UsageError
from scalr_ray.core.events import TIMESTAMP
from scalr_ray.core.layout import Layout

pytestmark = pytest.mark.feast

T0 = datetime(2026, 3, 1, tzinfo=UTC)


def batch(first: int = 0, count: int = 3) -> pa.Table:
    numbers = list(range(first, first + count))
    times = pa.array([T0 + timedelta(hours=n) for n in numbers], TIMESTAMP)
    return pa.table(
        {
            "shop": [f"s{n}" for n in numbers],
            "till": numbers,
            "amount": numbers,
            "at": times,
            "known": times,
        }
    )


def write(repo: Path, rows: pa.Table, **options: Any) -> None:
    from scalr_ray.offline_store import AsOfOfflineStore

    AsOfOfflineStore.offline_write_batch(
        feast_config(repo), view(source(repo, **options), "amount"), rows, None
    )


def stored(repo: Path) -> pa.Table:
    with sales(repo) as table:
        return table.scan().to_arrow().sort_by("amount")


def commits(repo: Path) -> int:
    with sales(repo) as table:
        return len(table.snapshots())


def test_repeating_a_write_changes_nothing_and_another_is_one_commit_more(tmp_path) -> None:
    create(tmp_path)
    write(tmp_path, batch())
    write(tmp_path, pa.concat_tables([batch().slice(0, 1), batch().slice(1)]))
    assert (stored(tmp_path).num_rows, commits(tmp_path)) == (3, 1)
    write(tmp_path, batch(3))
    write(tmp_path, batch())
    assert stored(tmp_path)["amount"].to_pylist() == list(range(6))
    assert commits(tmp_path) == 2


def test_a_repeated_write_does_not_bring_back_what_was_deleted(tmp_path) -> None:
    create(tmp_path)
    write(tmp_path, batch())
    with sales(tmp_path) as table:
        table.delete("shop = 's1'")
    write(tmp_path, batch())
    assert stored(tmp_path)["shop"].to_pylist() == ["s0", "s2"]


def test_nothing_to_write_is_no_commit(tmp_path) -> None:
    create(tmp_path)
    write(tmp_path, batch(count=0))
    assert commits(tmp_path) == 0


def test_rows_written_through_the_sdk_are_served(tmp_path) -> None:
    create(tmp_path)
    store = open_store(tmp_path, view(source(tmp_path, field_mapping={"amount": "euros"}), "euros"))
    frame = batch().to_pandas().query("till > 0")  # its index is no range any more
    store.write_to_offline_store("sales", frame)
    store.write_to_offline_store("sales", frame)
    asked = pd.DataFrame({"shop": ["s1", "s0"], "event_timestamp": T0 + timedelta(days=1)})
    found = store.get_historical_features(asked, ["sales:euros"]).to_arrow()
    assert found["euros"].to_pylist() == [1, None]
    assert commits(tmp_path) == 1


def test_columns_are_found_by_their_names_in_the_view(tmp_path) -> None:
    create(tmp_path)
    mapped = {"amount": "euros", "till": "register"}
    shown = batch().rename_columns(["shop", "register", "euros", "at", "known"])
    from scalr_ray.offline_store import AsOfOfflineStore

    target = view(source(tmp_path, field_mapping=mapped), "euros")
    AsOfOfflineStore.offline_write_batch(feast_config(tmp_path), target, shown, None)
    assert stored(tmp_path).select(SALES.names) == batch().cast(stored(tmp_path).schema)


def test_columns_that_the_view_does_not_know_are_null(tmp_path) -> None:
    create(tmp_path)
    write(tmp_path, batch().drop_columns("till"))
    assert stored(tmp_path)["till"].null_count == 3


def replaced(column: str, values: pa.Array) -> pa.Table:
    rows = batch()
    return rows.set_column(rows.column_names.index(column), column, values)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (batch().drop_columns("amount"), r"rows for 'sales' lack the column\(s\) amount"),
        (batch().drop_columns(["known", "shop"]), r"lack the column\(s\) known, shop"),
        (batch().append_column("tax", pa.array([1, 2, 3])), r"column\(s\) tax, which the table"),
        (batch().append_column("at", batch()["at"]), r"have the column\(s\) at twice"),
        (replaced("amount", pa.array([1.5, 2, 3])), "'amount' is double, but .* convert it"),
        (replaced("amount", pa.array(["1", "2", "3"])), "'amount' is string"),
        (replaced("shop", pa.array([1, 2, 3])), "'shop' is int64"),
        (replaced("at", pa.array([1, 2, 3])), "'at' is int64"),
        (
            replaced("at", pa.array([1, 2, 3], pa.timestamp("ns", "UTC"))),
            r"'at' is timestamp\[ns, tz=UTC\].* would lose data",
        ),
        (replaced("amount", pa.array([2**63, 1, 2], pa.uint64())), "'amount' is uint64"),
    ],
)
def test_rows_that_do_not_fit_are_refused_whole(tmp_path, rows, line) -> None:
    create(tmp_path)
    with pytest.raises(DataError, match=line):
        write(tmp_path, rows)
    assert commits(tmp_path) == 0
    assert not list((tmp_path / "lake").rglob("*.parquet"))


def test_values_are_stored_in_the_types_of_the_table_or_not_at_all(tmp_path) -> None:
    create(tmp_path, SALES.append(pa.field("rate", pa.float32())))
    berlin = batch()["at"].cast(pa.timestamp("ns", "Europe/Berlin"))
    rows = batch().drop_columns("at").append_column("at", berlin)
    exact = pa.array([0.5, float("nan"), None])
    write(tmp_path, rows.append_column("rate", exact))
    assert stored(tmp_path)["at"].to_pylist() == batch()["at"].to_pylist()
    assert str(stored(tmp_path)["rate"].to_pylist()) == "[0.5, nan, None]"
    with pytest.raises(DataError, match=r"'rate' is double, .*cannot hold all values exactly"):
        write(tmp_path, rows.append_column("rate", pa.array([0.1, 0.5, 0.5])))


def test_required_columns_take_no_null(tmp_path) -> None:
    create(tmp_path, pa.schema([field.with_nullable(field.name != "shop") for field in SALES]))
    with pytest.raises(DataError, match="'shop' has nulls, which the table refuses"):
        write(tmp_path, replaced("shop", pa.array(["a", None, "b"])))
    write(tmp_path, batch())
    assert stored(tmp_path).num_rows == 3


def test_a_table_that_is_not_there_is_not_made_up(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"the table shop\.sales does not exist; create it"):
        write(tmp_path, batch())
    with pytest.raises(DataError, match="has no data yet"):
        open_store(tmp_path, view(source(tmp_path))).write_to_offline_store(
            "sales", batch().to_pandas()
        )


def test_a_pinned_source_is_not_written(tmp_path) -> None:
    create(tmp_path)
    first = append(tmp_path, batch().cast(SALES))
    with pytest.raises(UsageError, match=f"pinned to snapshot {first}.*drop the pin"):
        write(tmp_path, batch(3), tags={"snapshot_id": str(first)})


def test_a_partitioning_that_takes_more_packages_says_which(tmp_path) -> None:
    from pyiceberg.transforms import BucketTransform

    create(tmp_path)
    with sales(tmp_path) as table, table.update_spec() as change:
        change.add_field("shop", BucketTransform(4))
    with pytest.raises(UsageError, match=r"'sales_source': .*pyiceberg-core"):
        write(tmp_path, batch())


def test_synthetic_events_are_sent_to_publish(tmp_path) -> None:
    from scalr_ray.lake import SyntheticEventLake

    layout = Layout(repo=tmp_path, data=tmp_path / "data")
    with SyntheticEventLake.open(layout, IdTypes()):
        pass
    target = view(
        source(
            tmp_path,
            table="synthetic_events",
            namespace="scalr",
            catalog_name="scalr",
            catalog_properties={"uri": layout.database_url},
        )
    )
    from scalr_ray.offline_store import AsOfOfflineStore

    with pytest.raises(UsageError, match="publish events to it with `scalr publish`"):
        AsOfOfflineStore.offline_write_batch(feast_config(tmp_path), target, batch(), None)


def test_concurrent_writers_lose_nothing_and_double_nothing(tmp_path) -> None:
    create(tmp_path)
    with ThreadPoolExecutor(6) as pool:  # three batches, each by two writers at the same time
        outcomes = list(
            pool.map(lambda n: _write_until_done(tmp_path, batch(n // 2 * 3)), range(6))
        )
    assert outcomes == [None] * 6
    assert stored(tmp_path)["amount"].to_pylist() == list(range(9))
    assert commits(tmp_path) == 3


def _write_until_done(repo: Path, rows: pa.Table) -> None:
    for _ in range(5):
        try:
            return write(repo, rows)
        except RetryLater:
            continue
    raise AssertionError("lost every race")


def test_a_race_lost_to_the_same_batch_ends_well(tmp_path, monkeypatch) -> None:
    """Another writer commits the same rows between the look and the commit of this one."""
    from pyiceberg.table import Table

    create(tmp_path)
    plain, others = Table.append, [True]

    def append_after_another(self, rows, **options) -> None:
        if others:
            others.clear()
            write(tmp_path, batch())
        plain(self, rows, **options)

    monkeypatch.setattr(Table, "append", append_after_another)
    write(tmp_path, batch())
    assert (stored(tmp_path).num_rows, commits(tmp_path)) == (3, 1)


def test_a_table_that_keeps_changing_is_left_for_later(tmp_path, monkeypatch) -> None:
    from pyiceberg.table import Table

    from scalr_ray.offline_store.sources import iceberg_append

    create(tmp_path)
    plain, count = Table.append, iter(range(100, 200))

    def lose(self, rows, **options) -> None:
        with sales(tmp_path) as other:
            plain(other, batch(next(count), 1).cast(SALES))
        plain(self, rows, **options)

    monkeypatch.setattr(Table, "append", lose)
    monkeypatch.setattr(iceberg_append, "_PAUSES_S", (0.0, 0.0))
    with pytest.raises(RetryLater, match="'sales_source': other writers kept committing first"):
        write(tmp_path, batch())
    assert stored(tmp_path)["amount"].to_pylist() == [100, 101]


def test_a_locked_catalog_is_for_later(tmp_path) -> None:
    create(tmp_path)
    impatient = {"uri": f"sqlite:///{tmp_path / 'lake.db'}?timeout=0.1"}
    with closing(sqlite3.connect(tmp_path / "lake.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RetryLater, match=r"write to .*'sales_source'.* is busy; try again"):
            write(tmp_path, batch(), catalog_properties=impatient)
    write(tmp_path, batch(), catalog_properties=impatient)
    assert (stored(tmp_path).num_rows, commits(tmp_path)) == (3, 1)


def test_a_catalog_file_that_may_only_be_read_is_said_to_be(tmp_path) -> None:
    create(tmp_path)
    reading = {"uri": f"sqlite:///file:{tmp_path / 'lake.db'}?mode=ro&uri=true"}
    with pytest.raises(UsageError, match="may not be written; mend the permissions"):
        write(tmp_path, batch(), catalog_properties=reading)
    assert commits(tmp_path) == 0
