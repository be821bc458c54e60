"""Which translator a scheduled run uses: the newest of its configuration, for so many days."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta

import pytest
from lake_rows import NOON
from quick_repos import quick_repo

from scalr_ray.jobs.increment import NOTHING_CAME, translator_in_use
from scalr_ray.jobs.news import published_as_of
from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.ledger import BatchState

DAY = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Bench:
    workspace: Workspace

    def trained(self, name: str, cutoff=NOON, *, transfers=True, config=None) -> str:
        """Record a translator; `config` stands for another configuration."""
        ours = self.workspace.config
        fingerprint = ours.fingerprint if config is None else config
        with self.workspace.ledger.running("train", ours.model_dump(mode="json"), "f", 0) as run:
            self.workspace.ledger.add_translator(
                version=name,
                run_id=run.run_id,
                kind="frequency",
                train_cutoff=cutoff,
                config_fingerprint=fingerprint,
                data_fingerprint="0" * 64,
                metrics={"transfers": transfers},
                path="nowhere",
            )
        return name

    def drawn(self, name: str, state: BatchState, reason: str | None = None, as_of=NOON) -> None:
        """Record a batch of a translator that came as far as `state`."""
        ledger, batch_id = self.workspace.ledger, f"batch-of-{name}"
        with ledger.running("generate", {}, "f", 0) as run:
            ledger.add_batch(
                batch_id=batch_id, run_id=run.run_id, translator_version=name, as_of=as_of, rows=1
            )
        to = BatchState.REJECTED if state is BatchState.REJECTED else BatchState.ACCEPTED
        ledger.judge_batch(batch_id, findings=[], to=to, reason=reason)
        if state is BatchState.PUBLISHED:
            ledger.move_batch(batch_id, expected=BatchState.ACCEPTED, to=state)

    def used(self, as_of) -> str | None:
        found = translator_in_use(self.workspace, published_as_of(self.workspace, as_of), as_of)
        return None if found is None else found.version


@pytest.fixture
def bench(tmp_path) -> Iterator[Bench]:
    with closing(Workspace(quick_repo(tmp_path), (), Progress())) as workspace:
        yield Bench(workspace=workspace)


def test_without_any_one_must_be_trained(bench):
    assert bench.used(NOON) is None


def test_one_that_nobody_has_drawn_with_yet_is_used_until_it_is_due(bench):
    bench.trained("by-hand")
    assert bench.used(NOON - DAY) is None  # nobody can have known it then
    assert bench.used(NOON) == "by-hand"
    assert bench.used(NOON + 7 * DAY - timedelta(microseconds=1)) == "by-hand"
    assert bench.used(NOON + 7 * DAY) is None


def test_the_newest_is_used_whether_published_or_not(bench):
    bench.trained("published", NOON)
    bench.drawn("published", BatchState.PUBLISHED)
    assert bench.used(NOON + DAY) == "published"
    bench.trained("older", NOON - DAY)
    assert bench.used(NOON + DAY) == "published"
    bench.trained("newer", NOON + DAY)
    assert bench.used(NOON + DAY) == "newer"


def test_another_configuration_does_not_count_unless_it_was_published(bench):
    bench.trained("published", NOON, config="of another gate")
    bench.trained("other", NOON + DAY, config="of another gate")
    assert bench.used(NOON + DAY) is None
    bench.drawn("published", BatchState.PUBLISHED)
    assert bench.used(NOON + DAY) == "published"


def test_what_may_not_be_used_or_does_not_transfer_is_passed_over(bench):
    bench.trained("flagged", NOON)
    bench.trained("useless", NOON + DAY, transfers=False)
    assert bench.used(NOON + DAY) == "flagged"
    bench.workspace.ledger.flag_translator("flagged", "its users were erased")
    assert bench.used(NOON + DAY) is None


def test_one_whose_batch_was_refused_is_not_tried_again(bench):
    bench.trained("refused")
    bench.drawn("refused", BatchState.REJECTED, "trial_gain: nothing gained")
    assert bench.used(NOON + DAY) is None
    bench.trained("idle")
    bench.drawn("idle", BatchState.REJECTED, NOTHING_CAME)
    assert bench.used(NOON + DAY) == "idle"
