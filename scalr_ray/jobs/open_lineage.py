"""OpenLineage: that a stage began, and how it ended, with what it read and what it wrote.

It is told where OpenLineage's own configuration says (`OPENLINEAGE_URL`, `OPENLINEAGE_CONFIG`,
`OPENLINEAGE__*`, or an `openlineage.yml`), and nowhere without one. What goes wrong in telling is
logged, and ends no run.

| | |
|---|---|
| job | namespace: the project; name: `scalr.VERB` |
| run | an id made of that in the ledger, which is the tag `scalr_run` |
| events, features, translators | namespace `file`, name: the folder |
| the table of synthetic events | its place: `file` or `s3://bucket`, and the path |
| a batch | namespace `scalr://PROJECT`, name: its id; what the gate found are its assertions |
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from scalr_ray import __version__
from scalr_ray.core.layout import ICEBERG_NAMESPACE, ICEBERG_TABLE, Layout
from scalr_ray.core.s3 import S3_SCHEME

if TYPE_CHECKING:
    import pyarrow as pa

    from scalr_ray.gate import Check

_LOG = logging.getLogger(__name__)
_PRODUCER = f"https://pypi.org/project/scalr/{__version__}"
_FILE = "openlineage.yml"
_PREFIX = "OPENLINEAGE"
_PATIENCE_S = 10.0
_SWITCHES = ("OPENLINEAGE_DISABLED", "OPENLINEAGE_CLIENT_LOGGING")


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What a stage reads or writes.

    Attributes:
        namespace: where it is, as OpenLineage has it.
        name: which it is there.
        rows: how many were written; None where nobody counted.
        columns: name and type of each, where they are known.
        checks: what the gate found out about it.
    """

    namespace: str
    name: str
    rows: int | None = None
    columns: tuple[tuple[str, str], ...] = ()
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Touched:
    """What the stage that is under way has read and written so far."""

    read: list[DataSet] = field(default_factory=list)
    written: list[DataSet] = field(default_factory=list)


_touched: ContextVar[_Touched | None] = ContextVar("touched", default=None)


def reads(*data: DataSet) -> None:
    """Note what the stage under way reads."""
    if (touched := _touched.get()) is not None:
        touched.read.extend(data)


def writes(*data: DataSet) -> None:
    """Note what the stage under way has written."""
    if (touched := _touched.get()) is not None:
        touched.written.extend(data)


def folder(path: Path | str) -> DataSet:
    """A file or folder of a disk."""
    return DataSet(namespace="file", name=str(path))


def batch(
    project: str, batch_id: str, *, rows: int | None = None, checks: Sequence[Check] = ()
) -> DataSet:
    """The synthetic events of a batch."""
    namespace = f"scalr://{project}"
    return DataSet(namespace=namespace, name=batch_id, rows=rows, checks=tuple(checks))


def table(layout: Layout, schema: pa.Schema, *, rows: int | None = None) -> DataSet:
    """The table of synthetic events."""
    namespace, path = "file", layout.warehouse
    if path.startswith(S3_SCHEME):
        parts = urlsplit(path)
        namespace, path = f"{S3_SCHEME}{parts.netloc}", parts.path.lstrip("/")
    return DataSet(
        namespace=namespace,
        name=f"{path}/{ICEBERG_NAMESPACE}/{ICEBERG_TABLE}",
        rows=rows,
        columns=tuple((column.name, str(column.type)) for column in schema),
    )


def is_asked() -> bool:
    """Whether OpenLineage is configured here."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return False
    if any(name.startswith(_PREFIX) and name not in _SWITCHES for name in os.environ):
        return True
    return Path(_FILE).exists() or (Path.home() / ".openlineage" / _FILE).exists()


@contextmanager
def told(project: str, verb: str, run_id: str) -> Iterator[None]:
    """Tell that a stage begins and how it ends, with what it read and wrote in the block.

    Args:
        project: of the repository.
        verb: of the stage.
        run_id: in the ledger.
    """
    if not is_asked():
        yield
        return
    if find_spec("openlineage") is None:
        _LOG.warning("OpenLineage is configured and not installed: pip install 'scalr[lineage]'")
        yield
        return
    teller, touched = _Teller(project=project, verb=verb, run_id=run_id), _Touched()
    token = _touched.set(touched)
    teller.tell("START", _Touched())
    try:
        yield
    except BaseException as error:
        teller.tell("FAIL", touched, error)
        raise
    else:
        teller.tell("COMPLETE", touched)
    finally:
        _touched.reset(token)
        teller.close()


class _Teller:
    """The events of one run."""

    def __init__(self, *, project: str, verb: str, run_id: str) -> None:
        from openlineage.client import OpenLineageClient, set_producer

        set_producer(_PRODUCER)
        self._namespace, self._verb, self._run_id = project, verb, run_id
        try:
            self._client: OpenLineageClient | None = OpenLineageClient()
        except Exception as failure:  # noqa: BLE001 - a configuration that is wrong ends no run
            _LOG.warning("OpenLineage is not configured right: %s", failure)
            self._client = None

    def tell(self, state: str, touched: _Touched, error: BaseException | None = None) -> None:
        """Send an event; a failure to is logged."""
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState

        if self._client is None:
            return
        event = RunEvent(
            eventType=RunState[state],
            eventTime=datetime.now(UTC).isoformat(),
            run=Run(str(uuid.uuid5(uuid.NAMESPACE_OID, self._run_id)), self._run_facets(error)),
            job=Job(self._namespace, f"scalr.{self._verb}"),
            inputs=[_input(data) for data in touched.read],
            outputs=[_output(data) for data in touched.written],
            producer=_PRODUCER,
        )
        try:
            self._client.emit(event)
        except Exception as failure:  # noqa: BLE001 - whatever a transport raises ends no run
            _LOG.warning("OpenLineage was not told of %s: %s", state, failure)

    def close(self) -> None:
        """Send what waits, and release the connection."""
        if self._client is not None:
            self._client.close(_PATIENCE_S)

    def _run_facets(self, error: BaseException | None) -> dict[str, Any]:
        from openlineage.client.facet_v2 import error_message_run, processing_engine_run, tags_run

        facets: dict[str, Any] = {
            "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
                version=__version__, name="SCALR"
            ),
            "tags": tags_run.TagsRunFacet(
                tags=[tags_run.TagsRunFacetFields("scalr_run", self._run_id, "SCALR")]
            ),
        }
        if error is not None:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
                message=" ".join(str(error).split()) or type(error).__name__,
                programmingLanguage="PYTHON",
            )
        return facets


def _facets(data: DataSet) -> dict[str, Any]:
    from openlineage.client.facet_v2 import schema_dataset

    if not data.columns:
        return {}
    columns = [
        schema_dataset.SchemaDatasetFacetFields(name=name, type=kind) for name, kind in data.columns
    ]
    return {"schema": schema_dataset.SchemaDatasetFacet(fields=columns)}


def _input(data: DataSet) -> Any:  # noqa: ANN401 - an input of OpenLineage
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import data_quality_assertions_dataset as quality

    found = {}
    if data.checks:
        assertions = [
            quality.Assertion(assertion=check.name, success=check.passed, description=check.detail)
            for check in data.checks
        ]
        facet = quality.DataQualityAssertionsDatasetFacet(assertions=assertions)
        found["dataQualityAssertions"] = facet
    return InputDataset(data.namespace, data.name, found, facets=_facets(data))


def _output(data: DataSet) -> Any:  # noqa: ANN401 - an output of OpenLineage
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    found = {}
    if data.rows is not None:
        facet = statistics.OutputStatisticsOutputDatasetFacet(rowCount=data.rows)
        found["outputStatistics"] = facet
    return OutputDataset(data.namespace, data.name, found, facets=_facets(data))
