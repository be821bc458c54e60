"""What is known of users, as rows to ask the net about: the same rows that it was trained on.

Legend: B users, L tokens, E tokens of all rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalr_ray.translator.histories import EventLists, Users
from scalr_ray.translator.neural.batch import FEATURE_PREFIX, SOURCE_SIDE, TARGET_SIDE


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The last tokens of B users, with where they come from.

    Attributes:
        offsets: (B + 1,) where each user's tokens begin.
        tokens: the `token_*` columns, E each.
        sides: (E,) of each token.
        origins: (E,) its position among the events of its side.
    """

    offsets: NDArray[np.int64]
    tokens: dict[str, NDArray[np.generic]]
    sides: NDArray[np.int8]
    origins: NDArray[np.int64]

    @classmethod
    def of(cls, users: Users, length: int) -> Asked:
        """The last `length` tokens of each user, both sides in one order of appearance."""
        source, own = users.source, users.own
        row = np.concatenate((source.rows, own.rows))
        sides = np.repeat([SOURCE_SIDE, TARGET_SIDE], [len(source.items), len(own.items)])
        origins = np.concatenate((np.arange(len(source.items)), np.arange(len(own.items))))
        # Stable: at equal times source comes first, and each side keeps its order.
        order = np.lexsort((np.concatenate((_no_earlier(source), _no_earlier(own))), row))
        counts = np.bincount(row, minlength=len(users))
        to_end = np.cumsum(counts)[row[order]] - np.arange(len(order))
        order = order[to_end <= length]

        def column(name: str) -> NDArray[np.generic]:
            return np.concatenate((getattr(source, name), getattr(own, name)))[order]

        return cls(
            offsets=np.concatenate(([0], np.cumsum(np.minimum(counts, length)))),
            tokens={
                "token_item": column("items"),
                "token_type": column("types"),
                "token_time": column("times"),
                "token_value": column("values"),
            },
            sides=sides[order].astype(np.int8),
            origins=origins[order],
        )

    def rows(self, users: Users, *, every_prefix: bool = False) -> pa.Table:
        """Rows with one query each as of `users.as_of`, or with one per prefix of their tokens."""
        counts = np.diff(self.offsets)
        queries = counts + 1 if every_prefix else np.ones_like(counts)
        offsets = np.concatenate(([0], np.cumsum(queries)))
        row = np.repeat(np.arange(len(counts)), queries)
        prefixes = np.arange(offsets[-1]) - offsets[row] if every_prefix else counts
        lists = {
            name: _lists(self.offsets, pa.array(column))
            for name, column in {**self.tokens, "token_side": self.sides}.items()
        }
        asked = {
            "query_item": pa.array(np.full(len(row), -1)),
            "query_time": pa.array(np.full(len(row), users.as_of)),
            "query_prefix": pa.array(prefixes),
        }
        if users.features is not None:
            for name in users.features.column_names:
                column = users.features[name].take(pa.array(row)).combine_chunks()
                asked[FEATURE_PREFIX + name] = column
        lists |= {name: _lists(offsets, column) for name, column in asked.items()}
        return pa.table({"user": pa.array(np.arange(len(counts))), **lists})


def _no_earlier(events: EventLists) -> NDArray[np.int64]:
    """(N,) the latest time so far of the same user: what came late stands where it came."""
    if not len(events.times):
        return events.times
    instants, rank = np.unique(events.times, return_inverse=True)
    base = events.rows * len(instants)
    latest = np.maximum.accumulate(base + rank) - base
    return np.asarray(instants[latest])


def _lists(offsets: NDArray[np.int64], values: pa.Array) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)
