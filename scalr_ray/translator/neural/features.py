"""Features of users and items, as Feast serves them, by their type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """How the columns of a table become tensors; fitted on training data, saved as JSON."""

    columns: tuple[str, ...]

    @classmethod
    def fit(cls, table: pa.Table) -> FeatureSpec:
        """The encoding that suits the columns of `table`."""
        return cls(columns=tuple(table.column_names))

    def encode(self, table: pa.Table) -> dict[str, Tensor]:
        """One tensor per column, with the rows of `table` first."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"columns": list(self.columns)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> FeatureSpec:
        """The spec that `to_json` has written."""
        return cls(columns=tuple(plain["columns"]))
