"""What goes wrong around the lake has a name, loses nothing, and is over when its cause is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from lake_rows import IDS, event_ids, events, layout_in, slots
from losing_proxy import Loss, losing_proxy
from pyiceberg.table import snapshots
from s3_server import BUCKET

from scalr_ray.core.errors import ConfigError, DataError, RetryLater, StateUnknown
from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake

SOON = timedelta(days=1)


@pytest.mark.parametrize("lost", ["commit", "answer"])
def test_a_connection_lost_while_committing_is_found_out_by_looking_again(
    postgres_layout: Layout, lost: Loss
) -> None:
    """The two cases cannot be told apart from here; publishing again ends well in both."""
    assert postgres_layout.database is not None
    with losing_proxy(postgres_layout.database) as proxy:
        layout = replace(postgres_layout, database=proxy.url)
        with SyntheticEventLake.open(layout, IDS) as lake:
            lake.write_staged("b1", events("b1", 3))
            proxy.lose = lost
            with pytest.raises(StateUnknown, match=r"'publish batch b1' was lost.*scalr recover"):
                lake.publish("b1")
            assert proxy.lost == 1
            assert lake.publish("b1").already_published == (lost == "answer")
            assert event_ids(lake.read()) == slots("b1", 3)


@pytest.mark.parametrize("lost", ["commit", "answer"])
def test_an_erasure_whose_answer_was_lost_is_finished_by_the_next(
    postgres_layout: Layout, lost: Loss
) -> None:
    assert postgres_layout.database is not None
    with losing_proxy(postgres_layout.database) as proxy:
        layout = replace(postgres_layout, database=proxy.url)
        with SyntheticEventLake.open(layout, IDS) as lake:
            lake.write_staged("b1", events("b1", 3))
            lake.publish("b1")
            proxy.lose = lost
            with pytest.raises(StateUnknown, match="erase users"):
                lake.erase(["u1"])
            again = lake.erase(["u1"])
            assert again.rows_by_batch == ({} if lost == "answer" else {"b1": 1})
            assert len(again.expired_snapshots) == 1
            assert event_ids(lake.read()) == ["b1/0", "b1/2"]


def test_a_server_that_is_gone_is_said_and_back_again_is_used(
    postgres, postgres_layout: Layout
) -> None:
    with SyntheticEventLake.open(postgres_layout, IDS) as lake:
        lake.write_staged("b1", events("b1", 3))
        with postgres.down():
            with pytest.raises(RetryLater, match=r"could not publish batch b1: .* does not answer"):
                lake.publish("b1")
            with pytest.raises(RetryLater, match=r"read the table .* does not answer"):
                lake.read()
            with pytest.raises(RetryLater, match="open the Iceberg catalog"):
                SyntheticEventLake.open(postgres_layout, IDS)
        assert not lake.publish("b1").already_published
        assert event_ids(lake.read()) == slots("b1", 3)


def test_a_catalog_that_another_has_locked_is_not_waited_for_without_end(
    postgres_layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalr_ray.lake.catalog.LOCK_WAIT_S", 0.2)
    assert postgres_layout.database is not None
    address = postgres_layout.database.replace("+psycopg", "")
    with (
        SyntheticEventLake.open(postgres_layout, IDS) as lake,
        psycopg.connect(address) as other,
    ):
        lake.write_staged("b1", events("b1", 2))
        other.execute("SELECT * FROM iceberg_tables FOR UPDATE")
        with pytest.raises(RetryLater, match="publish batch b1: the database is busy"):
            lake.publish("b1")
        other.rollback()
        assert not lake.publish("b1").already_published


def test_a_refused_login_and_an_absent_database_are_the_configurations(
    postgres_layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert postgres_layout.database is not None
    absent = postgres_layout.database.rsplit("/", 1)[0] + "/nowhere"
    with pytest.raises(ConfigError, match="there is no database at"):
        SyntheticEventLake.open(replace(postgres_layout, database=absent), IDS)
    for password in ("wrong", ""):
        monkeypatch.setenv("PGPASSWORD", password)
        with pytest.raises(ConfigError, match="refuses the login; set PGPASSWORD"):
            SyntheticEventLake.open(postgres_layout, IDS)


def test_a_missing_bucket_is_named(s3_layout: Layout) -> None:
    with pytest.raises(DataError, match="S3 has no such bucket; create it"):
        SyntheticEventLake.open(replace(s3_layout, warehouse_at="s3://no-such-bucket/x"), IDS)


def test_refused_credentials_are_named(s3, s3_layout: Layout) -> None:
    with SyntheticEventLake.open(s3_layout, IDS) as lake:
        lake.write_staged("b1", events("b1", 2))
        with s3.checking_identities():
            with pytest.raises(DataError, match="S3 refused the credentials; set AWS_ACCESS_KEY"):
                lake.publish("b1")
            with pytest.raises(DataError, match="S3 refused the credentials"):
                lake.write_staged("b2", events("b2", 2))
        assert lake.publish("b1").rows == 2


def test_an_s3_that_does_not_answer_is_worth_another_try(
    s3_layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(RetryLater, match="S3 does not answer"):
        SyntheticEventLake.open(replace(s3_layout, warehouse_at=f"s3://{BUCKET}/silent"), IDS)


def test_a_clock_that_is_behind_is_refused_before_anything_is_written(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SyntheticEventLake.open(layout, IDS) as lake:
        for batch_id in ("b1", "b2"):
            lake.write_staged(batch_id, events(batch_id, 2))
        real = snapshots.time.time
        monkeypatch.setattr(snapshots.time, "time", lambda: real() + 3600)  # of another machine
        lake.publish("b1")
        monkeypatch.setattr(snapshots.time, "time", real)
        for work in (
            lambda: lake.publish("b2"),
            lambda: lake.retire("b1"),
            lambda: lake.erase(["u0"]),
        ):
            with pytest.raises(RetryLater, match=r"clock of this machine is 3,\d+ s behind"):
                work()
        assert event_ids(lake.read()) == slots("b1", 2)
        assert lake.staged_batches() == {"b2": 2}


ON_A_SPECIAL_DISK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from lake_rows import IDS, events, layout_in
from scalr_ray.core.errors import ScalrError
from scalr_ray.lake import SyntheticEventLake
folder = Path(sys.argv[1])
try:
    with SyntheticEventLake.open(layout_in(folder), IDS) as lake:
        sys.stdout.write(f"opened {lake.read().num_rows}\\n")
        for batch_id in ("b1", "b2"):
            if batch_id not in lake.staged_batches():
                lake.write_staged(batch_id, events(batch_id, 2))
            lake.publish(batch_id)
            sys.stdout.write(f"published {batch_id}\\n")
            filler = folder / "filler"
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(b"x" * 4096)
                except OSError:
                    pass
except ScalrError as error:
    sys.stdout.write(f"{type(error).__name__}: {error.message}\\n")
"""


def on_a_special_disk(mount: str, folder: Path) -> list[str]:
    """What the script above says, where `mount` was run before in a namespace of its own."""
    inside = f'{mount} && exec "$0" -W error -c "$1" "$2" "$3"'
    support = Path(__file__).parents[2] / "support"
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = shutil.which("unshare")
    assert unshare is not None, "install util-linux"
    arguments = [sys.executable, ON_A_SPECIAL_DISK, str(folder), str(support)]
    done = subprocess.run(
        [unshare, *user, "--mount", "sh", "-c", inside, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout.splitlines()


def test_a_full_disk_is_said_and_nothing_has_changed(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    said = on_a_special_disk(f'mount -t tmpfs -o size=2m none "{folder}"', folder)
    assert said[:2] == ["opened 0", "published b1"]
    assert said[2].startswith("RetryLater: could not ")
    assert "disk" in said[2]
    assert "full" in said[2]


@pytest.mark.parametrize("place", [".", "data/warehouse"])
def test_a_disk_that_may_not_be_written_is_said(tmp_path: Path, place: str) -> None:
    with SyntheticEventLake.open(layout_in(tmp_path), IDS) as lake:
        lake.write_staged("b1", events("b1", 2))
        lake.write_staged("b2", events("b2", 2))
    closed = tmp_path / place
    said = on_a_special_disk(
        f'mount --bind "{closed}" "{closed}" && mount -o remount,bind,ro "{closed}"', tmp_path
    )
    assert said[-1].startswith("UsageError: could not ")
    assert "permissions" in said[-1]
    with SyntheticEventLake.open(layout_in(tmp_path), IDS) as lake:
        assert lake.read().num_rows == 0
        assert lake.publish("b1").rows == 2


def test_a_reader_is_told_when_the_files_of_a_snapshot_are_gone(layout: Layout) -> None:
    with SyntheticEventLake.open(layout, IDS) as lake:
        lake.write_staged("b1", events("b1", 2))
        lake.publish("b1")
        data = lake._staging.files.below(f"{lake._staging.data}/b1")
        lake.remove(file.location for file in data)
        with pytest.raises(DataError, match="read the table of synthetic events: a file is gone"):
            lake.read()
        assert lake.orphans(older_than=datetime.now(UTC) + SOON, staged=[]) == []
