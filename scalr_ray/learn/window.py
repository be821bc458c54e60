"""The validation window: users as of its start, and what they did in it.

Legend: B users of the window, I target items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from scalr_ray.core.errors import TooLittleData
from scalr_ray.core.keyed import stream_seed
from scalr_ray.learn.events import TrainingEvents
from scalr_ray.translator.encode import incidence
from scalr_ray.translator.histories import FeaturesAsOf, Users

_MIN_USERS = 20
# Users whose scores over all items are held at a time: so many, or as many as take 256 MB.
_CHUNK_USERS = 256
_CHUNK_SCORES = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Window:
    """Users with a source event before a window and a new, by then known item within it.

    Attributes:
        users: what was visible of them as of the start.
        own: (B, I) 0/1, their items as of the start.
        relevant: (B, I) 0/1, their new items in the window.
    """

    users: Users
    own: sparse.csr_matrix
    relevant: sparse.csr_matrix

    def __len__(self) -> int:
        return len(self.users)

    def rows(self, keep: NDArray[np.int64]) -> Window:
        """The users at the positions `keep`, in that order."""
        return Window(
            users=self.users.take(keep),
            own=self.own[keep],
            relevant=self.relevant[keep],
        )

    def chunks(self) -> Iterator[Window]:
        """The window in parts whose dense scores fit into memory."""
        step = max(1, min(_CHUNK_USERS, _CHUNK_SCORES // max(self.own.shape[1], 1)))
        for at in range(0, len(self), step):
            yield self.rows(np.arange(at, min(at + step, len(self))))

    def halves(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of the first and of the second half: two random samples of the users."""
        half = len(self) // 2
        return np.arange(half), np.arange(half, len(self))


def validation_window(
    events: TrainingEvents,
    start: datetime,
    end: datetime,
    seed: int,
    *,
    known: TrainingEvents | None = None,
    features: FeaturesAsOf | None = None,
) -> Window:
    """The window [start, end), its users in the order of a hash of their ids.

    In that order any stretch of users is a random sample, and other users move nobody.

    Args:
        events: coded events.
        start: what users have is known as of then.
        end: of the window.
        seed: of the hash.
        known: what is known as of `start`, under the same codes; None takes it from `events`.
        features: what is served of users; None where nothing is asked.

    Raises:
        DataError: there are too few users to validate on.
    """
    before = known or events.as_of(start)
    own = before.own()
    known_items = np.bincount(own.indices, minlength=own.shape[1]) > 0
    has_history = np.bincount(before.source.users, minlength=len(events.users)) > 0
    later = events.target.between(start, end)
    later = later.where(known_items[later.items] & has_history[later.users])
    codes = np.unique(later.users)
    if len(codes) < _MIN_USERS:
        raise TooLittleData(
            f"only {len(codes)} users have source events before {start:%Y-%m-%d} and target events "
            f"from then on; at least {_MIN_USERS} are needed: move the cuts or import more events"
        )
    codes = codes[_hash_order(events.users.ids.take(pa.array(codes)).to_pylist(), seed)]
    relevant = incidence(later.users, later.items, own.shape)
    return Window(
        users=before.known(codes, start, features),
        own=own[codes],
        relevant=relevant[codes],
    )


def _hash_order(users: Sequence[object], seed: int) -> NDArray[np.int64]:
    keys = [stream_seed("validation-split", seed, user) for user in users]
    return np.argsort(np.array(keys, dtype=np.uint64))
