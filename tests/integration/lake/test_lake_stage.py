"""A batch is staged whole or not at all, and a folder that was refused stays as it is."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lake_rows import event_ids, events, slots

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.lake import SyntheticEventLake


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder with two files of batch b1."""
    folder = tmp_path / "made"
    folder.mkdir()
    for part in range(2):
        pq.write_table(events("b1", 3, first=3 * part), folder / f"part-{part}.parquet")
    return folder


def test_the_files_of_a_folder_become_a_staged_batch(lake: SyntheticEventLake, made: Path) -> None:
    (made / "_notes.parquet").write_bytes(b"not looked at")
    assert lake.stage("b1", made) == 6
    assert [path.name for path in made.iterdir()] == ["_notes.parquet"]
    assert lake.staged_batches() == {"b1": 6}
    assert len(lake.staged_files("b1")) == 2
    assert event_ids(lake.read_staged("b1")) == slots("b1", 6)
    assert lake.read().num_rows == 0
    assert lake.publish("b1").rows == 6
    assert lake.staged_batches() == {}
    assert event_ids(lake.read()) == slots("b1", 6)


def test_nothing_is_copied_on_the_same_disk(
    lake: SyntheticEventLake, made: Path, request: pytest.FixtureRequest
) -> None:
    before = {path.stat().st_ino for path in made.iterdir()}
    lake.stage("b1", made)
    if "s3" in request.node.name:
        assert lake.local_folders == []
    else:
        assert {Path(name).stat().st_ino for name in lake.staged_files("b1")} == before


def test_staging_again_takes_the_place_of_what_was_staged(
    lake: SyntheticEventLake, made: Path
) -> None:
    lake.stage("b1", made)
    first = lake.staged_files("b1")
    pq.write_table(events("b1", 1, first=50), made / "part-0.parquet")
    assert lake.stage("b1", made) == 1
    assert event_ids(lake.read_staged("b1")) == ["b1/50"]
    assert lake.size_bytes(first) == 0


def test_a_staging_that_breaks_off_leaves_what_was_there(
    lake: SyntheticEventLake, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scalr_ray.lake.files import TableFiles

    lake.stage("b1", made)
    bring, calls = TableFiles.bring, []

    def break_off(files: TableFiles, path: Path, location: str) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise KeyboardInterrupt
        bring(files, path, location)

    monkeypatch.setattr(TableFiles, "bring", break_off)
    for part in range(2):
        pq.write_table(events("b1", 1, first=50 + part), made / f"part-{part}.parquet")
    with pytest.raises(KeyboardInterrupt):
        lake.stage("b1", made)
    assert event_ids(lake.read_staged("b1")) == slots("b1", 6)
    assert len(list(made.iterdir())) == 2
    monkeypatch.undo()


def test_an_empty_folder_is_a_batch_without_events(
    lake: SyntheticEventLake, tmp_path: Path
) -> None:
    assert lake.stage("b1", tmp_path / "nothing") == 0
    assert lake.staged_batches() == {"b1": 0}
    assert lake.read_staged("b1").num_rows == 0
    with pytest.raises(DataError, match="holds no events"):
        lake.publish("b1")


def test_what_was_published_is_not_staged_again(lake: SyntheticEventLake, made: Path) -> None:
    lake.stage("b1", made)
    lake.publish("b1")
    pq.write_table(events("b1", 1), made / "part-0.parquet")
    with pytest.raises(UsageError, match="has been published"):
        lake.stage("b1", made)
    assert lake.read().num_rows == 6


@pytest.mark.parametrize("with_another", [True, False])
def test_an_event_that_is_there_twice_is_refused(
    lake: SyntheticEventLake, made: Path, *, with_another: bool
) -> None:
    lake.stage("b1", made)
    twice = pa.concat_tables([events("b1", 2), events("b1", 1)])
    if with_another:
        pq.write_table(events("b1", 2), made / "part-0.parquet")
        twice = events("b1", 1)
    pq.write_table(twice, made / "part-1.parquet")
    with pytest.raises(DataError, match="1 of 3 staged events are there twice"):
        lake.stage("b1", made)
    assert event_ids(lake.read_staged("b1")) == slots("b1", 6)
    with pytest.raises(DataError, match="1 of 7 staged events are there twice"):
        lake.write_staged("b1", events("b1", 1))


def test_a_staged_file_that_was_changed_is_not_published(
    lake: SyntheticEventLake, made: Path
) -> None:
    lake.stage("b1", made)
    changed = lake.staged_files("b1")[0]
    with lake._staging.files.appearing(changed) as path:
        pq.write_table(events("b1", 2), path)
    with pytest.raises(DataError, match="holds 2 rows and was staged with 3"):
        lake.publish("b1")
    lake._staging.files.remove(changed)
    with pytest.raises(DataError, match="is to be published: a file is gone"):
        lake.publish("b1")
    assert lake.published_batches() == {}


def test_a_publisher_that_dies_before_it_tidies_up_has_published(
    lake: SyntheticEventLake, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scalr_ray.lake.staging import StagingArea

    def die(_staging: StagingArea, _batch_id: str) -> None:
        raise KeyboardInterrupt

    lake.stage("b1", made)
    forget = StagingArea.forget
    monkeypatch.setattr(StagingArea, "forget", die)
    with pytest.raises(KeyboardInterrupt):
        lake.publish("b1")
    monkeypatch.setattr(StagingArea, "forget", forget)
    assert lake.staged_batches() == {}
    assert lake.erase(["u0"]).rows_by_batch == {"b1": 2}
    assert lake.publish("b1").already_published
    assert lake.staged_files("b1") == []
    assert lake.read().num_rows == 4
