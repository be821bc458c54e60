"""Erasing users from what was learned of them.

Frequency tables lose what the users gave, exactly (`scalr_ray.learn.forget`), and say whom they
have lost, so that nothing is taken out twice. From a net nobody can take anything out, and from
noisy counts neither: those that saw events of the users are flagged, and not used until others are
trained. A translator says which erased users are not in it: those that its training left out, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.duck import quote_text
from scalr_ray.core.errors import DataError
from scalr_ray.core.subjects import SubjectKey
from scalr_ray.core.versions import latest_versions
from scalr_ray.jobs.erase_files import remove
from scalr_ray.jobs.train import TRIAL_NAME
from scalr_ray.jobs.workspace import SOURCE_VIEW, TARGET_VIEW, Workspace
from scalr_ray.learn import TrainingEvents
from scalr_ray.learn.crowding import without_crowders
from scalr_ray.learn.forget import recounted, without_users
from scalr_ray.learn.pairs import PairRows
from scalr_ray.ledger import TranslatorRecord
from scalr_ray.offline_store.event_stream import query
from scalr_ray.offline_store.store import engine_of, session_of
from scalr_ray.offline_store.stream_events import stream_events
from scalr_ray.translator import FrequencyTranslator, load_translator, save_translator
from scalr_ray.translator.storage import left_out

DECREMENTED, RECOUNTED, FLAGGED = "decremented", "recounted and flagged", "flagged"

_SAW = "it saw events of users who were erased"
_NOISY = "its counts are noisy, and users who were erased cannot be taken out of them"
_OTHER_EVENTS = "it was counted on other events than those that are there now"
_UNREADABLE = "its files are gone or damaged"


def forget_users(
    workspace: Workspace, user_ids: Sequence[str | int], *, dry_run: bool = False
) -> dict[str, str]:
    """Take users out of every translator that saw them, or flag it.

    The events of the users must still be there, and the ledger must name the users as erased. What
    lies beside the translators without being in the ledger is of a training that died, and goes.

    Args:
        workspace: an opened repository.
        user_ids: in the type of the repository.
        dry_run: find out what would be done, and change nothing.

    Returns:
        By version what was done; translators that never saw the users are left out.

    Raises:
        RetryLater, StateUnknown, UsageError: as the store and the ledger.
    """
    forgetting = _Forgetting.of(workspace, user_ids, dry_run=dry_run)
    records = workspace.ledger.translators()
    done = {record.version: forgetting.of_one(record) for record in records}
    if not dry_run:
        remove(stray_translators(workspace, records))
    return {version: what for version, what in sorted(done.items()) if what is not None}


def stray_translators(workspace: Workspace, records: Sequence[TranslatorRecord]) -> list[Path]:
    """What lies beside the translators of the ledger and is none of them."""
    folder = workspace.layout.translators
    known = {Path(record.path).name for record in records}
    found = folder.iterdir() if folder.exists() else ()
    return sorted(path for path in found if path.name not in known)


@dataclass(frozen=True, kw_only=True)
class _Forgetting:
    """Whom to forget.

    Attributes:
        workspace: an opened repository.
        subjects: user id to keyed hash; without hashes in a dry run before the first erasure.
        dry_run: change nothing.
    """

    workspace: Workspace
    subjects: dict[str | int, str]
    dry_run: bool

    @classmethod
    def of(
        cls, workspace: Workspace, user_ids: Sequence[str | int], *, dry_run: bool
    ) -> _Forgetting:
        # A dry run makes no key where there is none: nobody was left out of anything then.
        known = not dry_run or workspace.layout.erasure_key.exists()
        key = SubjectKey.of(workspace.layout) if known else None
        subjects = {user_id: key.subject(user_id) if key else "" for user_id in user_ids}
        return cls(workspace=workspace, subjects=subjects, dry_run=dry_run)

    def of_one(self, record: TranslatorRecord) -> str | None:
        """What became of a translator; None where it never saw the users, or has lost them."""
        folder = Path(record.path)
        try:
            lost = left_out(folder)
        except DataError:  # so the ledger says that it cannot be used
            return self._flag(record, _UNREADABLE)
        users = {user: subject for user, subject in self.subjects.items() if subject not in lost}
        if not users:
            return None
        run = self.workspace.ledger.run(record.run_id)
        domains = run.config["domains"]
        sides = {SOURCE_VIEW: tuple(domains["source"]), TARGET_VIEW: (str(domains["target"]),)}
        gone = self._events_of(list(users), sides, record.train_cutoff)
        if not any(events.num_rows for events in gone):
            return None
        if record.kind != "frequency":
            return self._flag(record, _SAW)
        return self._from_counts(record, gone, sides, [*lost, *users.values()])

    def _from_counts(
        self,
        record: TranslatorRecord,
        gone: tuple[pa.Table, pa.Table],
        sides: dict[str, tuple[str, ...]],
        without: Sequence[str],
    ) -> str | None:
        translator = load_translator(Path(record.path))
        assert isinstance(translator, FrequencyTranslator)
        if translator.weighing.noisy:
            return self._flag(record, _NOISY)
        if self.dry_run:
            return DECREMENTED
        return self._take_out(record, translator, gone, sides, without)

    def _take_out(
        self,
        record: TranslatorRecord,
        translator: FrequencyTranslator,
        gone: tuple[pa.Table, pa.Table],
        sides: dict[str, tuple[str, ...]],
        without: Sequence[str],
    ) -> str:
        workspace, cutoff = self.workspace, record.train_cutoff
        mosts = translator.weighing.most_source_items, translator.weighing.most_target_items
        others = TrainingEvents.coded(
            *(
                without_crowders(workspace.events(view, cutoff, names), most)
                for (view, names), most in zip(sides.items(), mosts, strict=True)
            )
        )
        config = workspace.store.config
        limits = session_of(config).limits
        # Who was left out of the counts gave nothing.
        counted = [without_crowders(events, most) for events, most in zip(gone, mosts, strict=True)]
        rows = PairRows.of(counted[0], counted[1], cutoff)
        try:
            forgotten = without_users(translator, rows, others, limits)
            what = DECREMENTED
        except DataError:  # what they gave cannot be known, but what the others give can
            forgotten = recounted(translator, others, limits, engine_of(config))
            what = RECOUNTED
        trial = Path(record.path) / TRIAL_NAME
        beside = {TRIAL_NAME: trial.read_text(encoding="utf-8")} if trial.exists() else {}
        save_translator(forgotten, Path(record.path), without=without, beside=beside)
        if what == RECOUNTED:
            self._flag(record, _OTHER_EVENTS)
        return what

    def _flag(self, record: TranslatorRecord, why: str) -> str | None:
        if record.flagged is None and not self.dry_run:
            self.workspace.ledger.flag_translator(record.version, why)
        return FLAGGED if record.flagged is None else None

    def _events_of(
        self,
        user_ids: Sequence[str | int],
        sides: dict[str, tuple[str, ...]],
        as_of: datetime,
    ) -> tuple[pa.Table, pa.Table]:
        """The source and the target events of some users that were visible as of a time."""
        source, target = (
            _events_of(self.workspace, view, domains, user_ids, as_of)
            for view, domains in sides.items()
        )
        return source, target


def _events_of(
    workspace: Workspace,
    view: str,
    domains: Sequence[str],
    user_ids: Sequence[str | int],
    as_of: datetime,
) -> pa.Table:
    stream = stream_events(workspace.store, view, as_of=as_of)
    named = ", ".join(quote_text(str(user_id)) for user_id in user_ids)
    of_users = f"SELECT * FROM ({stream.sql}) WHERE CAST(user_id AS VARCHAR) IN ({named})"
    found = query(replace(stream, sql=of_users), "SELECT * FROM {events}")
    rows = latest_versions(found, as_of)
    return rows.filter(pc.is_in(rows["domain"], value_set=pa.array(domains, pa.string())))
