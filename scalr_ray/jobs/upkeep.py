"""The part of the SDK that mends, takes back, tidies up and looks back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from scalr_ray.core.errors import DataError
from scalr_ray.jobs import collect as collecting
from scalr_ray.jobs import erase as erasing
from scalr_ray.jobs import lineage as looking_back
from scalr_ray.jobs import recover as recovering
from scalr_ray.jobs import retire as retiring
from scalr_ray.jobs.collect import Collected
from scalr_ray.jobs.erase import Erased
from scalr_ray.jobs.lineage import Difference, Lineage
from scalr_ray.jobs.recover import Repair
from scalr_ray.jobs.retire import Retired
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.lake import CompactedFiles


class Upkeep:
    """What can be done about what is there; `scalr_ray.Scalr` has it."""

    _workspace: Workspace

    def recover(self, *, give_up: Sequence[str] = (), dry_run: bool = False) -> list[Repair]:
        """Make whole what a crash left half done; a second time changes nothing.

        Args:
            give_up: runs of other machines that are dead.
            dry_run: say what would be done, and change nothing.
        """
        return recovering.recover(self._workspace, give_up=give_up, dry_run=dry_run)

    def retire(self, batch_id: str, *, why: str = "") -> Retired:
        """Take a published batch back; saved training sets that hold it still load."""
        return retiring.retire(self._workspace, batch_id, why=why)

    def erase(
        self, users: Sequence[str | int] | Path, *, why: str = "", dry_run: bool = False
    ) -> Erased:
        """Erase users from everything, and keep them out from now on.

        Args:
            users: their ids, or a text file with one id a line.
            why: for the ledger; it must name nobody.
            dry_run: say what would be done, and change nothing.
        """
        texts = _lines(users) if isinstance(users, Path) else [str(user) for user in users]
        return erasing.erase(self._workspace, texts, why=why, dry_run=dry_run)

    def gc(self, *, dry_run: bool = False) -> list[Collected]:
        """Remove old snapshots, orphan files and unfinished work, as `retention` says."""
        return collecting.collect(self._workspace, dry_run=dry_run)

    def compact(self) -> CompactedFiles | None:
        """Put few files in the place of the small ones of many batches; None if there are not.

        Rows, batches and snapshots stay as they are; `gc` removes the small files later.
        """
        with self._workspace.run("compact") as run:
            with self._workspace.progress.stage("Put small files together"):
                compacted = self._workspace.lake.compact()
            if compacted is not None:
                run.metrics.update(asdict(compacted))
        return compacted

    def lineage(self, event_id: str) -> Lineage:
        """Walk back from a synthetic event to what was observed."""
        return looking_back.trace(self._workspace, event_id)

    def compare(self, first: str, second: str) -> list[Difference]:
        """In what two runs differ: code, settings, what they made, what they measured."""
        return looking_back.compare_runs(self._workspace, first, second)


def _lines(file: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text: write one user id a line") from error
    lines = [line for line in text.replace("\r\n", "\n").split("\n") if line]
    if not lines:
        raise DataError(f"{file} names nobody; write one user id a line")
    return lines
