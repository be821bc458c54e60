"""What differs between two training sets: what was asked for, and which events they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from training.dataset import MixedDataset
from training.manifest import weight_column

_ABSENT = "-"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How two training sets differ; `str` shows it as a table.

    Attributes:
        names: of the two.
        manifest: what their manifests say differently: dotted key -> the two values, None where
            one has no such key.
        only: how many events only the first, and only the second has.
        reweighted: how many events both have, with another weight.
        common: how many events both have.
    """

    names: tuple[str, str]
    manifest: Mapping[str, tuple[Any, Any]]
    only: tuple[int, int]
    reweighted: int
    common: int

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.manifest or any(self.only) or self.reweighted)

    def __str__(self) -> str:
        rows = [
            ("", *self.names),
            *((key, _shown(a), _shown(b)) for key, (a, b) in self.manifest.items()),
            ("events only here", *(f"{count:,}" for count in self.only)),
            ("events in both", f"{self.common:,}", ""),
            ("  with other weights", f"{self.reweighted:,}", ""),
        ]
        widths = [max(len(row[place]) for row in rows) for place in range(3)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


def compare(names: tuple[str, str], sets: tuple[MixedDataset, MixedDataset]) -> Difference:
    """What differs between two training sets.

    Args:
        names: how to call them.
        sets: the two.
    """
    first, second = (_flat(dataset.manifest) for dataset in sets)
    keys = [*first, *(key for key in second if key not in first)]
    one, two = (
        dataset.table.select(["event_id", weight_column(dataset.manifest)]).rename_columns(
            ["event_id", name]
        )
        for dataset, name in zip(sets, ("weight", "other_weight"), strict=True)
    )
    both = one.join(two, keys="event_id", join_type="inner")
    other = pc.not_equal(both["weight"], both["other_weight"])
    return Difference(
        names=names,
        manifest={
            key: (first.get(key), second.get(key))
            for key in keys
            if first.get(key) != second.get(key)
        },
        only=(one.num_rows - both.num_rows, two.num_rows - both.num_rows),
        reweighted=int(pc.sum(other).as_py() or 0),
        common=both.num_rows,
    )


def _flat(manifest: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in manifest.items():
        name = f"{above}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _shown(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if value is None:
        return _ABSENT
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
