"""`python -m training.train`: train a downstream ranker on a mixed training set, and keep it.

    python -m training.train --model two-tower --repo feature_repo --saved ctr --out ctr.safetensors
    python -m training.train --model two-tower --repo feature_repo --saved ctr --out ctr.safetensors

The torch rankers also train on Ray Train, with `--workers N`; see `training.workers`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pyarrow as pa

from scalr_ray.core.clock import parse_time
from scalr_ray.core.errors import DataError, ScalrError, UsageError
from training.models import Interactions, PopularityConfig, Ranker

if TYPE_CHECKING:
    from training.models.state import State

# Module, ranker and its settings; they are imported when they are asked for.
RANKERS = {
    "popularity": ("popularity", "Popularity", "PopularityConfig"),
    "ials": ("ials", "IALS", "IALSConfig"),
    "implicit": ("implicit_als", "ImplicitALS", "ImplicitALSConfig"),
    "item-knn": ("item_knn", "ItemKNN", "ItemKNNConfig"),
    "trees": ("trees", "Trees", "TreesConfig"),
    "two-tower": ("two_tower", "TwoTower", "TwoTowerConfig"),
    "sequential": ("sequential", "Sequential", "SequentialConfig"),
    "dcn": ("dcn", "DCN", "DCNConfig"),
}
NEURAL = ("two-tower", "sequential", "dcn")


def settings_of(model: str, as_of: datetime, given: Sequence[str]) -> Any:  # noqa: ANN401 - of `model`
    """The settings of a ranker: `name=value` each, values as JSON or as plain text.

    Those of the popularity in its scores have "prior." before their name.

    Raises:
        UsageError: there is no such setting, or its value has no meaning.
    """
    module, _, name = RANKERS[model]
    settings = getattr(import_module(f"training.models.{module}"), name)
    own = {field.name for field in fields(settings)} - {"prior", "as_of"}
    of_prior = {field.name for field in fields(PopularityConfig)} - {"as_of"}
    values: dict[str, Any] = {}
    prior: dict[str, Any] = {}
    for text in given:
        key, _, value = text.partition("=")
        if key in own:
            values[key] = _value(value)
        elif settings is not PopularityConfig and key.removeprefix("prior.") in of_prior - {key}:
            prior[key.removeprefix("prior.")] = _value(value)
        else:
            raise UsageError(f"the ranker {model!r} has no setting {key!r}")
    try:
        if settings is PopularityConfig:
            return PopularityConfig(as_of=as_of, **values)
        return settings(prior=PopularityConfig(as_of=as_of, **prior), **values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"a setting of the ranker {model!r} has no meaning: {error}") from error


def _value(text: str) -> Any:  # noqa: ANN401 - what JSON can say
    """JSON, its lists as tuples; what is no JSON is text."""
    try:
        return _frozen(json.loads(text))
    except json.JSONDecodeError:
        return text


def _frozen(value: Any) -> Any:  # noqa: ANN401 - likewise
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def new_ranker(model: str, settings: object, *given: object) -> Ranker:
    """An untrained ranker of a kind."""
    module, kind, _ = RANKERS[model]
    ranker: Ranker = getattr(import_module(f"training.models.{module}"), kind)(settings, *given)
    return ranker


def train(
    model: str, settings: object, interactions: Interactions, *, seed: int, workers: int = 0
) -> State:
    """Train a ranker here, or on so many workers of Ray.

    Raises:
        UsageError: the ranker does not train on workers.
        DataError: there is nothing to learn from.
        TrainingDiverged: the loss is no longer finite.
    """
    if not workers:
        ranker = new_ranker(model, settings)
        ranker.fit(interactions, seed=seed)
        return ranker.state()
    if model not in NEURAL:
        raise UsageError(f"the ranker {model!r} trains in one process; leave --workers out")
    from training.workers import train_on_workers

    return train_on_workers(model, settings, interactions, seed=seed, workers=workers)


@click.command(context_settings={"show_default": True})
@click.option("--model", type=click.Choice(tuple(RANKERS)), required=True)
@click.option("--repo", type=click.Path(path_type=Path), help="The feature repository.")
@click.option("--saved", help="A saved training set of the repository.")
@click.option("--service", help="Or pull with this feature service, from --start to --end.")
@click.option("--start")
@click.option("--end")
@click.option("--rows", type=click.Path(path_type=Path), help="Or rows in a Parquet file.")
@click.option("--as-of", help="The training cut; a saved set has its own.")
@click.option("--set", "given", multiple=True, metavar="NAME=VALUE", help="A setting of the model.")
@click.option("--synthetic", help="rows or fold-in; for torch models head or pretrain too.")
@click.option("--seed", default=0)
@click.option("--workers", default=0, help="On so many workers of Ray Train; 0 is this process.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def cli(  # noqa: PLR0913, PLR0917 - one for each option
    model: str,
    repo: Path | None,
    saved: str | None,
    service: str | None,
    start: str | None,
    end: str | None,
    rows: Path | None,
    as_of: str | None,
    given: tuple[str, ...],
    synthetic: str | None,
    seed: int,
    workers: int,
    out: Path,
) -> None:
    """Train a downstream ranker on a mixed training set, and keep it in one file."""
    if rows is not None:
        table, cut = _read(rows), as_of
    else:
        table, cut = _pulled(repo, saved, service, (start, end, as_of))
    if cut is None:
        raise UsageError("name the training cut: --as-of")
    settings = (*given, f"synthetic={synthetic}") if synthetic else given
    config = settings_of(model, parse_time(cut, "as_of"), settings)
    interactions = Interactions.from_arrow(table)
    train(model, config, interactions, seed=seed, workers=workers).write(out)
    users, items = interactions.shape
    click.echo(f"{model}: {len(interactions.rows)} rows, {users} users, {items} items -> {out}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, one line per error on standard error."""
    try:
        cli(args=argv, prog_name="training.train", standalone_mode=False)
    except ScalrError as error:
        click.echo(f"training.train: {error.message}", err=True)
        return error.exit_code
    except click.UsageError as error:
        click.echo(f"training.train: {' '.join(error.format_message().split())}", err=True)
        return error.exit_code
    return 0


def _read(rows: Path) -> pa.Table:
    import pyarrow.parquet as pq

    try:
        return pq.read_table(rows)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{rows} cannot be read as Parquet: {error}") from error


def _pulled(
    repo: Path | None,
    saved: str | None,
    service: str | None,
    window: tuple[str | None, str | None, str | None],
) -> tuple[pa.Table, str]:
    """The rows of a repository, and the cut."""
    if repo is None or (saved is None) == (service is None):
        raise UsageError("name the rows: --rows, or --repo with either --saved or --service")
    from scalr_ray.offline_store.feature_store import open_feature_store
    from training import saved as sets
    from training.mixed import build_mixed_dataset

    store = open_feature_store(repo)
    if saved is not None:
        dataset = sets.load(store, saved)
    else:
        start, end, as_of = window
        if service is None or start is None or end is None or as_of is None:
            raise UsageError("a pull needs --start, --end and --as-of")
        dataset = build_mixed_dataset(store, service=service, start=start, end=end, as_of=as_of)
    return dataset.table, str(dataset.manifest["as_of"])


if __name__ == "__main__":
    sys.exit(main())
