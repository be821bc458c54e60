"""The Feast face of the store: translates Feast's calls, refuses what cannot be answered.

Configured in `feature_store.yaml`:

```yaml
offline_store:
  type: scalr_ray.offline_store.AsOfOfflineStore
```
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_view import FeatureView
from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import Field

from scalr_ray.core.clock import parse_time
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.offline_store.engine import Engine, EngineName
from scalr_ray.offline_store.entity_rows import read_entities
from scalr_ray.offline_store.job import AsOfRetrievalJob
from scalr_ray.offline_store.limits import Limits
from scalr_ray.offline_store.parts import write_part
from scalr_ray.offline_store.plan import plan_dataset, plan_enrichment, plan_event_set
from scalr_ray.offline_store.retrieve import Pull, Rule, Session, pull_rows, pull_sql
from scalr_ray.offline_store.sources.find import check_source, source_columns
from scalr_ray.offline_store.sources.iceberg_append import append_to_iceberg
from scalr_ray.offline_store.sources.paths import part_folder
from scalr_ray.offline_store.sources.postgres import query_rows
from scalr_ray.offline_store.sources.postgres_append import append_rows
from scalr_ray.offline_store.sources.reading import Access
from scalr_ray.offline_store.storage import Place
from scalr_ray.offline_store.view import ViewRead, read_views


class AsOfOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc] # Feast publishes no types
    """The `offline_store` section of `feature_store.yaml`.

    Attributes:
        type: the class path of the store.
        memory_limit: DuckDB's budget before it spills to disk.
        threads: DuckDB's worker threads.
        spill_dir: where it spills, relative to the repository; None takes the system's folder for
            temporary files.
        strictly_before: whether a feature row stamped at the very time of the entity row is hidden.
        engine: `duckdb` joins in this process, `ray` on a cluster (a small one is started here
            where none is named by `RAY_ADDRESS`); `auto` takes the cluster when there is one and
            the join is large.
        ray_above_rows: entity rows and feature rows above which `auto` takes the cluster.
        partition_rows: how many rows of both sides one task of the cluster joins; `memory_limit`
            and one thread are for each task.
        postgres_url: where the tables and queries of PostgreSQL sources are, for example
            `${SCALR_POSTGRES_URL}`; None takes the database of the registry, if that is PostgreSQL.
        snapshots: name of an Iceberg source -> the snapshot to read it at instead of the newest.
        blob_export_location: folder or `s3://<bucket>/<path>` that `to_remote_storage` exports to.
    """

    type: str = "scalr_ray.offline_store.AsOfOfflineStore"
    memory_limit: str = "4GB"
    threads: int = 2
    spill_dir: str | None = None
    strictly_before: bool = False
    engine: EngineName = "auto"
    ray_above_rows: int = Field(default=50_000_000, ge=0)
    partition_rows: int = Field(default=1_000_000, ge=1)
    postgres_url: str | None = Field(default=None, repr=False)
    snapshots: dict[str, int] = Field(default_factory=dict)
    blob_export_location: str | None = None


class AsOfOfflineStore(OfflineStore):  # type: ignore[misc] # Feast publishes no types
    """Point-in-time joins on two clocks: when a row happened, and when it could have been known."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(  # noqa: PLR0913 - Feast's signature
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,  # noqa: ANN401 - checked by read_entities
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,  # noqa: FBT001, FBT002 - Feast's signature
        *,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Features of the entity rows as of their own times, or the event set of one view.

        With `entity_df`: one row out for each row in, in the same order; the latest feature row
        with `event_timestamp <= t` (`< t` under `strictly_before`), within the view's TTL, and
        with `filter_by_created_timestamp` recorded by t. Without: every row of the one feature view
        with `start_date <= event_timestamp <= end_date`, recorded by `end_date` under the cut-off.

        Where a view reads PostgreSQL, `entity_df` may be a SELECT for that database. It is run
        once, here, as the job's metadata and checks tell of its rows. A Ray Dataset is joined on
        the cluster whatever the engine, and keeps no order.

        Raises:
            UsageError: something that was asked for does not exist or cannot be told.
            DataError: the entity rows are unusable.
        """
        rule = Rule(
            cut_off=filter_by_created_timestamp,
            strictly_before=config.offline_store.strictly_before,
        )
        _check_pins(config, registry, project)
        reads = read_views(
            feature_views, feature_refs, full_feature_names=full_feature_names, cut_off=rule.cut_off
        )
        how = (reads, rule, session_of(config), engine_of(config))
        if entity_df is None:
            retrieval = plan_event_set(*how, start_date, end_date)
        elif _is_ray_dataset(entity_df):
            retrieval = plan_dataset(*how, entity_df)
        else:
            entities = read_entities(_run_query(entity_df, reads, config))
            retrieval = plan_enrichment(*how, entities)
        first, last = retrieval.time_range
        return AsOfRetrievalJob(
            retrieval.execute,
            on_cluster=retrieval.on_cluster,
            sql=retrieval.sql,
            repo=_repo(config),
            export_to=_export_to(config),
            metadata=RetrievalMetadata(feature_refs, list(retrieval.keys), first, last),
            full_feature_names=full_feature_names,
            on_demand=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The latest row of each key with its event time in the range, both ends included."""
        pull = _pull(
            data_source,
            (join_key_columns, feature_name_columns),
            (timestamp_field, created_timestamp_column),
            (start_date, end_date),
            latest=True,
        )
        return _pull_job(config, pull)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row with its event time in the range, both ends included, whenever recorded."""
        pull = _pull(
            data_source,
            (join_key_columns, feature_name_columns),
            (timestamp_field, created_timestamp_column),
            (start_date, end_date),
            latest=False,
        )
        return _pull_job(config, pull)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Add the rows of `table` to the view's folder or table, all or nothing.

        A folder gets one new Parquet file, named after its content; a table gets the rows in one
        transaction or commit that records their fingerprint. Repeating a write thus changes
        nothing.

        Raises:
            UsageError: the source is a single file, folders that name columns, or a query; or a
                table that is not there, is pinned, or holds synthetic events.
            DataError: a column of the view is missing, or its values do not fit.
            RetryLater: PostgreSQL cannot be reached, or others kept committing to Iceberg first.
            StateUnknown: the answer to the Iceberg commit was lost; write the same rows again.
        """
        source = feature_view.batch_source
        times = (source.timestamp_field, source.created_timestamp_column)
        needed = [*(field.name for field in feature_view.schema), *filter(None, times)]
        original = {shown: column for column, shown in source.field_mapping.items()}
        access, view = _access(config), feature_view.name
        if isinstance(source, IcebergSource):
            append_to_iceberg(source, table, access, needed=needed, original=original, view=view)
        elif isinstance(source, PostgreSQLSource):
            append_rows(source, table, access, needed=needed, original=original, view=view)
        else:
            folder = part_folder(source, access)
            write_part(folder, table, needed=needed, original=original, view=view)
        if progress is not None:
            progress(table.num_rows)

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Check the time columns of what is there; a source without data yet is fine.

        Raises:
            DataError: a time column is missing or is no time, or a file cannot be read.
            UsageError: the kind of source is not supported.
        """
        check_source(data_source, _access(config))

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """The columns of `data_source` with their types, as Feast's inference wants them.

        Raises:
            DataError: there is no data yet, so that nothing can be inferred.
        """
        columns = source_columns(data_source, _access(config))
        if columns is None:
            raise DataError(
                f"data source {data_source.name!r} has no data yet, so its columns are unknown; "
                "declare the schema of its feature view"
            )
        return columns


def _is_ray_dataset(entity_df: Any) -> bool:  # noqa: ANN401 - anything may come
    """Told without importing Ray: who never did has none."""
    ray_data = sys.modules.get("ray.data")
    return ray_data is not None and isinstance(entity_df, ray_data.Dataset)


def _run_query(entity_df: Any, reads: Sequence[ViewRead], config: RepoConfig) -> Any:  # noqa: ANN401 - see read_entities
    """`entity_df`, or its rows where it is SQL and some view lies in a database that can run it."""
    servers = [read.source for read in reads if isinstance(read.source, PostgreSQLSource)]
    if not isinstance(entity_df, str) or not servers:
        return entity_df
    return query_rows(entity_df, servers[0], _access(config))


def _check_pins(config: RepoConfig, registry: BaseRegistry, project: str) -> None:
    """Refuse a pin that would pin nothing, as one with a misspelt name."""
    if not (pinned := set(config.offline_store.snapshots)):
        return
    sources = registry.list_data_sources(project)
    known = {source.name for source in sources if isinstance(source, IcebergSource)}
    if unknown := sorted(pinned - known):
        raise UsageError(
            f"offline_store.snapshots pins {', '.join(unknown)}, but the Iceberg sources are "
            f"{', '.join(sorted(known)) or 'none'}; correct the name"
        )


def _pull(
    source: DataSource,
    columns: tuple[list[str], list[str]],
    times: tuple[str, str | None],
    dates: tuple[datetime | None, datetime | None],
    *,
    latest: bool,
) -> Pull:
    since, until = (
        parse_time(date, name) if date is not None else None
        for date, name in zip(dates, ("start_date", "end_date"), strict=True)
    )
    keys, features = columns
    return Pull(
        source=source,
        keys=tuple(keys),
        features=tuple(features),
        event_time=times[0],
        created=times[1] or None,
        since=since,
        until=until,
        latest=latest,
    )


def _pull_job(config: RepoConfig, pull: Pull) -> RetrievalJob:
    session = session_of(config)
    return AsOfRetrievalJob(
        lambda: pull_rows(pull, session),
        sql=pull_sql(pull),
        repo=session.access.repo,
        export_to=_export_to(config),
    )


def session_of(config: RepoConfig) -> Session:
    """What a retrieval under this configuration may use."""
    store = config.offline_store
    return Session(
        access=_access(config),
        limits=Limits(
            memory_limit=store.memory_limit,
            threads=store.threads,
            spill_dir=_repo(config) / store.spill_dir if store.spill_dir else None,
        ),
    )


def engine_of(config: RepoConfig) -> Engine:
    """Which engine joins under this configuration."""
    store = config.offline_store
    return Engine(
        name=store.engine,
        ray_above_rows=store.ray_above_rows,
        partition_rows=store.partition_rows,
    )


def _access(config: RepoConfig) -> Access:
    return Access(
        repo=_repo(config),
        postgres_url=_postgres_url(config),
        snapshots=config.offline_store.snapshots,
    )


def _postgres_url(config: RepoConfig) -> str | None:
    registry = str(config.registry.path)
    in_postgres = registry.startswith(("postgresql:", "postgresql+", "postgres:"))
    return config.offline_store.postgres_url or (registry if in_postgres else None)


def _export_to(config: RepoConfig) -> Place | None:
    location = config.offline_store.blob_export_location
    return Place.at(location, repo=_repo(config)) if location else None


def _repo(config: RepoConfig) -> Path:
    return Path(config.repo_path or ".").resolve()
