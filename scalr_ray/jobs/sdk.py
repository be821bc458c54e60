"""The SDK: one class over one feature repository, one method per verb of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from scalr_ray.core.clock import parse_time
from scalr_ray.core.config import ScalrConfig
from scalr_ray.ingest import ImportResult
from scalr_ray.jobs import backfill as backfilling
from scalr_ray.jobs import doctor as doctoring
from scalr_ray.jobs import evaluate as evaluating
from scalr_ray.jobs import generate as generating
from scalr_ray.jobs import increment as incrementing
from scalr_ray.jobs import ingest, release
from scalr_ray.jobs import train as training_stage
from scalr_ray.jobs import tune as tuning
from scalr_ray.jobs.backfill import Origin
from scalr_ray.jobs.demo import DemoInput, run_demo
from scalr_ray.jobs.doctor import Finding
from scalr_ray.jobs.generate import Generated
from scalr_ray.jobs.increment import RunOutcome
from scalr_ray.jobs.progress import Progress
from scalr_ray.jobs.release import Audited
from scalr_ray.jobs.status import Status, look
from scalr_ray.jobs.train import Trained
from scalr_ray.jobs.upkeep import Upkeep
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.lake import PublishedBatch
from scalr_ray.ledger import RunRecord
from scalr_ray.offline_store.pull import Registered

if TYPE_CHECKING:
    from scalr_ray.learn.neural.tune import Search


class Scalr(Upkeep):
    """Everything SCALR does with one feature repository; mending and taking back is in `Upkeep`.

    ```python
    with Scalr("feature_repo") as scalr:
        scalr.import_events("events.parquet")
        scalr.apply()
        outcome = scalr.run()
    ```

    Args:
        repo: the folder with `scalr.yaml` and `feature_store.yaml`.
        overrides: `a.b=c` texts over `scalr.yaml`.
        progress: where stages are shown; None shows nothing.
    """

    def __init__(
        self,
        repo: str | Path = "feature_repo",
        overrides: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> None:
        self._workspace = Workspace(Path(repo), overrides, progress or Progress())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database and the table of synthetic events."""
        self._workspace.close()

    @property
    def config(self) -> ScalrConfig:
        """The resolved configuration."""
        return self._workspace.config

    def import_events(
        self, file: str | Path, columns: Mapping[str, str] | None = None
    ) -> ImportResult:
        """Check an event log and import it; the same file again changes nothing.

        Args:
            file: a Parquet file with `user_id, item_id, domain, event_timestamp` and optionally
                `event_type, value, available_at`.
            columns: our column name to the file's, where they differ.
        """
        return ingest.import_file(self._workspace, Path(file), columns or {})

    def apply(self) -> Registered:
        """Register the definitions (`feast apply`) and return what is registered."""
        return ingest.apply(self._workspace)

    def train(self, as_of: str | datetime | None = None) -> Trained:
        """Train a translator on what was visible as of a time; by default, as of now."""
        return training_stage.train(self._workspace, as_of=self._workspace.cut(as_of))

    def tune(self, as_of: str | datetime | None = None, trials: int = 20) -> Search:
        """Search the settings of the neural translator with Ray Tune."""
        return tuning.tune(self._workspace, as_of=self._workspace.cut(as_of), trials=trials)

    def generate(self, translator: str | None = None) -> Generated:
        """Draw a batch with the newest translator, or a named version, and stage it."""
        return generating.generate(self._workspace, translator=translator)

    def gate(self, batch_id: str | None = None) -> Audited:
        """Audit the newest staged batch, or a named one, and accept or reject it."""
        return release.gate(self._workspace, batch_id=batch_id)

    def publish(
        self, batch_id: str | None = None, *, force: bool = False, why: str = ""
    ) -> PublishedBatch:
        """Make the newest accepted batch, or a named one, visible to Feast.

        Args:
            batch_id: which; force needs a name.
            force: publish it though the gate refused it for what its events are worth.
            why: the gate is overruled, for the ledger.
        """
        return release.publish(self._workspace, batch_id=batch_id, force=force, why=why)

    def publish_preview(
        self, batch_id: str | None = None, *, force: bool = False, why: str = ""
    ) -> dict[str, Any]:
        """What `publish` would do; nothing is changed."""
        return release.preview(self._workspace, batch_id=batch_id, force=force, why=why)

    def run(self, as_of: str | datetime | None = None) -> RunOutcome:
        """Publish what is new: train where that is due, generate, audit, and publish if accepted.

        The first run is for everybody; see `scalr_ray.jobs.increment` for the later ones.
        """
        return incrementing.run(self._workspace, self._workspace.cut(as_of))

    def backfill(
        self, start: str | datetime, end: str | datetime, every: str | timedelta
    ) -> list[Origin]:
        """Do what runs at `start`, then every so often up to `end`, would have done.

        Args:
            start: the first time, in the past.
            end: none of the times lies after it.
            every: their distance, say `7d` or `12h`.

        Returns:
            What became of each time, in order; those that were done before are left as they are.
        """
        return backfilling.backfill(
            self._workspace,
            start=parse_time(start, "--from"),
            end=parse_time(end, "--to"),
            every=backfilling.parse_every(every),
        )

    def evaluate(self, out: str | Path, *batch_ids: str, command: str = "") -> dict[str, Any]:
        """Measure batches on outcomes after their cuts and write the report into `out`.

        Of several batches, say those of a backfill, each is measured on what came up to the cut of
        the next, and the verdict is that of all of them.

        Args:
            out: folder of `report.html` and `report.json`.
            batch_ids: one or more, in any order; none takes the newest.
            command: what the user called, for the report.

        Returns:
            The content of `report.json`.

        Raises:
            UsageError: there is no such batch, two have one cut, or nobody can be tested.
        """
        return evaluating.evaluate(
            self._workspace, out=Path(out), batch_ids=batch_ids, command=command
        )

    def runs(self, limit: int = 50) -> list[RunRecord]:
        """The newest calls, newest first."""
        return self._workspace.ledger.runs(limit=limit)

    def status(self) -> Status:
        """How the repository stands, and what to do next; changes nothing."""
        return look(self._workspace.repo, self._workspace.config)

    def doctor(self) -> list[Finding]:
        """Whether machine and repository are fit to run, and what to do where not."""
        return doctoring.examine(self._workspace)

    @staticmethod
    def demo(
        given: DemoInput | None = None,
        *,
        out: str | Path = "scalr-demo",
        overrides: Sequence[str] = (),
        progress: Progress | None = None,
        command: str = "",
    ) -> dict[str, Any]:
        """Run the whole path in a folder of its own; see `scalr_ray.jobs.demo`."""
        return run_demo(
            given or DemoInput(),
            out=Path(out),
            overrides=overrides,
            progress=progress or Progress(),
            command=command,
        )
