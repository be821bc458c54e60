"""A feature repository, opened: its configuration, its paths, its stores."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core import logs
from scalr_ray.core.clock import parse_time
from scalr_ray.core.config import ScalrConfig, load_config
from scalr_ray.core.errors import GateRefused, ScalrError, UsageError
from scalr_ray.core.events import synthetic_event_schema
from scalr_ray.core.layout import Layout
from scalr_ray.core.subjects import ErasedUsers
from scalr_ray.core.versions import latest_versions
from scalr_ray.jobs import metrics, open_lineage
from scalr_ray.jobs.open_lineage import DataSet
from scalr_ray.jobs.progress import Progress
from scalr_ray.lake import SyntheticEventLake
from scalr_ray.learn import TrainingEvents
from scalr_ray.learn.crowding import without_crowders
from scalr_ray.learn.prior import LOOK_BACKS
from scalr_ray.ledger import Ledger
from scalr_ray.ledger.runs import RunInProgress
from scalr_ray.offline_store import open_feature_store
from scalr_ray.offline_store.event_stream import EventStream
from scalr_ray.offline_store.feature_store import close_feature_store
from scalr_ray.offline_store.pull import all_visible_from, pull_events, pull_features
from scalr_ray.offline_store.stream_events import stream_events
from scalr_ray.translator import FeaturesAsOf

SOURCE_VIEW = "source_events"
TARGET_VIEW = "target_events"
SYNTHETIC_VIEW = "synthetic_events"

_LOG = logging.getLogger(__name__)
_LONGEST_LOOK_BACK = max(days for days in LOOK_BACKS if days is not None)


class Workspace:
    """One feature repository and everything that a stage needs of it.

    Stores are opened on first use; `close` closes what was opened.
    """

    def __init__(self, repo: Path, overrides: Sequence[str], progress: Progress) -> None:
        self.repo = repo.resolve()
        self.config: ScalrConfig = load_config(self.repo, overrides)
        self.layout = Layout.of(self.repo, self.config)
        self.progress = progress

    @cached_property
    def store(self) -> Any:  # noqa: ANN401 - Feast publishes no types
        """The Feast store."""
        # The registry makes its file, but not the folder of it.
        self.layout.data.mkdir(parents=True, exist_ok=True)
        return open_feature_store(self.repo)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, in the same database as the registry."""
        self.layout.data.mkdir(parents=True, exist_ok=True)
        return Ledger(self.layout.database_url)

    @cached_property
    def lake(self) -> SyntheticEventLake:
        """The table of synthetic events."""
        return SyntheticEventLake.open(self.layout, self.config.ids)

    @property
    def schema(self) -> pa.Schema:
        """The schema of a synthetic event under this configuration."""
        return synthetic_event_schema(self.config.ids.user_id, self.config.ids.item_id)

    def event_folders(self) -> tuple[DataSet, DataSet]:
        """Both event views, for OpenLineage."""
        source, target = (self.layout.events(view) for view in (SOURCE_VIEW, TARGET_VIEW))
        return open_lineage.folder(source), open_lineage.folder(target)

    @contextmanager
    def run(self, verb: str) -> Iterator[RunInProgress]:
        """Record a call of `verb` in the ledger, and how it ended."""
        config, project = self.config.model_dump(mode="json"), self.config.project
        started, failed = time.perf_counter(), True
        running = self.ledger.running(verb, config, self.config.fingerprint, self.config.seed)
        try:
            with (
                running as run,
                logs.telling(run=run.run_id, stage=verb),
                open_lineage.told(project, verb, run.run_id),
                _FailureLogged(),
            ):
                yield run
            failed = False
        except GateRefused:
            failed = False
            raise
        finally:
            seconds = time.perf_counter() - started
            metrics.record(metrics.STAGE_SECONDS, seconds, project=project, stage=verb)
            metrics.record(metrics.STAGE_FAILED, failed, project=project, stage=verb)

    def close(self) -> None:
        """Close the ledger, the lake and the registry if they were opened."""
        store = self.__dict__.pop("store", None)
        if store is not None:
            close_feature_store(store)
        for name in ("ledger", "lake"):
            opened = self.__dict__.pop(name, None)
            if opened is not None:
                opened.close()

    def now(self) -> datetime:
        """The present, as a cut: what is generated now could not have been known before.

        Raises:
            UsageError: nothing has been imported, or nothing lately enough for a prior.
        """
        newest = all_visible_from(self.store, (SOURCE_VIEW, TARGET_VIEW))
        if newest is None:
            raise UsageError(f"{self.repo} holds no events; run `scalr import FILE` first")
        now = datetime.now(UTC)
        setting = self.config.prior.window_days
        window = _LONGEST_LOOK_BACK if setting == "auto" else setting
        if newest < now - timedelta(days=window):
            raise UsageError(
                f"the newest event became known on {newest:%Y-%m-%d}, longer ago than the "
                f"{window} days of the prior; work in the past with --as-of "
                f"{newest + timedelta(days=1):%Y-%m-%d}"
            )
        return now

    def cut(self, as_of: str | datetime | None) -> datetime:
        """The time that `--as-of` names; the present where it names none.

        Raises:
            UsageError: it is no time, or nothing has been imported that `now` could use.
        """
        return self.now() if as_of is None else parse_time(as_of, "--as-of")

    @property
    def erased(self) -> ErasedUsers:
        """The users who were erased so far, of whom nothing may be used wherever it comes from."""
        return ErasedUsers.of(self.layout, self.ledger.erased_subjects())

    def source_events(self, as_of: datetime) -> pa.Table:
        """Events of the configured source domains as of `as_of`, each in its last version."""
        return self.events(SOURCE_VIEW, as_of, self.config.domains.source)

    def target_events(self, as_of: datetime) -> pa.Table:
        """Events of the configured target domain as of `as_of`, each in its last version."""
        return self.events(TARGET_VIEW, as_of, [self.config.domains.target])

    def events(self, view: str, as_of: datetime, domains: Sequence[str]) -> pa.Table:
        """Events of some domains as of `as_of`, each in its last version; none of erased users."""
        pulled = latest_versions(pull_events(self.store, view, as_of=as_of), as_of)
        wanted = pa.array(list(domains), pa.string())
        return self.erased.without(pulled.filter(pc.is_in(pulled["domain"], value_set=wanted)))

    def stream(self, view: str, as_of: datetime) -> EventStream:
        """The events of a view that are visible as of `as_of`, not read yet; none of erased users.

        Raises:
            DataError: the source is gone or corrupt.
            UsageError: the view is not registered, or the store is not ours.
        """
        stream = stream_events(self.store, view, as_of=as_of)
        return replace(stream, sql=self.erased.others_sql(stream.sql, self.config.ids.user_id))

    def features_for(self, kind: str, key: str) -> FeaturesAsOf | None:
        """What Feast serves a translator of that kind of users or items; None if it asks nothing.

        Args:
            kind: of the translator; only the neural one reads features.
            key: `user_id` or `item_id`.
        """
        settings = self.config.translator.neural
        service = settings.features if key == "user_id" else settings.item_features
        if kind != "neural" or service is None:
            return None
        return lambda ids, times: pull_features(self.store, service, key=key, ids=ids, times=times)

    def training_events(self, as_of: datetime) -> TrainingEvents:
        """Both domains as of `as_of`, coded, without users who have touched too many items."""
        most = self.config.translator
        return TrainingEvents.of(
            without_crowders(self.source_events(as_of), most.most_source_items),
            without_crowders(self.target_events(as_of), most.most_target_items),
        )


class _FailureLogged:
    """Logs what ends the block; an error of ours with its message, others with their traceback."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _where: object) -> None:
        if isinstance(error, ScalrError):
            _LOG.error("%s", error.message, extra=logs.fields(code=error.code))
        elif isinstance(error, Exception):
            _LOG.error("the stage ended with an error", exc_info=error)
