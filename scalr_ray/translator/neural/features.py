"""Features of users and items, as Feast serves them, by their Arrow type.

```
number    integers, floats          sign(x) log(1 + |x|), standardised, and whether it is there
boolean                             0 or 1, and whether it is there
category  text                      a code per frequent value, one for all others, one for null
bag       lists of text, integers   the codes of the first 16 elements; their embeddings' mean
vector    lists of floats, all of   as they are, over their root mean square, and whether they
          one length                are there
```

A spec is fitted on training data, is plain JSON, and turns any table with the same columns into
tensors. Columns that cannot be used are left out with a note. An integer is a number, so cast ids
to text.

Legend: N rows, E length of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalr_ray.core.errors import DataError

Kind = Literal["number", "boolean", "category", "bag", "vector"]

# Codes of a vocabulary begin after these.
_UNKNOWN, _NULL, FIRST_CODE = 0, 1, 2
_MOST_VALUES = 16_384
_MOST_ELEMENTS = 16
_LARGEST = 10.0  # standard deviations that a number may lie off


@dataclass(frozen=True, kw_only=True)
class Column:
    """How one column becomes a tensor.

    Attributes:
        name: of the column.
        kind: by its type.
        mean: of a number after its logarithm.
        scale: what a number or vector is divided by.
        size: E, the length of a vector.
        values: the vocabulary of a category or bag, most frequent first, as text.
    """

    name: str
    kind: Kind
    mean: float = 0.0
    scale: float = 1.0
    size: int = 0
    values: tuple[str, ...] = ()

    def encode(self, column: pa.Array) -> Tensor:
        """(N, 2) for numbers and booleans, (N,) codes, (N, 16) codes, or (N, E + 1)."""
        match self.kind:
            case "number":
                return _flagged(
                    np.clip((_logs(column) - self.mean) / self.scale, -_LARGEST, _LARGEST)
                )
            case "boolean":
                return _flagged(_floats(column.cast(pa.int8())))
            case "category":
                return torch.from_numpy(self._codes(column))
            case "bag":
                return self._bags(column)
            case "vector":
                return self._vectors(column)

    def _codes(self, column: pa.Array) -> NDArray[np.int64]:
        text = column.cast(pa.string())
        found = pc.index_in(text, value_set=pa.array(self.values, pa.string()))
        codes = np.asarray(pc.fill_null(found.cast(pa.int64()), _UNKNOWN - FIRST_CODE)) + FIRST_CODE
        codes[np.asarray(pc.is_null(text))] = _NULL
        return np.asarray(codes)

    def _bags(self, column: pa.Array) -> Tensor:
        row, flat = _flat(column)
        place = np.arange(len(row)) - np.searchsorted(row, row)
        codes = self._codes(flat)
        bags = np.zeros((len(column), _MOST_ELEMENTS), dtype=np.int64)
        kept = (place < _MOST_ELEMENTS) & (codes >= FIRST_CODE)
        bags[row[kept], place[kept]] = codes[kept]
        return torch.from_numpy(bags)

    def _vectors(self, column: pa.Array) -> Tensor:
        row, flat = _flat(column)
        lengths = np.bincount(row, minlength=len(column))
        if not np.isin(lengths, (0, self.size)).all():
            raise DataError(
                f"feature {self.name} has vectors of {int(lengths.max())} numbers where "
                f"{self.size} were learned from; serve one length, or train again"
            )
        dense = np.zeros((len(column), self.size + 1), dtype=np.float32)
        present = lengths > 0
        numbers = np.nan_to_num(_floats(flat), posinf=0.0, neginf=0.0)
        dense[present, :-1] = numbers.reshape(-1, self.size) / self.scale
        dense[present, -1] = 1.0
        return torch.from_numpy(dense)


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """How the columns of a table become tensors.

    Attributes:
        columns: those that are used.
        notes: one line for each that is not, and why.
    """

    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def fit(cls, table: pa.Table) -> FeatureSpec:
        """The encoding of the columns of `table`, whose rows are training data.

        Raises:
            DataError: no column can be used.
        """
        columns, notes = [], []
        for name in table.column_names:
            fitted = _fit(name, _one(table[name]))
            if isinstance(fitted, Column):
                columns.append(fitted)
            else:
                notes.append(f"feature {name} is left out: {fitted}")
        if not columns:
            raise DataError(
                f"none of the features can be learned from ({'; '.join(notes) or 'no columns'}); "
                "materialise them for the training window, or configure no feature service"
            )
        return cls(columns=tuple(columns), notes=tuple(notes))

    def encode(self, table: pa.Table) -> dict[str, Tensor]:
        """One tensor per used column, with the rows of `table` first.

        Raises:
            DataError: a column is missing, or of a type that it was not when the spec was fitted.
        """
        encoded = {}
        for column in self.columns:
            if column.name not in table.column_names:
                raise DataError(
                    f"feature {column.name} is missing; the translator was trained with it: "
                    "serve it, or train again"
                )
            values = _one(table[column.name])
            if not pa.types.is_null(values.type) and _kind(values.type) != column.kind:
                raise DataError(
                    f"feature {column.name} is {values.type} but was a {column.kind} in training; "
                    "serve the same type, or train again"
                )
            encoded[column.name] = column.encode(values)
        return encoded

    def to_json(self) -> dict[str, Any]:
        """A JSON object from which `from_json` gives an equal spec."""
        return {
            "columns": [asdict(column) for column in self.columns],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> FeatureSpec:
        """The spec that `to_json` has written."""
        columns = (
            Column(**{**column, "values": tuple(column["values"])}) for column in plain["columns"]
        )
        return cls(columns=tuple(columns), notes=tuple(plain["notes"]))


def _fit(name: str, column: pa.Array) -> Column | str:
    """How the column is encoded, or why it cannot be."""
    kind = _kind(column.type)
    if column.null_count == len(column):
        return "it has no value in the training window"
    match kind:
        case None:
            fitted: Column | str = f"the type {column.type} is not supported"
        case "number":
            fitted = _fit_number(name, column)
        case "boolean":
            fitted = Column(name=name, kind=kind)
        case "category":
            fitted = Column(name=name, kind=kind, values=_frequent(column))
        case "bag":
            fitted = Column(name=name, kind=kind, values=_frequent(_flat(column)[1]))
        case "vector":
            fitted = _fit_vector(name, column)
    return fitted


def _fit_number(name: str, column: pa.Array) -> Column | str:
    logs = _logs(column)
    if not np.isfinite(logs).any():
        return "it has no finite value in the training window"
    spread = float(np.nanstd(logs))
    return Column(name=name, kind="number", mean=float(np.nanmean(logs)), scale=spread or 1.0)


def _fit_vector(name: str, column: pa.Array) -> Column | str:
    row, flat = _flat(column)
    lengths = np.unique(np.bincount(row)) if len(row) else np.zeros(0, dtype=np.int64)
    lengths = lengths[lengths > 0]
    if len(lengths) != 1:
        return "its lists of floats have no one length"
    numbers = np.nan_to_num(_floats(flat), posinf=0.0, neginf=0.0)
    size = float(np.sqrt(np.mean(np.square(numbers, dtype=np.float64))))
    return Column(name=name, kind="vector", scale=size or 1.0, size=int(lengths[0]))


def _kind(kind: pa.DataType) -> Kind | None:
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    if _is_text(kind):
        return "category"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        element = kind.value_type
        if pa.types.is_floating(element):
            return "vector"
        if _is_text(element) or pa.types.is_integer(element) or pa.types.is_boolean(element):
            return "bag"
    return None


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
    )


def _one(column: pa.ChunkedArray) -> pa.Array:
    """The column in one piece."""
    joined = column.combine_chunks()
    if isinstance(joined, pa.ChunkedArray):
        return joined.chunk(0) if joined.num_chunks else pa.array([], joined.type)
    return joined


def _flat(column: pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
    """The row of each list element, and the elements; a null list has none."""
    if pa.types.is_null(column.type):
        return np.zeros(0, dtype=np.int64), pa.array([], pa.float32())
    return np.asarray(pc.list_parent_indices(column), dtype=np.int64), pc.list_flatten(column)


def _floats(column: pa.Array) -> NDArray[np.float32]:
    """(N,) the numbers, NaN where null."""
    return np.asarray(column.cast(pa.float32()).to_numpy(zero_copy_only=False), dtype=np.float32)


def _logs(column: pa.Array) -> NDArray[np.float64]:
    """(N,) sign(x) log(1 + |x|), NaN where null or not finite."""
    x = np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    x[~np.isfinite(x)] = np.nan
    return np.asarray(np.sign(x) * np.log1p(np.abs(x)))


def _flagged(values: NDArray[np.floating[Any]]) -> Tensor:
    """(N, 2) the values with 0 for NaN, and whether they are there."""
    present = np.isfinite(values)
    return torch.from_numpy(
        np.stack((np.where(present, values, 0.0), present), axis=1).astype(np.float32)
    )


def _frequent(column: pa.Array) -> tuple[str, ...]:
    """The most frequent values, as text; equally frequent ones in order of their text."""
    counted = column.cast(pa.string()).drop_null().value_counts()
    pairs = zip(
        counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True
    )
    ranked = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
    return tuple(value for value, _ in ranked[:_MOST_VALUES])
