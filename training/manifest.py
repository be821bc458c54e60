"""The manifest of a training set: what was asked for, what was read, and what it gave."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from scalr_ray.core.errors import DataError
from training.selection import Window


def _is_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


_Time = Annotated[str, AfterValidator(_is_time)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Revision(_Part):
    at: _Time
    why: str
    rows_removed: int
    synthetic_rows_removed: int


class _Names(_Part):
    weight_column: str = ""
    label_column: str = ""


class _Manifest(_Part):
    service: str
    start: _Time
    end: _Time
    as_of: _Time
    mix: _Names
    batches: dict[str, int]
    events_fingerprint: str
    snapshot_id: int | None
    revisions: list[_Revision] = []


def checked(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    """The manifest of a saved set, if it says what a manifest says.

    Raises:
        DataError: it does not; somebody has changed it.
    """
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        where = ".".join(str(part)[:64] for part in error.errors()[0]["loc"])
        raise DataError(
            f"training set {name!r} is damaged: {where!r} of its manifest is not what was saved; "
            "restore it from a backup, or remove the set and save it again"
        ) from error
    return manifest


def describe(
    rows: pa.Table,
    *,
    service: str,
    feature_views: Sequence[str],
    window: Window,
    mix: dict[str, Any],
    trial: bool,
    inputs: Mapping[str, Any],
    ids: pa.Array,
) -> dict[str, Any]:
    """Plain JSON values; equal manifests mean the same events under the same question.

    Args:
        rows: the selected rows, with `training.selection.ROW_COLUMNS`.
        service: name of the feature service.
        feature_views: the views it takes features from.
        window: where the rows were selected.
        mix: the fields of the mix.
        trial: whether the synthetic rows are staged rather than published.
        inputs: what was read, as `Inputs.to_json` tells it.
        ids: of the rows, as `sorted_ids` gives them.
    """
    return {
        "service": service,
        "start": window.start.isoformat(),
        "end": window.end.isoformat(),
        "as_of": window.as_of.isoformat(),
        "mix": mix,
        "trial": trial,
        "feature_views": sorted(feature_views),
        **inputs,
        **_content(rows, label="label", ids=ids),
    }


def sorted_ids(event_ids: pa.ChunkedArray) -> pa.Array:
    """The ids in order, in buffers that hold nothing else; fast where they come in sorted runs."""
    ids = event_ids.cast(pa.large_string()).combine_chunks()
    return ids.take(pc.sort_indices(ids))


def revised(
    manifest: Mapping[str, Any], rows: pa.Table, removed: pa.Table, *, at: datetime, why: str
) -> dict[str, Any]:
    """The manifest of a set that has lost rows.

    Args:
        manifest: as it was.
        rows: those that are left.
        removed: those that are gone.
        at: when they went.
        why: for a reader.
    """
    revision = {
        "at": at.isoformat(),
        "why": why,
        "rows_removed": removed.num_rows,
        "synthetic_rows_removed": pc.sum(removed["is_synthetic"]).as_py() or 0,
        "events_fingerprint_before": manifest["events_fingerprint"],
    }
    return {
        **manifest,
        **_content(rows, label=_label_column(manifest), ids=sorted_ids(rows["event_id"])),
        "revisions": [*manifest.get("revisions", []), revision],
    }


def part_of(
    manifest: Mapping[str, Any],
    rows: pa.Table,
    *,
    times: Mapping[str, datetime],
    split: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest of a part of a set.

    Args:
        manifest: of the whole.
        rows: of the part.
        times: where the part begins and ends, and what it was known by.
        split: how it was split.
    """
    return {
        **manifest,
        **{name: moment.isoformat() for name, moment in times.items()},
        **_content(rows, label=_label_column(manifest), ids=sorted_ids(rows["event_id"])),
        "split": dict(split),
    }


def held_snapshot(manifest: Mapping[str, Any]) -> int | None:
    """The snapshot at which a set can be pulled again; None where there is none.

    A snapshot that showed synthetic events of somebody who was erased is gone.
    """
    if any(revision["synthetic_rows_removed"] for revision in manifest.get("revisions", [])):
        return None
    snapshot_id: int | None = manifest["snapshot_id"]
    return snapshot_id


def weight_column(manifest: Mapping[str, Any]) -> str:
    """What the weight is called in a set."""
    return str(manifest.get("mix", {}).get("weight_column", "sample_weight"))


def _label_column(manifest: Mapping[str, Any]) -> str:
    """What the label is called in a set."""
    return str(manifest.get("mix", {}).get("label_column", "label"))


def _content(rows: pa.Table, *, label: str, ids: pa.Array) -> dict[str, Any]:
    """What is in the rows: real and synthetic events, and negatives, which are no events."""
    synthetic = rows.filter(rows["is_synthetic"])
    batches = pc.value_counts(synthetic["batch_id"]).to_pylist()
    negatives = pc.sum(pc.equal(rows[label], 0.0)).as_py() or 0
    events = pc.sum(pc.not_equal(synthetic[label], 0.0)).as_py() or 0
    return {
        "counts": {"real": rows.num_rows - negatives - events, "synthetic": events},
        "batches": {
            batch["values"]: batch["counts"]
            for batch in sorted(batches, key=lambda batch: str(batch["values"]))
        },
        "negatives": negatives,
        "events_fingerprint": _fingerprint(ids),
    }


def _fingerprint(ids: pa.Array) -> str:
    """A hash of a set of ids, which are in order; of their bytes, for they may be millions."""
    _, ends, text = ids.buffers()
    digest = hashlib.sha256()
    if len(ids):
        digest.update(ends[: 8 * (len(ids) + 1)])
        digest.update(text[: pc.sum(pc.binary_length(ids)).as_py()])
    return digest.hexdigest()
