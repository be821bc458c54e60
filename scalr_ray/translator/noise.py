"""Noise on the co-occurrence table, for those who must promise more than a minimum of users.

It is off by default: it hides what little a pair of a long tail has (`tests/bench/pairs.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalr_ray.core.errors import ConfigError
from scalr_ray.core.keyed import keyed_uniform, stream_seed
from scalr_ray.translator.counts import PairCounts, PairRules


@dataclass(frozen=True, kw_only=True)
class Bound:
    """How many items of a user are counted at most, so that noise can hide a whole user.

    Which ones is decided by a hash of the user, the item and the seed: the same in every run and
    partition.

    Attributes:
        source_items: at most so many source items of each user.
        target_items: at most so many target items of each user.
        seed: of the choice.
    """

    source_items: int
    target_items: int
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Discrete Laplace noise on the weights of pairs, and what it does and does not promise.

    The unit of privacy is a user: two logs are neighbours if one has all the events of one user and
    the other none of them. With the `bound` applied when counting, such a user changes at most
    `source_items * target_items` pairs by at most `PairRules.most_units` each; that product is the
    L1 sensitivity, and the scale of the noise is the sensitivity over `epsilon`.

    - Noise is put on pairs that somebody has, so which pairs there are tells of users too. Only
      with a threshold afterwards, `PairCounts.with_floor(n)`, is the published table
      (epsilon, `delta(n)`)-differentially private. Without one there is no guarantee.
    - It holds for the pairs alone. Marginals, the prior, first sightings and delays are exact
      counts, and so are not covered; nor is what is later generated from a user's own history.
    - It holds for one release. The noise of a pair is a function of the seed: rerunning gives the
      same table and costs nothing, but two tables of different data under one seed differ by the
      exact difference. Give each release a seed of its own, and add up the epsilons.
    - The seed must be secret. The generator is not a cryptographic one.

    Attributes:
        epsilon: the privacy loss of one release.
        bound: what each user contributes at most; the counts must have been made under it.
        seed: of the noise.

    Raises:
        ConfigError: epsilon is not above 0.
    """

    epsilon: float
    bound: Bound
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < np.inf:
            raise ConfigError(
                f"translator.noise_epsilon is {self.epsilon}; give a number above 0, or null"
            )

    def scale_units(self, rules: PairRules) -> float:
        """The scale of the noise, in units of 1 / `ONE`."""
        return self.pairs_of_a_user * rules.most_units / self.epsilon

    @property
    def pairs_of_a_user(self) -> int:
        """How many pairs one user is counted in at most."""
        return self.bound.source_items * self.bound.target_items

    def delta(self, min_users: int) -> float:
        """How likely at most a pair that one user alone has is seen above a floor of `min_users`.

        A union bound over the pairs of a user: P(noise >= (n - 1) users), for each of them.
        """
        tail = np.exp(-(min_users - 1) * self.epsilon / self.pairs_of_a_user)
        return float(min(1.0, self.pairs_of_a_user * tail))


def with_noise(counts: PairCounts, noise: Noise, rules: PairRules) -> PairCounts:
    """The counts with noise on every pair; `Noise` says what that promises.

    Users are told from the noisy weight, so that it is all that is said of a pair: as many as it
    takes at least to weigh so much. Pairs that are left without any are dropped.

    Args:
        counts: made under `rules` and `noise.bound`.
        noise: how much, and of which seed.
        rules: what one user adds to a pair.
    """
    keys = [_key_numbers(counts.pairs[side]) for side in ("source", "target")]
    scale = noise.scale_units(rules)
    # The difference of two geometric draws is a discrete Laplace draw.
    up, down = (
        np.floor(
            -scale * np.log(keyed_uniform(stream_seed("pair-noise", sign, noise.seed), *keys))
        ).astype(np.int64)
        for sign in "+-"
    )
    weight = counts.pairs["weight"].to_numpy() + up - down
    columns = [*counts.pairs.columns[:2], weight // rules.most_units, weight]
    noisy = pa.table(columns, counts.pairs.schema.names)
    return PairCounts(pairs=noisy, targets=counts.targets).with_floor(1)


def _key_numbers(keys: pa.ChunkedArray) -> NDArray[np.uint64]:
    """(P,) a 64-bit number for each key, the same for equal keys in any table."""
    coded = keys.combine_chunks().dictionary_encode()
    numbers = [stream_seed(key) for key in coded.dictionary.to_pylist()]
    return np.asarray(np.array(numbers, dtype=np.uint64)[coded.indices.to_numpy()])
