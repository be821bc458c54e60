"""The discriminator: can a classifier tell synthetic events from real ones, and by what?

Gradient-boosted trees learn on a keyed sample of both (`contrast`), one model for each of three
folds of users. A row is weighed by the model of the next fold and judged by that of the one after:
neither has seen its user, and an error of the one is none of the other, so that the area under the
curve of weighed rows is fair. That area says how far the two lie apart; what each feature
contributes and how far it shifts says why. A feature has **shifted**
where its population stability index is above 0.25 or it alone reaches an area of 0.6: a trainer
that uses it learns to tell synthetic rows instead of learning from them, and should drop it.

With p the chance that a row is real, both sides weighing the same, p / (1 - p) estimates how much
denser real events lie there than synthetic ones. Clipped, and scaled to mean 1 over the rows that
stay, that is the density weight.

Trees, not a logistic regression: on two real directions they reach an area of 0.72 where that one
reaches 0.58, because what gives events away is seldom monotone (the times at which an item sold).
And a prediction of trees for a row is the same bit for bit whichever rows stand beside it.

Legend: I items, N rows, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from scalr_ray.core.keyed import keyed_bits, stream_seed
from scalr_ray.generate.refining.contrast import Contrast, ItemFacts
from scalr_ray.generate.refining.separation import Auc, FoldRankings, feature_auc, feature_stability

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

# With fewer rows of either side in a fold, an area under the curve is not known to five percent.
LEAST_FOLD_ROWS = 250
SHIFTED_PSI = 0.25
SHIFTED_AUC = 0.6
_LEAST_IMPORTANCE = 0.01  # of an area under the curve

_FOLDS = 3
_TREES = 50
_LEAVES = 8
_LEAST_LEAF_ROWS = 50


@dataclass(frozen=True, kw_only=True)
class FeatureShift:
    """How far one feature lies apart between real and synthetic events.

    Attributes:
        name: of the feature.
        psi: population stability index over ten bins of the real events.
        auc: area under the curve of the feature alone, in [0.5, 1].
        importance: what the discriminator's area loses when the feature is shuffled; None for what
            it does not see: features of the user, and served ones.
    """

    name: str
    psi: float
    auc: float
    importance: float | None

    @property
    def shifted(self) -> bool:
        """Whether a trainer should drop it."""
        return self.psi > SHIFTED_PSI or self.auc > SHIFTED_AUC


@dataclass(frozen=True, kw_only=True)
class DiscriminatorReport:
    """What the discriminator found.

    Attributes:
        rows: real and synthetic rows of the sample, the latter as drawn.
        before: area under the curve for all that was drawn and accepted.
        after: the same for the rows that stay; None where too few stay.
        weighted: what the same scores reach where the rows that stay count by their density weight;
            None where they have none.
        features: how far each lies apart in the rows that stay (all, where too few stay).
    """

    rows: tuple[int, int]
    before: Auc
    after: Auc | None
    weighted: Auc | None
    features: tuple[FeatureShift, ...]

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> DiscriminatorReport:
        """What `asdict` gave, before or after it went through JSON."""

        def area(name: str) -> Auc | None:
            return None if saved[name] is None else Auc(**saved[name])

        real, synthetic = saved["rows"]
        return cls(
            rows=(real, synthetic),
            before=Auc(**saved["before"]),
            after=area("after"),
            weighted=area("weighted"),
            features=tuple(FeatureShift(**feature) for feature in saved["features"]),
        )

    @property
    def shifted(self) -> tuple[str, ...]:
        """The features a trainer should drop, the most telling first."""
        telling = sorted(self.features, key=lambda feature: (-feature.auc, feature.name))
        return tuple(feature.name for feature in telling if feature.shifted)

    @property
    def given_away_by(self) -> tuple[str, ...]:
        """The features without which the discriminator would do worse, the most telling first.

        None where its area under the curve may as well be one half.
        """
        if (self.after or self.before).low <= 0.5:
            return ()
        lost = {f.name: f.importance for f in self.features if f.importance is not None}
        telling = sorted(lost, key=lambda name: (-lost[name], name))
        return tuple(name for name in telling if lost[name] > _LEAST_IMPORTANCE)

    @property
    def final(self) -> Auc:
        """The area under the curve of what the trainer gets."""
        return self.weighted or self.after or self.before

    @property
    def sentence(self) -> str:
        """The finding in one line."""
        steps = [("drawn", self.before), ("kept", self.after), ("weighted", self.weighted)]
        areas = ", ".join(
            f"{auc.estimate:.3f} [{auc.low:.3f}, {auc.high:.3f}] {name}"
            for name, auc in steps
            if auc is not None
        )
        told = f"; told by {', '.join(self.given_away_by)}" if self.given_away_by else ""
        shifted = f"; shifted: {', '.join(self.shifted)}" if self.shifted else ""
        return f"real against synthetic: AUC {areas}{told}{shifted}"


@dataclass(frozen=True, kw_only=True)
class Discriminator:
    """One model per fold, learnt from the users of that fold."""

    models: tuple[HistGradientBoostingClassifier, ...]

    def judge(
        self, features: NDArray[np.float64], user_key: NDArray[np.uint64]
    ) -> NDArray[np.float64]:
        """(N,) chance that each row is real, for areas under the curve.

        Args:
            features: (N, F).
            user_key: (N,).
        """
        return self._probability(features, (fold_of(user_key) + 2) % _FOLDS)

    def weigh(
        self, features: NDArray[np.float64], user_key: NDArray[np.uint64]
    ) -> NDArray[np.float64]:
        """The same for density weights, by other models than those that `judge`."""
        return self._probability(features, (fold_of(user_key) + 1) % _FOLDS)

    def _probability(
        self, features: NDArray[np.float64], which: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        chance = np.empty(len(features))
        with threadpool_limits(1, user_api="openmp"):
            for number, model in enumerate(self.models):
                rows = np.flatnonzero(which == number)
                if rows.size:
                    chance[rows] = model.predict_proba(features[rows])[:, 1]
        return chance


@dataclass(frozen=True, kw_only=True)
class Density:
    """The density weight of any row.

    Attributes:
        facts: of the items.
        discriminator: what tells real from synthetic.
        clip: the ratio lies between 1 / clip and clip.
        mean: of the clipped ratio over the rows that stay.
    """

    facts: ItemFacts
    discriminator: Discriminator
    clip: float
    mean: float = 1.0

    def weights(
        self, item: NDArray[np.int64], micros: NDArray[np.int64], user_key: NDArray[np.uint64]
    ) -> NDArray[np.float64]:
        """(N,) of rows on these items (codes), at these times (us), of these users (keys)."""
        features = self.facts.features(item, micros)
        return self.ratio(self.discriminator.weigh(features, user_key)) / self.mean

    def ratio(self, probability: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) the clipped odds of `probability` (N,), before they are scaled."""
        odds = probability / np.maximum(1.0 - probability, np.finfo(np.float64).tiny)
        return np.clip(odds, 1.0 / self.clip, self.clip)


def fold_of(user_key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(N,) the fold of each user key (N,)."""
    return np.asarray(keyed_bits(stream_seed("fold"), user_key) % np.uint64(_FOLDS), dtype=np.int64)


def enough(contrast: Contrast) -> bool:
    """Whether each fold has enough rows of either side to learn from."""
    fold = fold_of(contrast.user_key)
    sizes = [
        int(((fold == number) & (contrast.real == side)).sum())
        for number in range(_FOLDS)
        for side in (True, False)
    ]
    return min(sizes) >= LEAST_FOLD_ROWS


def fit_discriminator(contrast: Contrast, *, seed: int) -> Discriminator:
    """Learn to tell the rows of `contrast` apart; both sides weigh the same."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    fold, models = fold_of(contrast.user_key), []
    # One thread: the sums over rows, and so the trees, must not depend on the machine.
    with threadpool_limits(1, user_api="openmp"):
        for number in range(_FOLDS):
            model = HistGradientBoostingClassifier(
                max_iter=_TREES,
                max_leaf_nodes=_LEAVES,
                min_samples_leaf=_LEAST_LEAF_ROWS,
                early_stopping=False,
                random_state=seed % 2**32,
            )
            rows = fold == number
            weight = _balanced(contrast.weight[rows], contrast.real[rows])
            models.append(
                model.fit(contrast.features[rows], contrast.real[rows], sample_weight=weight)
            )
    return Discriminator(models=tuple(models))


def discriminator_auc(discriminator: Discriminator, contrast: Contrast, *, seed: int) -> Auc:
    """The area under the curve, each row judged by the model that has not seen its user."""
    chance = discriminator.judge(contrast.features, contrast.user_key)
    rankings = FoldRankings.of(chance, contrast.real, fold_of(contrast.user_key))
    return rankings.auc_with_interval(contrast.weight, contrast.user_key, seed=seed)


def feature_shifts(
    discriminator: Discriminator, contrast: Contrast, *, seed: int
) -> tuple[FeatureShift, ...]:
    """How far each feature lies apart: those of the row, of the user, and served ones."""
    importances = _importances(discriminator, contrast, seed)
    columns = [*contrast.features.T, *contrast.user_features.T]
    names = (*contrast.names, *contrast.user_names)
    return tuple(
        FeatureShift(
            name=name,
            psi=feature_stability(values, contrast.real, contrast.weight),
            auc=feature_auc(values, contrast.real, contrast.weight),
            importance=importances.get(name),
        )
        for name, values in zip(names, columns, strict=True)
    )


def reweighted(contrast: Contrast, density: Density) -> Contrast:
    """The rows, synthetic ones weighing their density ratio on top."""
    chance = density.discriminator.weigh(contrast.features, contrast.user_key)
    factor = np.where(contrast.real, 1.0, density.ratio(chance))
    return replace(contrast, weight=contrast.weight * factor)


def _importances(discriminator: Discriminator, contrast: Contrast, seed: int) -> dict[str, float]:
    """What the area under the curve loses when each feature of the row is shuffled."""
    fold = fold_of(contrast.user_key)

    def auc(features: NDArray[np.float64]) -> float:
        chance = discriminator.judge(features, contrast.user_key)
        return FoldRankings.of(chance, contrast.real, fold).auc(contrast.weight)

    full, lost = auc(contrast.features), {}
    for at, name in enumerate(contrast.names):
        order = np.argsort(keyed_bits(stream_seed("shuffle", name, seed), np.arange(len(fold))))
        shuffled = contrast.features.copy()
        shuffled[:, at] = shuffled[order, at]
        lost[name] = full - auc(shuffled)
    return lost


def _balanced(weight: NDArray[np.float64], real: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The weights scaled such that real and synthetic rows sum to half of the rows each."""
    sums = np.where(real, weight[real].sum(), weight[~real].sum())
    return np.asarray(weight * (0.5 * len(weight)) / sums)
