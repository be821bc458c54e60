"""Arms: the same model trained on several training sets and measured on the same users.

Legend: U users of the vocabulary, I target items, B test users, k length of a ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import optimize, sparse

from scalr_ray.core.errors import TooLittleData
from scalr_ray.core.events import TIMESTAMP
from scalr_ray.core.keyed import id_keys, keyed_uniform, stream_seed
from scalr_ray.learn import TrainingEvents
from scalr_ray.translator import Translator, Users, Vocabulary, log_scores
from scalr_ray.translator.encode import incidence
from scalr_ray.translator.prior_mix import PriorMix
from scalr_ray.translator.protocol import log_softmax, mask_entries
from training.lift import ArmResult
from training.metrics import top_k
from training.models import IALS, IALSConfig, Interactions, PopularityConfig, Ranker, rank_users

_CHUNK_USERS = 512
_TEMPERATURES = (0.01, 3.0)
_PRIOR_WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Who is tested, on what.

    A test user has a source event before the cut and a target event from the cut on, on an item
    that was seen before the cut and that the user did not have.

    Attributes:
        users: (B,) user codes.
        known: (B, I) 0/1, the user's items before the cut: excluded from rankings.
        relevant: (B, I) 0/1, the user's new items from the cut on.
        rankable: (I,) items seen before the cut.
        segments: `all`, `hidden` (no target event before the cut), `warm` (some): (B,) masks.
    """

    users: NDArray[np.int64]
    known: sparse.csr_matrix
    relevant: sparse.csr_matrix
    rankable: NDArray[np.bool_]
    segments: dict[str, NDArray[np.bool_]]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of test users per segment."""
        return {name: int(mask.sum()) for name, mask in self.segments.items()}


def holdout(events: TrainingEvents, users: NDArray[np.int64], items: NDArray[np.int64]) -> Holdout:
    """Who is tested: from what was visible and the outcomes (N,) as user and item codes.

    Args:
        events: what was visible as of the cut.
        users: user code per outcome, -1 for a user that is not in the vocabulary.
        items: item code per outcome, -1 for an item that is not.

    Raises:
        TooLittleData: nobody can be tested.
    """
    shape = (len(events.users), len(events.target_items))
    own = events.own()
    outcomes = incidence(users, items, shape)
    new = (outcomes - outcomes.multiply(own)).tocsr()
    rankable = np.asarray(own.sum(axis=0)).ravel() > 0
    new = (new @ sparse.diags(rankable.astype(np.float32))).tocsr()
    new.eliminate_zeros()
    has_source = np.diff(events.history().indptr) > 0
    tested = np.flatnonzero(has_source & (np.diff(new.indptr) > 0))
    if not tested.size:
        raise TooLittleData(
            "nobody has source events before the cut and new target events after it; choose an "
            "earlier cut or import more events"
        )
    known = own[tested]
    warm = np.diff(known.indptr) > 0
    return Holdout(
        users=tested,
        known=known,
        relevant=new[tested],
        rankable=rankable,
        segments={"all": np.ones(len(tested), dtype=bool), "hidden": ~warm, "warm": warm},
    )


def real_rows(events: TrainingEvents) -> pa.Table:
    """Real target events as training rows of weight one."""
    target = events.target
    return pa.table(
        {
            "user_id": events.users.ids.take(pa.array(target.users)),
            "item_id": events.target_items.ids.take(pa.array(target.items)),
            "event_timestamp": pa.array(target.times).cast(TIMESTAMP),
            "sample_weight": pa.array(np.ones(len(target))),
            "is_synthetic": pa.array(np.zeros(len(target), dtype=bool)),
        }
    )


def synthetic_rows(drawn: pa.Table) -> pa.Table:
    """Synthetic events as training rows of their own weight."""
    names = ("user_id", "item_id", "event_timestamp", "sample_weight")
    flag = pa.array(np.ones(drawn.num_rows, dtype=bool))
    return pa.table({**{name: drawn[name] for name in names}, "is_synthetic": flag})


def within_share(event_ids: pa.Array, share: float) -> pa.Array:
    """(N,) which events come among this share by their hash: all of a smaller share's, and more."""
    return pa.array(keyed_uniform(stream_seed("curves"), id_keys(event_ids)) < share)


def trainer_config(
    cut: datetime, mix: PriorMix, *, prior_weight: float = IALSConfig.prior_weight
) -> IALSConfig:
    """The downstream model of every arm: implicit ALS over the popularity of a mix."""
    return IALSConfig(prior=popularity_config(cut, mix), prior_weight=prior_weight)


def best_prior_weight(events: TrainingEvents, test: Holdout, cut: datetime, mix: PriorMix) -> float:
    """How much the prior weighs in the scores of the downstream model, by real events alone.

    Too little of it, and real only is a weak model that anything improves on. All arms of an
    evaluation have the weight under which the outcomes of the validation window are likeliest after
    a training on real events.

    Args:
        events: what was visible as of the cut.
        test: who is asked, on what.
        cut: the end of the events.
        mix: the prior.
    """
    model = IALS(trainer_config(cut, mix))
    model.fit(code_rows(real_rows(events), events), seed=0)
    return max(
        _PRIOR_WEIGHTS,
        key=lambda weight: float(best_likelihood(model.with_prior_weight(weight), test).mean()),
    )


def popularity_config(cut: datetime, mix: PriorMix) -> PopularityConfig:
    """The popularity of a mix, as trainers count it.

    The look-backs were weighed by what real events say of later ones: they are the best settings of
    a trainer that has real events alone.
    """
    if mix.per_event:
        (window_days, _), (recent, background) = mix.windows_days, mix.weights
        return PopularityConfig(as_of=cut, window_days=window_days, background=background / recent)
    shares = zip(mix.windows_days, mix.weights, strict=True)
    return PopularityConfig(as_of=cut, mix=tuple(shares))


def downstream_arm(
    tables: Sequence[pa.Table], config: IALSConfig, events: TrainingEvents, test: Holdout, k: int
) -> ArmResult:
    """Train once per table, the position being the seed, and rank the test users."""
    tops = []
    for seed, table in enumerate(tables):
        model = IALS(config)
        model.fit(code_rows(table, events), seed=seed)
        tops.append(_rank(model, test, k))
    return ArmResult.of(tops, test.relevant, int(test.rankable.sum()))


def code_rows(table: pa.Table, events: TrainingEvents) -> Interactions:
    """Training rows under the codes of `events`."""
    return Interactions.from_arrow(table, users=events.users.ids, items=events.target_items.ids)


def best_likelihood(model: Ranker, test: Holdout) -> NDArray[np.float64]:
    """(B,) mean log-likelihood of each user's outcomes, nats, at the temperature that suits best.

    The scores of the rankable items the user does not have become probabilities by a softmax. One
    temperature is fitted to all users, so an arm gains nothing by the scale of its scores.
    """
    scored = []
    for part in chunks(len(test.users)):
        scores = np.array(model.scores(test.users[part]), dtype=np.float32)
        mask_entries(scores, test.known[part])
        scores[:, ~test.rankable] = -np.inf
        scored.append((scores, test.relevant[part]))

    def likelihood(log_temperature: float) -> NDArray[np.float64]:
        return np.concatenate(
            [_mean_log_p(scores / np.exp(log_temperature), hit) for scores, hit in scored]
        )

    low, high = np.log(_TEMPERATURES)
    found = optimize.minimize_scalar(
        lambda value: -float(likelihood(value).mean()),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 0.02},
    )
    return likelihood(float(found.x))


def _mean_log_p(scores: NDArray[np.float32], hit: sparse.csr_matrix) -> NDArray[np.float64]:
    log_p = log_softmax(scores.astype(np.float32, copy=False))
    user = np.repeat(np.arange(hit.shape[0]), np.diff(hit.indptr))
    values = log_p[user, hit.indices].astype(np.float64)
    return np.asarray(np.bincount(user, weights=values) / np.diff(hit.indptr))


def popularity_arm(
    model: Ranker, table: pa.Table, events: TrainingEvents, test: Holdout, k: int
) -> ArmResult:
    """A ranker without randomness, trained once."""
    model.fit(code_rows(table, events), seed=0)
    return ArmResult.of([_rank(model, test, k)], test.relevant, int(test.rankable.sum()))


def translator_arm(translator: Translator, users: Users, test: Holdout, k: int) -> ArmResult:
    """The translator itself as a ranker of the test users, as of what is known of them."""
    top = np.concatenate(
        [
            top_k(
                log_scores(translator, users.part(part.start, part.stop)),
                k,
                excluded=test.known[part],
                rankable=test.rankable,
            )
            for part in chunks(len(test.users))
        ]
    )
    return ArmResult.of([top], test.relevant, int(test.rankable.sum()))


def chunks(users: int) -> list[slice]:
    """Slices that bound the memory of dense scores."""
    return [slice(at, min(at + _CHUNK_USERS, users)) for at in range(0, users, _CHUNK_USERS)]


def outcome_codes(
    table: pa.Table, users: Vocabulary, items: Vocabulary
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """User and item codes of outcome rows, -1 where unknown."""
    return users.codes(table["user_id"]), items.codes(table["item_id"])


def _rank(model: Ranker, test: Holdout, k: int) -> NDArray[np.int64]:
    return rank_users(model, test.users, k, known=test.known, rankable=test.rankable)
