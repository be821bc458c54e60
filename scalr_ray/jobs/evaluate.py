"""Evaluation: did the synthetic events help? Asked of outcomes after the cut, once.

Four arms of the same downstream model, pulled through Feast and ranked over the whole catalogue for
the same users: real events alone, with the synthetic events mixed in, with the same folded in, with
a placebo of the same number and weight drawn from the prior and mixed in. The verdict is on what is
mixed in, which the trial tried and chose the weight for; which of the two ways is better is said
beside it. Beside the arms stand the rankings of the translator and of its prior, and recent
popularity over several windows: a lift that a shorter window also gives is no transfer.
"""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.core.clock import EPOCH
from scalr_ray.core.errors import UsageError
from scalr_ray.generate import Coding, plan_users, vocabulary_fingerprint
from scalr_ray.jobs import open_lineage
from scalr_ray.jobs.arms import (
    Holdout,
    chunks,
    downstream_arm,
    holdout,
    outcome_codes,
    popularity_arm,
    real_rows,
    trainer_config,
    translator_arm,
)
from scalr_ray.jobs.drawing import draw_placebo, draw_settings, plan_rules
from scalr_ray.jobs.entry import Told, main_of, run_stage
from scalr_ray.jobs.reports import told_of_report
from scalr_ray.jobs.surroundings import Surroundings
from scalr_ray.jobs.workspace import TARGET_VIEW, Workspace
from scalr_ray.learn import TrainingEvents, with_prior_as_of
from scalr_ray.ledger import BatchRecord, BatchState, TranslatorRecord
from scalr_ray.offline_store.pull import pull_outcomes
from scalr_ray.translator import Translator, Users, as_prior, load_translator, log_likelihood
from training.lift import ArmResult, judge, lifts_to_json, paired_lift, summarise
from training.mixed import Mix, build_mixed_dataset
from training.models import Popularity, PopularityConfig
from training.report import write_report
from training.verdict import ndcg_of
from training.ways import better_way

_WINDOWS = (14, 30, 90, None)
_ANY_HISTORY = 1e9  # events it takes until a user's weight has fallen
_CALIBRATION_EDGES = np.logspace(-7, 0, 15)
_LIFTS_KEPT = {
    "mixed_in_over_real": "lift",
    "folded_in_over_real": "lift_folded_over_real",
    "folded_in_over_mixed_in": "lift_folded_over_rows",
}
_PACKAGES = ("scalr", "feast", "ray", "duckdb", "pyarrow", "pyiceberg", "numpy", "scipy")


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is evaluated, and on whom."""

    batch: BatchRecord
    record: TranslatorRecord
    translator: Translator
    events: TrainingEvents
    test: Holdout
    users: Users

    @property
    def ranks(self) -> bool:
        """Whether the translator knows the same items; an increment's may be older than they."""
        codes = Coding.of(self.translator).fingerprint
        return codes == vocabulary_fingerprint(self.events.source_items, self.events.target_items)


def evaluate(
    workspace: Workspace, *, out: Path, batch_id: str | None = None, command: str = ""
) -> dict[str, Any]:
    """Measure a batch on the target events from its cut on, and write the report into `out`.

    A batch that the gate refused is measured too, from its staged rows, so that the refusal can be
    judged; it stays unpublished.

    Args:
        workspace: an opened repository.
        out: folder of `report.html` and `report.json`.
        batch_id: the batch; None takes the newest.
        command: what the user called, for the report.

    Returns:
        The content of `report.json`.

    Raises:
        UsageError: there is no batch.
        DataError: there are no outcomes to measure on.
    """
    progress = workspace.progress
    with workspace.run("evaluate") as run:
        subject = _subject(workspace, batch_id)
        tables = _pull_arms(workspace, subject)
        arms = _train_arms(workspace, subject, tables)
        with progress.stage("Rank with the translator, its prior and recent popularity"):
            rankers, baselines = _rank(workspace, subject)
        with progress.stage("Paired bootstrap over users and seeds"):
            result = _result(workspace, subject, arms, rankers, baselines)
        result["calibration"] = _calibration(subject) if subject.ranks else []
        result["popularity"] = _popularity(subject, tables["synthetic"][0])
        result["command"] = command
        result["timings_s"] = {
            name: round(seconds, 3) for name, seconds in progress.timings_s.items()
        }
        write_report(out, result)
        run.metrics.update(_told_of_ways(result))
        run.metrics.update(told_of_report(subject.batch.batch_id, out))
        open_lineage.reads(
            open_lineage.batch(workspace.config.project, subject.batch.batch_id),
            *workspace.event_folders(),
        )
        open_lineage.writes(open_lineage.folder(out.resolve()))
    return result


def _subject(workspace: Workspace, batch_id: str | None) -> _Subject:
    ledger = workspace.ledger
    batch = ledger.latest_batch() if batch_id is None else ledger.batch(batch_id)
    if batch is None:
        raise UsageError("there is no batch to evaluate; run `scalr run` first")
    record = ledger.translator(batch.translator_version)
    with workspace.progress.stage("Pull what was visible, and the outcomes, through Feast"):
        events = workspace.training_events(batch.as_of)
        outcomes = pull_outcomes(workspace.store, TARGET_VIEW, start=batch.as_of)
    outcomes = outcomes.filter(pc.equal(outcomes["domain"], workspace.config.domains.target))
    test = holdout(events, *outcome_codes(outcomes, events.users, events.target_items))
    sizes = test.sizes
    workspace.progress.note(
        f"{sizes['all']:,} test users: {sizes['hidden']:,} without target history, "
        f"{sizes['warm']:,} warm; {int(test.rankable.sum()):,} items ranked"
    )
    return _Subject(
        batch=batch,
        record=record,
        translator=with_prior_as_of(load_translator(Path(record.path)), events, batch.as_of),
        events=events,
        test=test,
        users=events.known(test.users, batch.as_of, workspace.features_for(record.kind, "user_id")),
    )


def _pull_arms(workspace: Workspace, subject: _Subject) -> dict[str, list[pa.Table]]:
    """One training set per seed and arm; only the placebo is drawn anew for each seed."""
    seeds = workspace.config.evaluation.seeds
    title = "Pull the training sets of the arms through Feast"
    with workspace.progress.stage(title, total=2 + seeds) as advance:
        real = _pull(workspace, subject, "real_only_v1")
        advance(1)
        synthetic = _on_ranked(_pull_synthetic(workspace, subject), subject)
        advance(1)
        placebo, batch = [], _on_ranked(_rows_of(workspace, subject.batch), subject)
        for seed in range(seeds):
            drawn = _placebo(workspace, subject, batch, seed)
            placebo.append(_pull(workspace, subject, "mixed_training_v1", trial=drawn))
            advance(1)
    return {"real_only": [real] * seeds, "synthetic": [synthetic] * seeds, "placebo": placebo}


def _pull(
    workspace: Workspace,
    subject: _Subject,
    service: str,
    *,
    mix: Mix | None = None,
    trial: pa.Table | None = None,
) -> pa.Table:
    cut = subject.batch.as_of
    dataset = build_mixed_dataset(
        workspace.store,
        service=service,
        start=EPOCH,
        end=cut,
        as_of=cut,
        mix=mix or Mix(),
        trial=trial,
    )
    return dataset.to_arrow()


def _pull_synthetic(workspace: Workspace, subject: _Subject) -> pa.Table:
    batch = subject.batch
    if batch.rows == 0:
        return _pull(workspace, subject, "real_only_v1")
    if batch.state is BatchState.PUBLISHED:
        mix = Mix(batch_ids=(batch.batch_id,))
        return _pull(workspace, subject, "mixed_training_v1", mix=mix)
    staged = _rows_of(workspace, batch)
    return _pull(workspace, subject, "mixed_training_v1", trial=staged)


def _on_ranked(rows: pa.Table, subject: _Subject) -> pa.Table:
    """The rows without those on items that nobody had touched by the cut: no arm can rank them."""
    return rows.filter(pc.is_in(rows["item_id"], value_set=subject.events.target_items.ids))


def _rows_of(workspace: Workspace, batch: BatchRecord) -> pa.Table:
    lake = workspace.lake
    if batch.rows == 0:
        return workspace.schema.empty_table()
    if batch.state is BatchState.PUBLISHED:
        return lake.read(batch_ids=[batch.batch_id])
    if batch.state is BatchState.RETIRED:
        return lake.read(snapshot_id=batch.snapshot_id, batch_ids=[batch.batch_id])
    return lake.read_staged(batch.batch_id)


def _placebo(workspace: Workspace, subject: _Subject, synthetic: pa.Table, seed: int) -> pa.Table:
    """As many events for the same users, of the same weight, drawn from the prior."""
    config, as_of = workspace.config, subject.batch.as_of
    label = f"placebo-{seed}"
    settings = draw_settings(
        config, batch_id=label, version=subject.record.version, as_of=as_of, label=label
    )
    # How many a user gets comes from the batch, so everybody is planned for.
    rules = plan_rules(config, as_of, decay_events=_ANY_HISTORY)
    plan = plan_users(subject.events, rules, coding=Coding.of(subject.translator))
    around = Surroundings.of(workspace, subject.translator, as_of)
    return draw_placebo(
        synthetic,
        around.admit(plan, as_of),
        subject.translator,
        settings,
        workspace.schema,
        around.catalogue,
    )


def _train_arms(
    workspace: Workspace, subject: _Subject, tables: Mapping[str, list[pa.Table]]
) -> dict[str, ArmResult]:
    config = workspace.config
    settings = trainer_config(
        subject.batch.as_of,
        window_days=subject.record.metrics["window_days"],
        background=config.prior.background,
    )
    # The same rows by the other way in.
    folded_in = replace(settings, synthetic="fold-in")
    recipes = {name: (seeds, settings) for name, seeds in tables.items()}
    recipes["folded_in"] = (tables["synthetic"], folded_in)
    arms = {}
    title = "Train the downstream model: real only, + synthetic, + placebo, folded in"
    with workspace.progress.stage(title, total=len(recipes)) as advance:
        for name, (seeds, how) in recipes.items():
            arms[name] = downstream_arm(
                seeds, how, subject.events, subject.test, config.evaluation.k
            )
            advance(1)
    return arms


def _rank(
    workspace: Workspace, subject: _Subject
) -> tuple[dict[str, ArmResult], dict[str, ArmResult]]:
    k, prior = workspace.config.evaluation.k, workspace.config.prior
    rankers = (
        {}
        if not subject.ranks
        else {
            name: translator_arm(model, subject.users, subject.test, k)
            for name, model in (
                ("prior", as_prior(subject.translator)),
                ("translator", subject.translator),
            )
        }
    )
    baselines = {}
    for days in _WINDOWS:
        config = PopularityConfig(
            as_of=subject.batch.as_of, window_days=days, background=prior.background
        )
        name = "popularity_all_time" if days is None else f"popularity_{days}d"
        baselines[name] = popularity_arm(
            Popularity(config), real_rows(subject.events), subject.events, subject.test, k
        )
    return rankers, baselines


def _result(
    workspace: Workspace,
    subject: _Subject,
    arms: dict[str, ArmResult],
    rankers: dict[str, ArmResult],
    baselines: dict[str, ArmResult],
) -> dict[str, Any]:
    config, segments = workspace.config, subject.test.segments

    def lift(treated: ArmResult, control: ArmResult) -> Any:  # noqa: ANN401 - nested dicts
        return paired_lift(
            treated,
            control,
            segments,
            bootstrap=config.evaluation.bootstrap,
            seed=config.seed,
        )

    over_real = lift(arms["synthetic"], arms["real_only"])
    over_placebo = lift(arms["synthetic"], arms["placebo"])
    folded_over_rows = lift(arms["folded_in"], arms["synthetic"])
    verdict, sentence = judge(over_real, over_placebo, users=subject.test.sizes)
    way, compared = better_way(folded_over_rows, users=subject.test.sizes)
    sentence = f"{sentence} {compared}"
    batch = subject.batch
    published = batch.state is BatchState.PUBLISHED
    return {
        "verdict": verdict.value,
        "sentence": sentence if published else f"Nothing was published. Had it been: {sentence}",
        "better_way": way.value,
        "published": published,
        "cautions": _cautions(arms, baselines),
        "arms": {name: summarise(arm, segments) for name, arm in arms.items()},
        "rankers": {name: summarise(arm, segments) for name, arm in rankers.items()},
        "baselines": {name: summarise(arm, segments) for name, arm in baselines.items()},
        "lift": lifts_to_json(over_real),
        "lift_over_placebo": lifts_to_json(over_placebo),
        "lift_placebo_over_real": lifts_to_json(lift(arms["placebo"], arms["real_only"])),
        "lift_folded_over_real": lifts_to_json(lift(arms["folded_in"], arms["real_only"])),
        "lift_folded_over_rows": lifts_to_json(folded_over_rows),
        "lift_over_prior": lifts_to_json(lift(rankers["translator"], rankers["prior"]))
        if rankers
        else {},
        "gate": [
            {
                "check": check.check,
                "passed": check.passed,
                "value": check.value,
                "threshold": check.threshold,
                "detail": check.detail,
            }
            for check in workspace.ledger.verdicts(batch.batch_id)
        ],
        "counts": _counts(subject),
        "versions": _versions(),
        "config_fingerprint": config.fingerprint,
        "as_of": _iso(batch.as_of),
        "batch_id": batch.batch_id,
        "translator": dict(subject.record.metrics),
    }


def _told_of_ways(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the run keeps: verdict, better way, and the lifts of NDCG behind them, by segment."""
    return {
        "verdict": result["verdict"],
        "better_way": result["better_way"],
        "ndcg_lift": {
            name: {segment: ndcg_of(metrics) for segment, metrics in result[lift].items()}
            for name, lift in _LIFTS_KEPT.items()
        },
    }


def _cautions(arms: dict[str, ArmResult], baselines: dict[str, ArmResult]) -> list[str]:
    best = max(baselines, key=lambda name: float(baselines[name].ndcg.mean()))
    strongest = float(baselines[best].ndcg.mean())
    reached = float(arms["synthetic"].ndcg.mean())
    if strongest <= reached:
        return []
    window = best.removeprefix("popularity_").replace("_", " ")
    caution = (
        f"Popularity alone ({window}) ranks better, NDCG {strongest:.4f}, than the downstream "
        f"model with synthetic events, {reached:.4f}. Recency, not cross-domain data, is the first "
        "thing to mend here: set prior.window_days and train again."
    )
    return [caution]


def _counts(subject: _Subject) -> dict[str, Any]:
    events, test = subject.events, subject.test
    return {
        "users": len(events.users),
        "source_items": len(events.source_items),
        "target_items": len(events.target_items),
        "source_events": len(events.source),
        "target_events": len(events.target),
        "synthetic_events": subject.batch.rows,
        "ranked_items": int(test.rankable.sum()),
        **{f"test_users_{name}": size for name, size in test.sizes.items()},
    }


def _calibration(subject: _Subject) -> list[dict[str, float]]:
    """Predicted against observed probability that a test event falls on an item, by bin.

    The likelihood is that of the next target item, so a user with n test events is expected to hit
    a bin n times the likelihood in it.
    """
    bins = len(_CALIBRATION_EDGES) + 1
    mass, hits, pairs = np.zeros(bins), np.zeros(bins), np.zeros(bins)
    for part in chunks(len(subject.test.users)):
        relevant = subject.test.relevant[part]
        about = subject.users.part(part.start, part.stop)
        p = np.exp(log_likelihood(subject.translator, about)).astype(np.float64)
        bucket = np.digitize(p, _CALIBRATION_EDGES)
        events = np.broadcast_to(np.diff(relevant.indptr)[:, None], p.shape)
        mass += np.bincount(bucket.ravel(), weights=(events * p).ravel(), minlength=bins)
        pairs += np.bincount(bucket.ravel(), weights=events.ravel(), minlength=bins)
        hit = relevant.tocoo()
        hits += np.bincount(bucket[hit.row, hit.col], minlength=bins)
    return [
        {"predicted": m / n, "observed": h / n, "count": n}
        for m, h, n in zip(mass, hits, pairs, strict=True)
        if n > 0 and m > 0
    ]


def _popularity(subject: _Subject, synthetic: pa.Table) -> dict[str, list[int]]:
    drawn = synthetic.filter(synthetic["is_synthetic"])
    return {
        "real": _ranked_counts(subject.events.target.items),
        "synthetic": _ranked_counts(subject.events.target_items.codes(drawn["item_id"])),
    }


def _ranked_counts(items: NDArray[np.int64]) -> list[int]:
    counts = np.bincount(items[items >= 0])
    return [int(count) for count in np.sort(counts[counts > 0])[::-1]]


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _iso(moment: datetime) -> str:
    return moment.isoformat()


def _job(workspace: Workspace, batch: str | None, out: Path) -> Told:
    """Measure a batch (default: the newest) on the events after its cut; write a report."""
    result = evaluate(workspace, out=out, batch_id=batch, command=shlex.join(sys.argv))
    sentence = f"{result['verdict']}: {result['sentence']} Report: {out / 'report.html'}"
    return Told(record=result, sentence=sentence)


main = main_of("evaluate", _job)

if __name__ == "__main__":
    run_stage("evaluate")
