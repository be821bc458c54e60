"""Evaluation: did the synthetic events help? Asked of outcomes after the cut, once.

Five arms of the same downstream model, pulled through Feast and ranked over the whole catalogue for
the same users: real events alone, with the synthetic events mixed in, with the same folded in, with
a placebo of the same number and weight drawn from the prior and mixed in, and real events alone of
more weight. The verdict is on what is mixed in, which the trial tried and chose the weight for;
which of the two ways is better is said beside it. Beside the arms stand the rankings of the
translator and of its prior, and recent popularity over several windows: a lift that a shorter
window also gives is no transfer.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.clock import EPOCH
from scalr_ray.core.errors import TooLittleData
from scalr_ray.generate import Coding, plan_users
from scalr_ray.jobs import open_lineage
from scalr_ray.jobs.arms import (
    downstream_arm,
    holdout,
    outcome_codes,
    popularity_arm,
    real_rows,
    trainer_config,
    translator_arm,
    within_share,
)
from scalr_ray.jobs.drawing import draw_placebo, draw_settings, plan_rules
from scalr_ray.jobs.entry import Told, main_of, run_stage
from scalr_ray.jobs.evaluation_result import (
    Subject,
    calibration_of,
    decided,
    popularity_of,
    result_of,
    told_of_lifts,
    volume_of,
)
from scalr_ray.jobs.example_users import example_users
from scalr_ray.jobs.origins import (
    Asked,
    Measured,
    asked_of,
    batches_of,
    left_out,
    measured_at,
    pooled_of,
    refuse_fewer_than_two,
)
from scalr_ray.jobs.reports import told_of_report
from scalr_ray.jobs.surroundings import Surroundings
from scalr_ray.jobs.workspace import TARGET_VIEW, Workspace
from scalr_ray.learn import with_prior_as_of
from scalr_ray.ledger import BatchRecord, BatchState
from scalr_ray.offline_store.pull import pull_outcomes
from scalr_ray.translator import as_prior, load_translator
from training.lift import ArmResult
from training.mixed import Mix, build_mixed_dataset
from training.models import IALSConfig, Popularity, PopularityConfig
from training.report import write_report

_WINDOWS = (14, 30, 90, None)
_SHARES = (0.1, 0.3)  # of the events, beside all of them
_ANY_HISTORY = 1e9  # events it takes until a user's weight has fallen


def evaluate(
    workspace: Workspace, *, out: Path, batch_ids: Sequence[str] = (), command: str = ""
) -> dict[str, Any]:
    """Measure batches on the target events from their cuts on, and write the report into `out`.

    One batch is measured on all that came. Of several, each is an origin, measured on what came up
    to the cut of the next; the verdict is that of all, the rest of the report of the newest.
    A batch that the gate refused is measured too, from its staged rows, so that the refusal can be
    judged; it stays unpublished.

    Args:
        workspace: an opened repository.
        out: folder of `report.html` and `report.json`.
        batch_ids: the batches, in any order; none takes the newest.
        command: what the user called, for the report.

    Returns:
        The content of `report.json`.

    Raises:
        UsageError: there is no such batch, or two have one cut.
        TooLittleData: nobody can be tested; of several batches, at all or all but one. Others at
            which nobody can be are left out, and noted.
    """
    with workspace.run("evaluate") as run:
        origins = asked_of(workspace.ledger, batch_ids)
        if len(origins) == 1:
            subject = _subject(workspace, origins[0])
            result, _ = _measure_closely(workspace, subject)
        else:
            result = _measure_over(workspace, origins)
        result["command"] = command
        result["timings_s"] = {
            name: round(seconds, 3) for name, seconds in workspace.progress.timings_s.items()
        }
        write_report(out, result)
        names = batches_of(result)
        run.metrics.update(told_of_lifts(result))
        run.metrics.update(told_of_report(names, out))
        open_lineage.reads(
            *(open_lineage.batch(workspace.config.project, name) for name in names),
            *workspace.event_folders(),
        )
        open_lineage.writes(open_lineage.folder(out.resolve()))
    return result


def _measure_closely(
    workspace: Workspace, subject: Subject
) -> tuple[dict[str, Any], dict[str, ArmResult]]:
    """All that the report says of one batch, and its arms."""
    progress = workspace.progress
    tables = _pull_arms(workspace, subject)
    arms, volume = _train_arms(workspace, subject, tables, _SHARES)
    with progress.stage("Rank with the translator, its prior and recent popularity"):
        rankers, baselines = _rank(workspace, subject)
    with progress.stage("Paired bootstrap over users and seeds"):
        result = result_of(workspace, subject, arms, rankers, baselines)
        result["volume"] = volume_of(workspace, subject, volume, arms["real_only"])
    result["calibration"] = calibration_of(subject) if subject.ranks else []
    result["examples"] = example_users(workspace, subject, _rows_of(workspace, subject.batch))
    result["popularity"] = popularity_of(subject, tables["synthetic"][0])
    return result, arms


def _measure_over(workspace: Workspace, origins: Sequence[Asked]) -> dict[str, Any]:
    """The verdict over several origins, the newest first; of that one, all that there is to say."""
    result: dict[str, Any] = {}
    measured: list[Measured] = []
    left: list[dict[str, Any]] = []
    for asked in origins:
        workspace.progress.note(asked.title)
        try:
            subject = _subject(workspace, asked)
        except TooLittleData as error:
            left.append(left_out(workspace, asked, error))
            continue
        if measured:
            tables = _pull_arms(workspace, subject)
            arms, _ = _train_arms(workspace, subject, tables)
        else:
            result, arms = _measure_closely(workspace, subject)
        measured.append(measured_at(workspace, asked, subject, arms))
    refuse_fewer_than_two(len(measured), left)
    with workspace.progress.stage("Put the origins together"):
        return pooled_of(workspace, result, measured, left)


def _subject(workspace: Workspace, asked: Asked) -> Subject:
    batch = asked.batch
    record = workspace.ledger.translator(batch.translator_version)
    with workspace.progress.stage("Pull what was visible, and the outcomes, through Feast"):
        events = workspace.training_events(batch.as_of)
        outcomes = pull_outcomes(workspace.store, TARGET_VIEW, start=batch.as_of, end=asked.until)
    outcomes = outcomes.filter(pc.equal(outcomes["domain"], workspace.config.domains.target))
    test = holdout(events, *outcome_codes(outcomes, events.users, events.target_items))
    sizes = test.sizes
    workspace.progress.note(
        f"{sizes['all']:,} test users: {sizes['hidden']:,} without target history, "
        f"{sizes['warm']:,} warm; {int(test.rankable.sum()):,} items ranked"
    )
    return Subject(
        batch=batch,
        record=record,
        translator=with_prior_as_of(load_translator(Path(record.path)), events, batch.as_of),
        events=events,
        test=test,
        users=events.known(test.users, batch.as_of, workspace.features_for(record.kind, "user_id")),
    )


def _pull_arms(workspace: Workspace, subject: Subject) -> dict[str, list[pa.Table]]:
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
    return {
        "real_only": [real] * seeds,
        "synthetic": [synthetic] * seeds,
        "placebo": placebo,
        "upsampled": [_as_heavy_as(real, synthetic)] * seeds,
    }


def _as_heavy_as(real: pa.Table, mixed: pa.Table) -> pa.Table:
    """The real rows, their weights raised such that all of them weigh what the mixed ones do."""
    weight = real["sample_weight"]
    heavier = pc.divide(pc.sum(mixed["sample_weight"]), pc.sum(weight))
    at = real.schema.get_field_index("sample_weight")
    return real.set_column(at, real.schema.field(at), pc.multiply(weight, heavier))


def _pull(
    workspace: Workspace,
    subject: Subject,
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


def _pull_synthetic(workspace: Workspace, subject: Subject) -> pa.Table:
    batch = subject.batch
    if batch.rows == 0:
        return _pull(workspace, subject, "real_only_v1")
    if batch.state is BatchState.PUBLISHED:
        mix = Mix(batch_ids=(batch.batch_id,))
        return _pull(workspace, subject, "mixed_training_v1", mix=mix)
    staged = _rows_of(workspace, batch)
    return _pull(workspace, subject, "mixed_training_v1", trial=staged)


def _on_ranked(rows: pa.Table, subject: Subject) -> pa.Table:
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


def _placebo(workspace: Workspace, subject: Subject, synthetic: pa.Table, seed: int) -> pa.Table:
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


def _thinned(mixed: pa.Table, share: float) -> pa.Table:
    """The real rows, and a share of the synthetic ones."""
    kept = within_share(mixed["event_id"].combine_chunks(), share)
    return mixed.filter(pc.or_(pc.invert(mixed["is_synthetic"]), kept))


def _train_arms(
    workspace: Workspace,
    subject: Subject,
    tables: Mapping[str, list[pa.Table]],
    shares: Sequence[float] = (),
) -> tuple[dict[str, ArmResult], dict[int, ArmResult]]:
    """The arms by name, and those with a share of the synthetic events, mixed in, by how many."""
    config = workspace.config
    prior_weight = subject.record.metrics.get("prior_weight", IALSConfig.prior_weight)
    settings = trainer_config(
        subject.batch.as_of, subject.translator.mix, prior_weight=prior_weight
    )
    # The same rows by the other way in.
    folded_in = replace(settings, synthetic="fold-in")
    recipes = [(name, seeds, settings) for name, seeds in tables.items()]
    recipes.append(("folded_in", tables["synthetic"], folded_in))
    fewer = [[_thinned(seed, share) for seed in tables["synthetic"]] for share in shares]

    def trained(seeds: list[pa.Table], how: IALSConfig) -> ArmResult:
        arm = downstream_arm(seeds, how, subject.events, subject.test, config.evaluation.k)
        advance(1)
        return arm

    title = "Train the downstream model: real only, + synthetic, + placebo, upsampled, folded in"
    with workspace.progress.stage(title, total=len(recipes) + len(fewer)) as advance:
        arms = {name: trained(seeds, how) for name, seeds, how in recipes}
        volume = {_drawn(seeds[0]): trained(seeds, settings) for seeds in fewer}
    return arms, {**volume, _drawn(tables["synthetic"][0]): arms["synthetic"]}


def _drawn(mixed: pa.Table) -> int:
    """How many of the rows are synthetic."""
    return int(pc.sum(mixed["is_synthetic"]).as_py() or 0)


def _rank(
    workspace: Workspace, subject: Subject
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


def _job(workspace: Workspace, batches: Sequence[str], out: Path, *, decide: bool) -> Told:
    """Measure batches (default: the newest) on the events after their cuts; write a report."""
    result = evaluate(workspace, out=out, batch_ids=batches, command=shlex.join(sys.argv))
    sentence = f"{result['verdict']}: {result['sentence']} Report: {out / 'report.html'}"
    return Told(record=result, sentence=sentence, refused=decide and not decided(result))


main = main_of("evaluate", _job)

if __name__ == "__main__":
    run_stage("evaluate")
