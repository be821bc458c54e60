"""Which translator draws, and what it knows as of the generation time.

The evidence is that of its training. The prior is counted anew, and a neural translator that reads
features of items also knows those that came later, or that nobody has touched yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.core.clock import to_micros
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.learn import TrainingEvents, with_prior_as_of
from scalr_ray.learn.crowding import without_crowders
from scalr_ray.ledger import TranslatorRecord
from scalr_ray.offline_store.pull import pull_known
from scalr_ray.translator import Translator, load_translator
from scalr_ray.translator.encode import source_ids


@dataclass(frozen=True, kw_only=True)
class TranslatorThen:
    """A translator as of a generation time.

    Attributes:
        translator: with the prior of that time.
        new: (I,) target items that it knows by their features, and was not trained with.
    """

    translator: Translator
    new: NDArray[np.bool_]

    @classmethod
    def of(cls, workspace: Workspace, record: TranslatorRecord, as_of: datetime) -> TranslatorThen:
        """A translator of the ledger as of a time, at or after its train cutoff.

        Raises:
            DataError: the translator is damaged, or a feature of items is of another type by now.
            LeakageError: it was trained later.
        """
        trained = load_translator(Path(record.path))
        model = _with_new_items(workspace, trained, as_of)
        new = trained.target_items.codes(model.target_items.ids) < 0
        if as_of == trained.train_cutoff and not new.any():
            return cls(translator=model, new=new)
        with workspace.progress.stage("Count the prior as of the generation time"):
            most = workspace.config.translator.most_target_items
            target = without_crowders(workspace.target_events(as_of), most)
            events = TrainingEvents.coded(target.slice(0, 0), target)
            model = with_prior_as_of(model, events, as_of, new=new if new.any() else None)
        return cls(translator=model, new=new)

    @property
    def first_known(self) -> pa.Table:
        """`item_id` of the new items and `first_known`, the time from which on each is known."""
        model, rows = self.translator, pa.array(self.new)
        times = pa.array(model.first_seen).cast(pa.timestamp("us", tz="UTC"))
        return pa.table(
            {"item_id": model.target_items.ids.filter(rows), "first_known": times.filter(rows)}
        )


def _with_new_items(workspace: Workspace, trained: Translator, as_of: datetime) -> Translator:
    """The translator with the items that the item-feature service knows by now, if it reads any.

    What was seen in a source domain is an item of that domain, though features are served of it.
    """
    service = workspace.config.translator.neural.item_features
    ask = workspace.features_for(trained.kind, "item_id")
    if ask is None or service is None:
        return trained
    from scalr_ray.translator.neural.translator import NeuralTranslator
    from scalr_ray.translator.neural.widening import with_items

    assert isinstance(trained, NeuralTranslator)
    if trained.item_features is None:
        return trained
    known = pull_known(workspace.store, service, key="item_id", as_of=as_of)
    ids = known["item_id"].cast(trained.target_items.ids.type).combine_chunks()
    elsewhere = pc.is_in(ids.cast(pa.string()), value_set=source_ids(trained.source_items.ids))
    fresh = pc.and_(pa.array(trained.target_items.codes(ids) < 0), pc.invert(elsewhere))
    ids, since = ids.filter(fresh), known["since"].filter(fresh)
    served = ask(ids, np.full(len(ids), to_micros(as_of)))
    # A service says nothing of an item whose rows have expired.
    told = np.zeros(len(ids), dtype=bool)
    for column in served.columns:
        told |= column.is_valid().to_numpy()
    if not told.any():
        return trained
    workspace.progress.note(f"{int(told.sum()):,} items are new, and known by their features")
    return with_items(
        trained,
        ids.filter(pa.array(told)),
        served=served.filter(pa.array(told)),
        first_seen=np.asarray(since.filter(pa.array(told)).cast(pa.int64())),
    )
