"""The demo: from an event log, or a simulated world, to a published batch and a measured lift.

It works in a folder of its own: a copy of the definitions under `feature_repo/`, with its data, and
the report. Nothing outside the folder is touched, and a folder that it did not make is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from scalr_ray.core.config import CONFIG_NAME, IdTypes, ScalrConfig, load_config
from scalr_ray.core.errors import ConfigError, UsageError
from scalr_ray.core.layout import Layout
from scalr_ray.ingest import EventLog, infer_ids, read_event_log, target_cut, withhold
from scalr_ray.jobs.demo_upkeep import keep_and_take_back
from scalr_ray.jobs.evaluate import evaluate
from scalr_ray.jobs.generate import generate
from scalr_ray.jobs.ingest import apply, import_events
from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.release import gate, publish
from scalr_ray.jobs.train import train
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.simulate import World, WorldConfig
from training.report import write_report

_MARKER = ".scalr-demo"
_FEAST_CONFIG = "feature_store.yaml"
_RELATIVE_REGISTRY = "sqlite:///data/scalr.db"


@dataclass(frozen=True, kw_only=True)
class DemoInput:
    """Where the events of a demo come from.

    Attributes:
        events: an event log; None simulates a world.
        source: source domains of the log.
        target: target domain of the log.
        columns: our column name to the log's.
        null_world: simulate a world in which nothing transfers.
    """

    events: Path | None = None
    source: tuple[str, ...] = ("source",)
    target: str = "target"
    columns: Mapping[str, str] = field(default_factory=dict)
    null_world: bool = False


def run_demo(
    given: DemoInput,
    *,
    out: Path,
    overrides: Sequence[str],
    progress: Progress,
    command: str,
) -> dict[str, Any]:
    """Run the whole path and write `report.html` and `report.json` into `out`.

    Half of the users of a real log have their target history hidden (odd ids), so that there is
    somebody to help and a truth to hold it against; a simulated world has newcomers of its own.

    Returns:
        The content of `report.json`.

    Raises:
        UsageError: `out` holds something else, or the input does not fit.
    """
    _refuse_foreign(out, given.events)
    if given.events is None:
        world = _world(given, _config([*_fitted(given, IdTypes()), *overrides]))
        _empty(out)
        file = _simulate(world, out, progress)
        log, settings = _read(file, given, overrides, progress)
    else:
        # An earlier demo gives way only to input that has been judged.
        log, settings = _read(given.events, given, overrides, progress)
        _empty(out)
    repo = _make_repository(out, _config(settings))
    workspace = Workspace(repo, settings, progress)
    try:
        return _run(workspace, given, log, out, command)
    finally:
        workspace.close()


def _read(
    file: Path, given: DemoInput, overrides: Sequence[str], progress: Progress
) -> tuple[EventLog, list[str]]:
    """The log, checked, and the settings: what fits the input, then the overrides."""
    ids = infer_ids(file, given.columns)
    settings = [*_fitted(given, ids), *overrides]
    _config(settings)
    with progress.stage(f"Read and check {file.name}"):
        log = read_event_log(
            file, ids=ids, source=given.source, target=given.target, columns=given.columns
        )
    progress.note(f"{log.events.num_rows:,} events, {log.refused.num_rows:,} rows set aside")
    return log, settings


def _run(
    workspace: Workspace, given: DemoInput, log: EventLog, out: Path, command: str
) -> dict[str, Any]:
    evaluation, progress = workspace.config.evaluation, workspace.progress
    validation_cut, cut = (
        target_cut(log, given.target, quantile)
        for quantile in (evaluation.validation_quantile, evaluation.test_quantile)
    )
    kept, withheld = withhold(
        log, before=cut, hide_users=evaluation.hide_users, target=given.target
    )
    progress.note(
        f"as of {cut:%Y-%m-%d}; {withheld.num_rows:,} earlier target events of hidden users "
        "are kept out of the store"
    )
    import_events(workspace, kept, snapshots_at=[validation_cut, cut])
    apply(workspace)
    train(workspace, as_of=cut, validation_cut=validation_cut)
    batch = generate(workspace).record
    audited = gate(workspace, batch_id=batch.batch_id)
    if audited.accepted:
        publish(workspace, batch_id=batch.batch_id)
        progress.note(f"{batch.batch_id} is published: {batch.rows:,} synthetic events")
    else:
        progress.note(f"the gate refused {batch.batch_id}: {audited.record.reason}")
    result = evaluate(workspace, out=out, batch_ids=[batch.batch_id], command=command)
    if audited.accepted:
        result["upkeep"] = keep_and_take_back(workspace, batch)
        write_report(out, result)
    return result


def _refuse_foreign(out: Path, events: Path | None) -> None:
    """A folder of an earlier demo may be replaced; anything else, and the input, may not."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / _MARKER).exists():
        raise UsageError(f"{out} is not empty and was not made by scalr demo; choose another --out")
    if events is not None and events.resolve().is_relative_to(out.resolve()):
        raise UsageError(
            f"{events} lies in {out}, which is emptied; move it, or choose another --out"
        )


def _empty(out: Path) -> None:
    if out.is_dir():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARKER).write_text("made by scalr demo; a rerun replaces this folder\n")


def _world(given: DemoInput, config: ScalrConfig) -> WorldConfig:
    world = WorldConfig(seed=config.seed, source_domains=given.source, target_domain=given.target)
    return replace(world, transfer=0.0) if given.null_world else world


def _simulate(world: WorldConfig, out: Path, progress: Progress) -> Path:
    with progress.stage("Simulate a world" + ("" if world.transfer else " without transfer")):
        file = out / "events.parquet"
        pq.write_table(World.generate(world).events, file)
    return file


def _fitted(given: DemoInput, ids: IdTypes) -> list[str]:
    """What the input says about the settings."""
    return [
        f"domains={yaml.safe_dump({'source': list(given.source), 'target': given.target})}",
        f"evaluation.hide_users={'none' if given.events is None else 'odd'}",
        *(f"ids.{name}={kind}" for name, kind in ids.model_dump().items()),
    ]


def _config(settings: Sequence[str]) -> ScalrConfig:
    """The defaults under the settings.

    Raises:
        ConfigError: a setting is wrong, or moves the data out of the demo's folder.
    """
    config = load_config(_definitions() / CONFIG_NAME, settings)
    if config.data_dir != ScalrConfig().data_dir:
        raise ConfigError("a demo keeps its data in --out; leave data_dir as it is")
    return config


def _definitions() -> Path:
    """The folder of the installed definitions, found without importing them (they need Feast)."""
    spec = find_spec("feature_repo")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError("the feature definitions are not installed; install the package again")
    return Path(spec.submodule_search_locations[0])


def _make_repository(out: Path, config: ScalrConfig) -> Path:
    """A copy of the definitions that works from any directory."""
    repo = out / "feature_repo"
    shutil.copytree(
        _definitions(), repo, ignore=shutil.ignore_patterns("data", "__pycache__", ".*")
    )
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (repo / CONFIG_NAME).write_text(text, encoding="utf-8")
    layout = Layout.of(repo, config)
    layout.data.mkdir(parents=True)
    feast = repo / _FEAST_CONFIG
    feast.write_text(
        feast.read_text(encoding="utf-8").replace(_RELATIVE_REGISTRY, layout.database_url),
        encoding="utf-8",
    )
    return repo
