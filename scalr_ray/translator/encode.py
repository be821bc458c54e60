"""From ids to dense integer codes, and from coded events to sparse user-by-item matrices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from scalr_ray.core.fingerprint import fingerprint
from scalr_ray.core.keyed import id_keys

# Joins domain and item id into one key; a control character that no id should carry.
KEY_SEPARATOR = "\x1f"


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Distinct ids in ascending order; the code of an id is its position.

    Attributes:
        ids: (V,) sorted, distinct, without nulls.
    """

    ids: pa.Array

    @classmethod
    def of(cls, values: pa.Array | pa.ChunkedArray) -> Vocabulary:
        """The vocabulary of the distinct `values`."""
        distinct = pc.unique(values)
        ids = distinct.take(pc.array_sort_indices(distinct))
        return cls(ids=ids)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def fingerprint(self) -> str:
        """Equal for equal ids in equal order, so for equal codes."""
        return fingerprint(self.ids.to_pylist(), 32)

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """(V,) what keyed draws know each id by, whichever codes it has."""
        return id_keys(self.ids)

    def codes(self, values: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        """(N,) the code of each value, -1 where it is unknown."""
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        found = pc.index_in(values, value_set=self.ids)
        return np.asarray(pc.fill_null(found, -1).cast(pa.int64()))


def source_keys(table: pa.Table) -> pa.Array:
    """(N,) one text key per event for its (domain, item_id): item ids may repeat across domains."""
    keys = pc.binary_join_element_wise(
        table["domain"], pc.cast(table["item_id"], pa.string()), KEY_SEPARATOR
    )
    return keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys


def source_domains(keys: pa.Array) -> pa.Array:
    """(N,) the domain of each key of `source_keys`."""
    return pc.list_element(pc.split_pattern(keys, KEY_SEPARATOR, max_splits=1), 0)


def source_ids(keys: pa.Array) -> pa.Array:
    """(N,) the item id, as text, of each key of `source_keys`."""
    return pc.list_element(pc.split_pattern(keys, KEY_SEPARATOR, max_splits=1), 1)


def incidence(
    rows: NDArray[np.int64], cols: NDArray[np.int64], shape: tuple[int, int]
) -> sparse.csr_matrix:
    """A 0/1 CSR matrix of float32; negative codes are left out, repeats count once."""
    keep = (rows >= 0) & (cols >= 0)
    matrix = sparse.csr_matrix(
        (np.ones(int(keep.sum()), dtype=np.float32), (rows[keep], cols[keep])), shape=shape
    )
    matrix.data[:] = 1.0
    return matrix
