"""Fitting the neural translator: how long to train, how strong its evidence is, and the last fit.

Three cuts in a row: [.., inner) trains and [inner, validation) says when to stop; the net that
comes of it is asked as of the validation cut, and the validation window, which it has not seen,
chooses alpha and temperature and checks that the evidence helps. Then a new net is trained for as
many epochs on everything before the train cutoff.

What is served of a user is asked as of each example. Items are many, so what is served of them is
asked as of a few times only: those at which as many equal parts of the examples begin, and the cut.
An example reads of items what was known at the beginning of its part, and what is judged or
generated reads what was known at the cut: nothing reads what became known after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from scalr_ray.core.clock import EPOCH, floor_day, from_micros, to_micros
from scalr_ray.core.config import NeuralSettings
from scalr_ray.core.errors import TooLittleData
from scalr_ray.core.keyed import stream_seed
from scalr_ray.learn.counts import delay_quantiles, first_appearances, first_sightings
from scalr_ray.learn.events import TrainingEvents
from scalr_ray.learn.fit import FittedTranslator
from scalr_ray.learn.neural.examples import training_queries, training_rows
from scalr_ray.learn.neural.loop import LoopSettings
from scalr_ray.learn.neural.task import OnEpoch, Train, TrainedNet, TrainingTask, train_here
from scalr_ray.learn.prior import prior_as_of
from scalr_ray.learn.strength import Chosen, choose_strength
from scalr_ray.learn.window import Window, validation_window
from scalr_ray.translator.histories import FeaturesAsOf
from scalr_ray.translator.neural.candidates import Catalogue
from scalr_ray.translator.neural.config import NetShape
from scalr_ray.translator.neural.features import FeatureSpec
from scalr_ray.translator.neural.net import TranslatorNet
from scalr_ray.translator.neural.translator import NeuralTranslator
from scalr_ray.translator.prior import DAY_MICROS, PopularityIndex, log_prior_of
from scalr_ray.translator.prior_mix import PriorMix

if TYPE_CHECKING:
    from scalr_ray.learn.neural.examples_ray import RowsOnCluster
    from scalr_ray.offline_store.engine import Engine

# Share of the target events before the validation cut that say when to stop.
_INNER_SHARE = 0.1
# However few rows there are, training may take so many steps, and waits so long for a better one.
_LEAST_STEPS = 1500
_PATIENT_STEPS = 300
# Users whose target events are withheld from the first net, and how many of them there must be.
_WITHHELD_SHARE = 0.4
_LEAST_UNSEEN = 20
# Catalogues up to this size are compared in full, larger ones by as many drawn items.
_FULL_CATALOGUE = 2048
# Times at which features of items are asked for in training.
_FEATURE_TIMES = 8


@dataclass(frozen=True, kw_only=True)
class NeuralFit:
    """What a fit is told.

    Attributes:
        mix: the look-backs of the prior.
        alphas: exponents of the evidence to try; 0 is always tried.
        settings: of net and training.
        seed: of everything random.
        user_features: what Feast serves of users as of times; None without.
        item_features: what it serves of target items; None without.
        engine: whether a Ray cluster makes the rows, for a `train` that takes them from there; None
            makes them here.
    """

    mix: PriorMix
    alphas: Sequence[float]
    settings: NeuralSettings
    seed: int
    user_features: FeaturesAsOf | None = None
    item_features: FeaturesAsOf | None = None
    engine: Engine | None = None


def fit_neural(
    events: TrainingEvents,
    *,
    validation_cut: datetime,
    cutoff: datetime,
    how: NeuralFit,
    hidden: NDArray[np.bool_] | None = None,
    train: Train = train_here,
    on_epoch: OnEpoch = lambda _, __: None,
) -> FittedTranslator[NeuralTranslator]:
    """Train, choose the strength on [validation_cut, cutoff), and train again up to `cutoff`.

    Args:
        events: coded events; those not visible as of `cutoff` are ignored.
        validation_cut: start of the validation window.
        cutoff: the train cutoff.
        how: what the fit is told.
        hidden: (U,) users whose target events before the validation cut the first net must not
            see, so that it can be tried on them; None takes some by a hash of their ids.
        train: where nets are trained.
        on_epoch: called with the name of the training and the report of each epoch.

    Raises:
        DataError: there are too few events or users to train or validate on.
        TrainingDiverged: the loss is not finite.
    """
    visible = events.as_of(cutoff).compact()
    before = visible.as_of(validation_cut)
    if hidden is None:
        hidden = withheld(events, how.seed)
    before = before.without_target_of(hidden[events.users.codes(visible.users.ids)])
    fitting = _Fitting(how)
    task = _stopping_task(fitting, before, validation_cut)
    trained = train(task, on_epoch)
    first = fitting.translator(task, trained, before, validation_cut)
    window = validation_window(
        visible, validation_cut, cutoff, how.seed, known=before, features=how.user_features
    )
    chosen = _choose(first, window, how.alphas)
    settings = how.settings.model_copy(update={"epochs": trained.epochs})
    fixed = _Fitting(replace(how, settings=settings))
    task = fixed.task("final", visible, cutoff, None)
    last = fixed.translator(task, train(task, on_epoch), visible, cutoff)
    at = chosen.translator
    return FittedTranslator(
        translator=last.tuned(alpha=at.alpha, temperature=at.temperature),
        at_validation=at,
        chosen=chosen,
    )


def withheld(events: TrainingEvents, seed: int) -> NDArray[np.bool_]:
    """(U,) some users, by their ids, so that others move nobody."""
    ids = events.users.ids.to_pylist()
    keys = np.array([stream_seed("withheld", seed, user) for user in ids], dtype=np.uint64)
    return np.asarray(keys < np.uint64(int(_WITHHELD_SHARE * 2.0**64)))


def _choose(
    translator: NeuralTranslator, window: Window, alphas: Sequence[float]
) -> Chosen[NeuralTranslator]:
    """The strength for the users as they are, if the source domain alone tells anything of them.

    What a user did in the target domain tells what they will do there; a net that has seen it may
    know the user again by their source events; and it may mend the prior for everybody. None of it
    is transfer. So the gain is that of users whose target events the net has never seen, and it is
    what their own source events add over those of somebody else. Without it nothing is proposed.
    """
    unseen = np.flatnonzero(np.diff(window.users.own.offsets) == 0)
    if len(unseen) < _LEAST_UNSEEN:
        raise TooLittleData(
            f"only {len(unseen)} users of the validation window have no target history; at least "
            f"{_LEAST_UNSEEN} are needed to see whether anything transfers: import more events"
        )
    transfer = choose_strength([translator], window.rows(unseen), alphas=alphas, control=_swapped)
    transfer = replace(transfer, over="another user's source events")
    if not transfer.transfers:
        return transfer
    chosen = choose_strength([translator], window, alphas=alphas)
    return replace(transfer, translator=chosen.translator, likelihood=chosen.likelihood)


def _swapped(window: Window) -> Window:
    """The window, each user with the source events and features of another."""
    other = np.roll(np.arange(len(window)), len(window) // 2)
    users, swapped = window.users, window.users.take(other)
    return replace(window, users=replace(users, source=swapped.source, features=swapped.features))


def stopping_task(
    events: TrainingEvents,
    *,
    validation_cut: datetime,
    how: NeuralFit,
    hidden: NDArray[np.bool_],
) -> TrainingTask:
    """What the first training of `fit_neural` is given: for those who try other settings on it."""
    before = events.as_of(validation_cut).without_target_of(hidden)
    return _stopping_task(_Fitting(how), before, validation_cut)


def _stopping_task(
    fitting: _Fitting, before: TrainingEvents, validation_cut: datetime
) -> TrainingTask:
    return fitting.task("validation", before, _inner_cut(before), validation_cut)


@dataclass(frozen=True)
class _Fitting:
    """What both trainings have in common."""

    how: NeuralFit

    def task(
        self, name: str, events: TrainingEvents, cut: datetime, until: datetime | None
    ) -> TrainingTask:
        """Train on target events before `cut`; stop by those in [cut, until), if that is given."""
        settings, items = self.how.settings, len(events.target_items)
        queries = training_queries(events, start=EPOCH, end=cut)
        served = self._of_users(events.users.ids.take(queries["user"]), np.asarray(queries["time"]))
        rows = self._rows(events, start=EPOCH, end=cut, features=served)
        asked_at = _feature_times(np.asarray(queries["time"]), cut)
        of_items = self._of_items(events.target_items.ids, asked_at)
        shape = NetShape(
            source_items=len(events.source_items),
            target_items=items,
            event_types=len(events.event_types),
            length=settings.length,
            width=settings.width,
            layers=settings.layers,
            heads=settings.heads,
            dropout=settings.dropout,
            id_dropout=settings.id_dropout,
            user_features=None if served is None else FeatureSpec.fit(served),
            item_features=None if of_items is None else _spec_of_items(of_items, items),
        )
        asked = np.bincount(np.asarray(queries["item"]), minlength=items)
        return TrainingTask(
            name=name,
            shape=shape,
            settings=self._loop(rows.num_rows, stops_early=until is not None),
            catalogue=Catalogue(
                prior=self._index(events),
                first_seen=first_appearances(events),
                shares=asked / max(asked.sum(), 1),
                negatives=_negatives(settings, items),
                features=_encoded(shape.item_features, of_items),
                feature_times=asked_at,
            ),
            rows=rows,
            validation=None if until is None else self._validation(events, cut, until),
        )

    def translator(
        self, task: TrainingTask, trained: TrainedNet, events: TrainingEvents, cut: datetime
    ) -> NeuralTranslator:
        """The trained net with everything it needs to answer as of `cut`."""
        net = TranslatorNet(task.shape)
        net.load_state_dict(trained.weights)
        seen = events.as_of(cut)
        of_items = self._of_items(events.target_items.ids, np.array([to_micros(cut)]))
        return NeuralTranslator(
            net=net.eval(),
            train_cutoff=cut,
            source_items=events.source_items,
            target_items=events.target_items,
            event_types=events.event_types,
            mix=self.how.mix,
            log_prior=log_prior_of(
                prior_as_of(seen, cut, kind=NeuralTranslator.kind, mix=self.how.mix)
            ),
            first_seen=first_sightings(seen),
            delays=delay_quantiles(seen.source, seen.target),
            item_features=_encoded(task.shape.item_features, of_items),
        )

    def _validation(
        self, events: TrainingEvents, cut: datetime, until: datetime
    ) -> pa.Table | RowsOnCluster:
        """Rows of the target events in [cut, until), all asked as of `cut`."""
        queries = training_queries(events, start=cut, end=until)
        times = np.full(queries.num_rows, to_micros(cut))
        served = self._of_users(events.users.ids.take(queries["user"]), times)
        return self._rows(events, start=cut, end=until, as_of=cut, features=served)

    def _rows(
        self,
        events: TrainingEvents,
        *,
        start: datetime,
        end: datetime,
        features: pa.Table | None,
        as_of: datetime | None = None,
    ) -> pa.Table | RowsOnCluster:
        """The same rows, made here or on a cluster."""
        length, engine = self.how.settings.length, self.how.engine
        if engine is None or not engine.takes_cluster(events.count):
            return training_rows(
                events, start=start, end=end, length=length, as_of=as_of, features=features
            )
        from scalr_ray.learn.neural.examples_ray import RowsMade, training_rows_on_cluster

        made = RowsMade(start=start, end=end, length=length, as_of=as_of)
        return training_rows_on_cluster(
            events, made, features=features, partition_rows=engine.partition_rows
        )

    def _of_users(self, ids: pa.Array, times: NDArray[np.int64]) -> pa.Table | None:
        ask = self.how.user_features
        return None if ask is None else ask(_flat(ids), times)

    def _of_items(self, ids: pa.Array, times: NDArray[np.int64]) -> pa.Table | None:
        """What is served of all the items as of one time after the other."""
        ask = self.how.item_features
        if ask is None:
            return None
        every = pa.array(np.tile(np.arange(len(ids)), len(times)))
        return ask(_flat(ids.take(every)), np.repeat(times, len(ids)))

    def _index(self, events: TrainingEvents) -> PopularityIndex:
        target = events.target_log.first_to_appear()
        return PopularityIndex.of(
            target.items,
            target.times,
            target.known_from,
            items=len(events.target_items),
            mix=self.how.mix,
        )

    def _loop(self, rows: int, *, stops_early: bool) -> LoopSettings:
        settings = self.how.settings
        epochs, patience = settings.epochs, settings.epochs
        if stops_early:
            # A net learns by steps: few rows take more passes over them.
            steps = -(-rows // (settings.batch_rows * settings.accumulate))
            epochs = max(epochs, -(-_LEAST_STEPS // steps))
            patience = max(settings.patience, -(-_PATIENT_STEPS // steps))
        return LoopSettings(
            epochs=epochs,
            batch_rows=settings.batch_rows,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            accumulate=settings.accumulate,
            drop_own=settings.drop_own,
            bf16=True,
            compile=settings.compile,
            patience=patience,
            seed=self.how.seed,
        )


def _feature_times(times: NDArray[np.int64], cut: datetime) -> NDArray[np.int64]:
    """(E,) the days on which equal parts of the examples at `times` (Q,) begin, and the cut."""
    parts = np.quantile(times, np.arange(_FEATURE_TIMES) / _FEATURE_TIMES, method="inverted_cdf")
    return np.append(np.unique(parts // DAY_MICROS * DAY_MICROS), to_micros(cut))


def _spec_of_items(served: pa.Table, items: int) -> FeatureSpec:
    """The encoding of what is served of items (I) as of `_feature_times`."""
    # What there is at the cut alone would be used and never learned from.
    return FeatureSpec.fit(served.slice(0, served.num_rows - items))


def _negatives(settings: NeuralSettings, items: int) -> int:
    if settings.negatives == "auto":
        return 0 if items <= _FULL_CATALOGUE else _FULL_CATALOGUE
    return settings.negatives


def _encoded(spec: FeatureSpec | None, table: pa.Table | None) -> dict[str, Tensor] | None:
    return None if spec is None or table is None else spec.encode(table)


def _flat(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    return ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids


def _inner_cut(events: TrainingEvents) -> datetime:
    """The day from which on the last share of the target events lies."""
    times = events.target.times
    if not len(times):
        raise TooLittleData("no target event lies before the validation cut; choose a later one")
    return floor_day(from_micros(int(np.quantile(times, 1.0 - _INNER_SHARE))))
