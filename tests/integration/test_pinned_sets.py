"""Training sets that are pulled at a pin, while the lake under them goes on."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from marks import OPENS_FEAST
from pulled_sets import (  # noqa: F401 - the fixtures
    IDS,
    batches,
    build,
    content,
    layout_fixture,
    open_store,
    publish,
    repo_fixture,
    rows_of,
    store_fixture,
    stores_are_closed,
    template_fixture,
)

from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import event_schema
from scalr_ray.lake import SyntheticEventLake
from training import Mix

pytestmark = OPENS_FEAST


class TestPinned:
    def test_a_pull_at_a_pin_gives_the_same_bytes_whatever_the_lake_does(self, layout, store):
        publish(layout, "b1", "b2")
        first = build(store)
        pin = first.manifest["snapshot_id"]
        assert batches(first) == {"b1", "b2"}
        publish(layout, *(f"c{number}" for number in range(8)))
        with SyntheticEventLake.open(layout, IDS) as lake:
            lake.retire("b1")
            assert lake.compact() is not None
        again = build(open_store(layout.repo), snapshot_id=pin)
        assert content(again) == content(first)
        assert again.manifest == first.manifest
        newest = build(store)
        assert batches(newest) == {"b2", *(f"c{number}" for number in range(8))}
        assert newest.manifest["snapshot_id"] != pin

    def test_the_store_of_the_caller_is_left_as_it_is(self, layout, store):
        publish(layout, "b1")
        config, provider = store.config, store.provider
        build(store)
        assert store.config is config
        assert store.provider is provider
        assert config.offline_store.snapshots == {}

    def test_all_reads_of_one_pull_are_of_one_snapshot(self, layout, store, monkeypatch):
        from training import mixed

        publish(layout, "b1")
        select = mixed.pull

        def publish_in_between(*arguments):
            if (found := select(*arguments)) is not None and arguments[1] == "target_events":
                publish(layout, "late")
                with SyntheticEventLake.open(layout, IDS) as lake:
                    lake.retire("b1")
            return found

        monkeypatch.setattr(mixed, "pull", publish_in_between)
        dataset = build(store)
        assert batches(dataset) == {"b1"}
        monkeypatch.undo()
        assert batches(build(store)) == {"late"}

    def test_before_the_first_publication_there_are_no_synthetic_rows(
        self, layout, store, monkeypatch
    ):
        from training import mixed

        select = mixed.pull

        def publish_in_between(*arguments):
            publish(layout, "b1")
            return select(*arguments)

        monkeypatch.setattr(mixed, "pull", publish_in_between)
        first = build(store)
        assert (batches(first), first.manifest["snapshot_id"]) == (set(), None)
        monkeypatch.undo()
        assert batches(build(store)) == {"b1"}
        assert content(build(store, snapshot_id=None)) == content(first)
        with pytest.raises(DataError, match="b1 has no published event"):
            build(store, snapshot_id=None, mix=Mix(batch_ids=("b1",)))

    def test_a_pin_of_the_session_counts_for_the_newest(self, layout, store):
        publish(layout, "b1")
        pin = build(store).manifest["snapshot_id"]
        publish(layout, "b2")
        store.config.offline_store.snapshots["synthetic_events_source"] = pin
        assert batches(build(store)) == {"b1"}
        assert build(store).manifest["snapshot_id"] == pin

    def test_a_snapshot_that_is_not_there_is_named(self, layout, store):
        publish(layout, "b1")
        with pytest.raises(DataError, match="no snapshot 17, or it has expired"):
            build(store, snapshot_id=17)

    def test_a_trial_reads_no_snapshot(self, layout, store):
        publish(layout, "b1")
        dataset = build(store, trial=rows_of("b9"))
        assert dataset.manifest["snapshot_id"] is None
        with pytest.raises(UsageError, match="trial or snapshot_id"):
            build(store, trial=rows_of("b9"), snapshot_id=5)

    def test_the_manifest_tells_the_files_of_real_events_apart(self, layout, store):
        first = build(store).manifest
        assert first["config"]["seed"] == 0
        part = layout.events("target_events") / "part-0.parquet"
        rows = pq.read_table(part).slice(0, 1).set_column(0, "event_id", pa.array(["r99"]))
        pq.write_table(
            rows.cast(event_schema("string", "string")), part.with_name("part-1.parquet")
        )
        second = build(store).manifest
        changed = {view for view, known in first["files"].items() if known != second["files"][view]}
        assert changed == {"target_events"}
