"""What a retrieval takes from one Feast feature view, in plain words and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_NAME, FeatureView
from feast.types import from_feast_to_pyarrow_type

from scalr_ray.core.errors import UsageError
from scalr_ray.core.events import TIMESTAMP


@dataclass(frozen=True, kw_only=True)
class ViewRead:
    """One feature view of a retrieval.

    Attributes:
        name: of the view, as the caller spells it.
        source: where its rows lie.
        keys: join key column of the view -> column of the entity rows.
        features: feature -> column of the result.
        event_time: column of valid time, after field mapping.
        created: column of transaction time, after field mapping, if the source names one.
        ttl: how long a row stays valid; None means for ever.
        types: declared Arrow type by column, for a source that has no data yet.
    """

    name: str
    source: DataSource
    keys: dict[str, str]
    features: dict[str, str]
    event_time: str
    created: str | None
    ttl: timedelta | None
    types: dict[str, pa.DataType]

    @property
    def columns(self) -> dict[str, str]:
        """Columns to read: name in the view -> name in the source."""
        original = {shown: column for column, shown in self.source.field_mapping.items()}
        names = [*self.keys, *self.features, self.event_time]
        names += [self.created] if self.created else []
        return {name: original.get(name, name) for name in names}

    def empty(self) -> pa.Table:
        """No rows, in the declared types: what a source without data reads as."""
        fields = [(name, self.types.get(name, pa.string())) for name in self.columns]
        return pa.schema(fields).empty_table()


def read_views(
    feature_views: Sequence[FeatureView],
    feature_refs: Sequence[str],
    *,
    full_feature_names: bool,
    cut_off: bool,
) -> list[ViewRead]:
    """Split the requested `view:feature` references by view.

    Raises:
        UsageError: a feature is unknown, two features would share a name, or the availability
            cut-off was asked of a view that does not record availability.
    """
    reads = [_read_view(view, feature_refs, full_feature_names) for view in feature_views]
    shown = [column for read in reads for column in read.features.values()]
    if twice := sorted({column for column in shown if shown.count(column) > 1}):
        way = "rename a view" if full_feature_names else "pass full_feature_names=True"
        raise UsageError(f"{', '.join(twice)} is asked for twice; {way}")
    for read in reads:
        if cut_off and not read.created:
            raise UsageError(
                f"feature view {read.name!r} has no created_timestamp_column, so what was known "
                "when cannot be told; name the column in its source or drop "
                "filter_by_created_timestamp"
            )
    return reads


def _read_view(view: FeatureView, feature_refs: Sequence[str], full_names: bool) -> ViewRead:  # noqa: FBT001
    source = view.batch_source
    if source is None:
        raise UsageError(f"feature view {view.name!r} has no batch source to read")
    name = view.projection.name_to_use()
    wanted = [ref.split(":", 1)[1] for ref in feature_refs if ref.startswith(f"{name}:")]
    known = {field.name for field in view.features}
    if unknown := [feature for feature in wanted if feature not in known]:
        raise UsageError(
            f"feature view {name!r} has no feature {', '.join(unknown)}; "
            f"it has {', '.join(sorted(known))}"
        )
    joined = [field.name for field in view.entity_columns]
    if DUMMY_ENTITY_ID in joined and list(view.entities) != [DUMMY_ENTITY_NAME]:
        raise UsageError(
            f"feature view {name!r} has the join key {DUMMY_ENTITY_ID!r}, which Feast reserves for "
            "views without entities; rename it"
        )
    prefix = f"{view.projection.name_alias or view.name}__" if full_names else ""
    aliases = view.projection.join_key_map or {}
    keys = [key for key in joined if key != DUMMY_ENTITY_ID]
    fields = [*view.entity_columns, *view.features]
    declared = {field.name: from_feast_to_pyarrow_type(field.dtype) for field in fields}
    times = {source.timestamp_field: TIMESTAMP}
    if source.created_timestamp_column:
        times[source.created_timestamp_column] = TIMESTAMP
    return ViewRead(
        name=name,
        source=source,
        keys={key: aliases.get(key, key) for key in keys},
        features={feature: f"{prefix}{feature}" for feature in dict.fromkeys(wanted)},
        event_time=source.timestamp_field,
        created=source.created_timestamp_column or None,
        ttl=view.ttl or None,
        types=declared | times,
    )
