"""Training sets that are saved, compared and erased from, while the lake under them goes on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from fresh_processes import in_parallel
from killing import killed_at_step
from lake_rows import NOON
from marks import OPENS_FEAST
from pulled_sets import (  # noqa: F401 - the fixtures
    ERASED,
    IDS,
    ROWS,
    batches,
    build,
    content,
    erase,
    layout_fixture,
    open_store,
    publish,
    record_batches,
    repo_fixture,
    store_fixture,
    stores_are_closed,
    template_fixture,
    traces,
    user,
    write_repo,
)

from scalr_ray import Scalr
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.subjects import SubjectKey
from scalr_ray.lake import SyntheticEventLake
from scalr_ray.ledger import BatchState, Ledger
from training import Mix, MixedDataset
from training.saved import diff, erase_users, load, names, remove, rows, rows_of_users
from training.streams import torch_stream

pytestmark = OPENS_FEAST


class TestSaved:
    def test_a_set_comes_back_as_it_was_saved(self, layout, store):
        publish(layout, "b1")
        dataset = build(store)
        saved = dataset.save("ctr_2026-03")
        assert saved.folder == layout.training_sets / "ctr_2026-03"
        assert (saved.rows, saved.snapshot_id) == (52, dataset.manifest["snapshot_id"])
        assert sorted(path.name for path in saved.folder.iterdir()) == [
            "manifest.json",
            "rows.parquet",
        ]
        back = load(open_store(layout.repo), "ctr_2026-03")
        assert back.to_arrow().equals(dataset.to_arrow())
        assert content(back) == content(dataset)
        assert (back.manifest, back.notes) == (dataset.manifest, ())
        again = back.save("copy")
        assert again.manifest == saved.manifest
        assert names(store) == ["copy", "ctr_2026-03"]

    def test_it_streams_from_its_files_until_a_user_is_taken_out(self, layout, store):
        publish(layout, "b1")
        dataset = build(store)
        dataset.save("a")
        codes = {"user_id": sorted(dataset.table["user_id"].unique().to_pylist())}
        stream = torch_stream(rows(store, "a"), 5, columns=["user_id", "label"], codes=codes)
        found = [place for batch in stream for place in batch["user_id"].tolist()]
        users = dataset.table["user_id"].to_pylist()
        assert sorted(codes["user_id"][place] for place in found) == sorted(users)
        erase(layout, ERASED)
        with pytest.raises(DataError, match="others than when the stream was made"):
            next(iter(stream))
        assert rows(store, "a").rows == 39
        with pytest.raises(DataError, match="no saved training set 'b'; there is a"):
            rows(store, "b")

    def test_its_snapshot_is_pinned_in_the_ledger(self, layout, store):
        publish(layout, "b1")
        saved = build(store).save("a")
        with Ledger(layout.database_url) as ledger:
            (pin,) = ledger.pins()
        assert (pin.name, pin.snapshot_id, pin.path) == ("a", saved.snapshot_id, str(saved.folder))

    def test_feast_finds_it(self, layout, store):
        publish(layout, "b1")
        dataset = build(store)
        dataset.save("a")
        found = open_store(layout.repo).get_saved_dataset("a")
        assert found.feature_service_name == "mixed_training_v1"
        rows = found.to_arrow()
        expected = dataset.to_arrow()
        assert set(rows.column_names) == set(expected.column_names)
        ordered = rows.select(expected.column_names).sort_by("event_id")
        assert ordered.to_pylist() == expected.sort_by("event_id").to_pylist()

    def test_a_set_whose_batch_was_retired_still_loads_and_says_so(self, layout, store):
        publish(layout, "b1", "b2")
        dataset = build(store)
        dataset.save("a")
        with SyntheticEventLake.open(layout, IDS) as lake:
            lake.retire("b1")
        record_batches(layout, "it was drawn from bots", b1=BatchState.RETIRED)
        back = load(store, "a")
        assert content(back) == content(dataset)
        (note,) = back.notes
        assert note.startswith("batch b1, 12 rows here, was retired on ")
        assert note.endswith(": it was drawn from bots")

    def test_the_same_again_changes_nothing_and_another_is_refused(self, layout, store):
        publish(layout, "b1")
        dataset = build(store)
        first = dataset.save("a")
        assert dataset.save("a") == first
        with pytest.raises(UsageError, match="another training set 'a'"):
            build(store, mix=Mix(weight_scale=0.5)).save("a")
        assert content(load(store, "a")) == content(dataset)
        assert [path.name for path in layout.training_sets.iterdir()] == ["a"]

    def test_rows_that_came_from_no_store_are_not_saved(self, store):
        dataset = build(store)
        with pytest.raises(UsageError, match="were not pulled from a store; pull them"):
            MixedDataset(table=dataset.table, manifest=dataset.manifest).save("a")

    def test_a_part_of_a_set_is_saved_as_well(self, store):
        part = build(store).split(NOON + timedelta(minutes=20)).train
        assert part.save("part").rows == 20
        assert load(store, "part").to_arrow().equals(part.to_arrow())

    @pytest.mark.parametrize("name", ["", "A", "-a", "a/b", "..", ".a", "a" * 65, "a b", "a\n"])
    def test_a_name_that_cannot_be_one_is_refused(self, layout, store, name):
        with pytest.raises(UsageError, match="cannot name a training set"):
            build(store).save(name)
        with pytest.raises(UsageError, match="cannot name a training set"):
            load(store, name)
        assert not layout.training_sets.exists()

    def test_a_set_that_is_not_there_is_named_with_those_that_are(self, store):
        with pytest.raises(DataError, match="no saved training set 'b'; there is none"):
            load(store, "b")
        build(store).save("a")
        with pytest.raises(DataError, match="no saved training set 'b'; there is a"):
            load(store, "b")

    @pytest.mark.parametrize(
        ("file", "word"), [("rows.parquet", "rows.parquet is"), ("manifest.json", "manifest.json")]
    )
    @pytest.mark.parametrize("how", ["cut", "gone"])
    def test_a_damaged_set_says_what_is_wrong(self, store, file, word, how):
        saved = build(store).save("a")
        path = saved.folder / file
        if how == "cut":
            path.write_bytes(path.read_bytes()[:-9])
        else:
            path.unlink()
        with pytest.raises(DataError, match=f"'a' is damaged: {word}"):
            load(store, "a")

    def test_a_removed_set_is_gone_everywhere(self, layout, store):
        from feast.errors import SavedDatasetNotFound

        build(store).save("a")
        remove(store, "a")
        assert list(layout.training_sets.iterdir()) == []
        with Ledger(layout.database_url) as ledger:
            assert ledger.pins() == []
        with pytest.raises(SavedDatasetNotFound):
            store.get_saved_dataset("a")
        with pytest.raises(DataError, match="none to remove"):
            remove(store, "a")
        build(store, mix=Mix(weight_scale=0.5)).save("a")

    def test_of_two_savers_of_one_name_one_wins(self, layout, store):
        publish(layout, "b1")
        scales = (0.25, 0.5, 0.75, 1.0)
        answers = in_parallel([(try_to_save, (layout.repo, scale)) for scale in scales])
        won = [scale for scale, told in zip(scales, answers, strict=True) if told is None]
        assert len(won) == 1
        assert {told for told in answers if told is not None} == {"usage"}
        assert load(store, "a").manifest["mix"]["weight_scale"] == won[0]
        with Ledger(layout.database_url) as ledger:
            assert [pin.name for pin in ledger.pins()] == ["a"]

    def test_a_saver_that_is_killed_leaves_a_whole_set_or_none(self, layout, store):
        publish(layout, "b1")
        dataset, step, found = build(store), 0, set()
        expected = content(dataset)
        while True:
            step += 1
            died = killed_at_step(step, save_as, layout.repo, dataset)
            if not died:
                break
            for name in names(store):
                assert content(load(store, name)) == expected
            found |= set(recovered(layout.repo))
            assert [each.name for each in store.list_saved_datasets()] == names(store)
            if step % 2:
                dataset.save("a")
                assert content(load(store, "a")) == expected
                assert [path.name for path in layout.training_sets.iterdir()] == ["a"]
                remove(store, "a")
        assert step > 6
        assert {"saved, and not pinned", "saved, and not known to Feast"} <= found


def try_to_save(repo: Path, scale: float) -> str | None:
    store = open_store(repo)
    dataset = build(store, mix=Mix(weight_scale=scale))
    try:
        dataset.save("a")
    except UsageError as error:
        return error.code
    return None


def save_as(repo: Path, dataset: MixedDataset) -> None:
    replace(dataset, store=open_store(repo)).save("a")


class TestCompared:
    def test_what_differs_is_told(self, layout, store):
        publish(layout, "b1")
        build(store, mix=Mix(weight_scale=0.5)).save("a")
        publish(layout, "b2")
        build(store).save("b")
        found = diff(store, "a", "b")
        assert found.only == (0, ROWS)
        assert (found.common, found.reweighted) == (40 + ROWS, ROWS)
        assert found.manifest["mix.weight_scale"] == (0.5, 1.0)
        assert found.manifest["batches.b2"] == (None, ROWS)
        assert found.manifest["counts.synthetic"] == (ROWS, 2 * ROWS)
        assert {"service", "as_of", "config.seed"}.isdisjoint(found.manifest)
        lines = str(found).splitlines()
        assert lines[0].split() == ["a", "b"]
        assert ["mix.weight_scale", "0.5", "1.0"] in [line.split() for line in lines]
        assert ["events", "only", "here", "0", "12"] in [line.split() for line in lines]

    def test_nothing_differs_from_itself(self, store):
        build(store).save("a")
        build(store).save("b")
        assert not diff(store, "a", "b")


class TestErased:
    def test_no_byte_of_an_erased_user_is_left_and_the_manifest_says_why(self, layout, store):
        publish(layout, "b1")
        before = build(store)
        saved = before.save("a")
        build(store, service="real_only_v1").save("real")
        assert traces(layout.training_sets, ERASED)
        assert erase(layout, ERASED) == {"a": 10 + 3, "real": 10}
        assert not traces(layout.training_sets, ERASED)
        back = load(store, "a")
        others = [row for row in before.to_arrow().to_pylist() if row["user_id"] != ERASED]
        assert back.to_arrow().to_pylist() == others
        (revision,) = back.manifest["revisions"]
        assert revision["why"] == "they asked"
        assert (revision["rows_removed"], revision["synthetic_rows_removed"]) == (13, 3)
        assert revision["events_fingerprint_before"] == before.manifest["events_fingerprint"]
        assert back.manifest["counts"] == {"real": 30, "synthetic": 9}
        assert back.manifest["batches"] == {"b1": 9}
        assert back.manifest["snapshot_id"] == saved.snapshot_id
        assert back.notes[0].startswith("13 rows of erased users were taken out on ")
        assert "can no longer be pulled" in back.notes[1]
        assert len(load(store, "real").notes) == 1

    def test_the_ledger_follows(self, layout, store):
        publish(layout, "b1")
        saved = build(store).save("a")
        publish(layout, "b2")
        other = build(store, mix=Mix(batch_ids=("b2",), synthetic_frac=0.0)).save("none")
        with Ledger(layout.database_url) as ledger:
            before = {pin.name: pin for pin in ledger.pins()}
            assert before["a"].snapshot_id == saved.snapshot_id
            erase_users(layout, ledger, [ERASED], "they asked")
            after = {pin.name: pin for pin in ledger.pins()}
            assert after["a"].manifest_fingerprint != before["a"].manifest_fingerprint
            # What showed the user's synthetic events is gone; the other lost real ones alone.
            assert after["a"].snapshot_id is None
            assert after["none"].snapshot_id == other.snapshot_id

    def test_sets_without_the_user_stay_as_they_are(self, layout, store):
        saved = build(store).save("a")
        file = saved.folder / "rows.parquet"
        before = (file.stat().st_ino, file.read_bytes())
        assert rows_of_users(layout, ["nobody"]) == {}
        assert erase(layout, "nobody") == {}
        assert (file.stat().st_ino, file.read_bytes()) == before
        assert rows_of_users(layout, [ERASED, "u1"]) == {"a": 20}

    def test_a_second_erasure_adds_to_the_first(self, layout, store):
        build(store).save("a")
        assert erase(layout, ERASED, why="one") == {"a": 10}
        assert erase(layout, ERASED, why="one") == {}
        assert erase(layout, "u1", "u2", "u3", why="two") == {"a": 30}
        back = load(store, "a")
        assert [revision["why"] for revision in back.manifest["revisions"]] == ["one", "two"]
        assert back.to_arrow().num_rows == 0
        assert back.manifest["counts"] == {"real": 0, "synthetic": 0}

    def test_no_set_yet_is_nothing_to_erase_from(self, layout):
        assert erase(layout, ERASED) == {}
        assert rows_of_users(layout, [ERASED]) == {}

    def test_a_set_that_was_pulled_before_is_not_saved_after(self, layout, store):
        dataset = build(store)
        with Ledger(layout.database_url) as ledger:
            ledger.begin_erasure([SubjectKey.of(layout).subject(ERASED)], "they asked")
        with pytest.raises(UsageError, match="10 rows of the training set are of users who were"):
            dataset.save("a")
        assert list(layout.training_sets.iterdir()) == []

    def test_what_a_dead_saver_left_goes_too(self, layout, store):
        saved = build(store).save("a")
        shutil.copytree(saved.folder, layout.training_sets / ".b.0123456789abcdef")
        erase(layout, ERASED)
        assert not traces(layout.training_sets, ERASED)

    def test_a_damaged_set_is_named_as_nobody_can_say_whom_it_holds(self, layout, store):
        saved = build(store).save("a")
        (saved.folder / "rows.parquet").write_bytes(b"")
        with pytest.raises(DataError, match="could not read training set 'a'"):
            erase(layout, ERASED)

    def test_an_erasure_that_is_killed_is_finished_by_another(self, layout, store):
        publish(layout, "b1")
        dataset = build(store)
        others = [row for row in dataset.to_arrow().to_pylist() if row["user_id"] != ERASED]
        step = 0
        while True:
            step += 1
            dataset.save("a")
            died = killed_at_step(step, erase, layout, ERASED)
            erase(layout, ERASED)
            assert not traces(layout.training_sets, ERASED)
            back = load(store, "a")
            assert back.to_arrow().to_pylist() == others
            (revision,) = back.manifest["revisions"]
            assert revision["rows_removed"] == 13
            with Ledger(layout.database_url) as ledger:
                assert ledger.pin_of("a").snapshot_id is None
            remove(store, "a")
            if not died:
                break
        assert step > 8


def test_recovering_tells_ledger_and_feast_of_a_set_on_either_database(tmp_path, database_url):
    from scalr_ray.offline_store.saved_datasets import forget_dataset

    layout = write_repo(tmp_path / "repo", database_url)
    store = open_store(layout.repo)
    build(store).save("a")
    forget_dataset(store, "a")
    with Ledger(layout.database_url) as ledger:
        ledger.unpin("a")
    unknown = ["saved, and not pinned", "saved, and not known to Feast"]
    assert recovered(layout.repo, dry_run=True) == unknown
    assert store.list_saved_datasets() == []
    assert recovered(layout.repo) == unknown
    assert recovered(layout.repo) == []
    assert store.get_saved_dataset("a").to_arrow().num_rows == 40
    with Ledger(layout.database_url) as ledger:
        assert [pin.name for pin in ledger.pins()] == ["a"]


def recovered(repo: Path, *, dry_run: bool = False) -> list[str]:
    with Scalr(repo) as scalr:
        return [repair.found for repair in scalr.recover(dry_run=dry_run)]


def test_it_all_works_on_either_database(tmp_path, database_url):
    layout = write_repo(tmp_path / "repo", database_url)
    store = open_store(layout.repo)
    publish(layout, "b1")
    dataset = build(store)
    dataset.save("a")
    publish(layout, "b2")
    with SyntheticEventLake.open(layout, IDS) as lake:
        lake.retire("b1")
    record_batches(layout, "bots", b1=BatchState.RETIRED)
    pin = dataset.manifest["snapshot_id"]
    assert content(build(store, snapshot_id=pin)) == content(load(store, "a"))
    assert erase(layout, ERASED) == {"a": 13}
    assert not traces(layout.training_sets, ERASED)
    assert len(load(store, "a").notes) == 3
    found = store.get_saved_dataset("a").to_arrow()
    assert found.num_rows == load(store, "a").to_arrow().num_rows
    remove(store, "a")
    assert names(store) == []
