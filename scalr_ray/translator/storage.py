"""Translators on disk: data, not code, so that loading one runs nothing of its own.

```
<folder>/translator.json       settings, cutoff, delays, and the sha256 of each other file
         source_items.parquet  key
         target_items.parquet  item_id, and what is known of each
         counts.parquet        of a frequency translator: source, target, weight, users, units
         weights.safetensors   of a neural one (see `translator.neural.storage`)
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from scalr_ray.core.errors import DataError
from scalr_ray.translator.artifact import kind_of, reading, refuse_strength, write_artifact
from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.frequency import FrequencyTranslator, Strength
from scalr_ray.translator.prior_mix import PriorMix
from scalr_ray.translator.protocol import Translator
from scalr_ray.translator.weighing import Weighing

_MOST = 2.0**53  # users: beyond it a float64 does not count
_TYPES: dict[str, tuple[pa.DataType, ...]] = {
    "source": (pa.int32(),),
    "target": (pa.int32(),),
    "weight": (pa.float32(),),
    "users": (pa.float32(),),
    "units": (pa.int64(),),
    "key": (pa.string(),),
    "item_id": (pa.string(), pa.int64()),
    "marginal": (pa.float64(),),
    "prior": (pa.float64(),),
    "first_seen": (pa.int64(),),
}


def save_translator(
    translator: Translator,
    folder: Path,
    *,
    without: Sequence[str] = (),
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write a translator of any kind, so that a reader finds all of it or nothing.

    Args:
        translator: to be written.
        folder: where; what lies there is replaced.
        without: what stands for users who are not in it, be it that they were left out or taken
            out of its counts.
        beside: text files to put beside a frequency translator, by name.
    """
    if isinstance(translator, FrequencyTranslator):
        _save_frequency(translator, folder, without, beside or {})
        return
    from scalr_ray.translator.neural.storage import save_neural
    from scalr_ray.translator.neural.translator import NeuralTranslator

    assert isinstance(translator, NeuralTranslator)
    save_neural(translator, folder, without=without)


def load_translator(folder: Path) -> Translator:
    """Read a translator of any kind back.

    Raises:
        DataError: the folder is missing, incomplete, damaged or of another format.
    """
    kind = kind_of(folder)
    if kind == "frequency":
        with reading(folder) as settings:
            return _load_frequency(settings, folder)
    if kind != "neural":
        raise DataError(f"translator {folder} is of the unknown kind {kind!r}; train again")
    from scalr_ray.translator.neural.storage import load_neural

    return load_neural(folder)


def left_out(folder: Path) -> frozenset[str]:
    """What stands for the users who are not in a translator.

    Raises:
        DataError: the folder is missing, incomplete, damaged or of another format.
    """
    with reading(folder) as settings:
        return frozenset(settings.get("without", ()))


def _save_frequency(
    translator: FrequencyTranslator,
    folder: Path,
    without: Sequence[str],
    beside: Mapping[str, str],
) -> None:
    strength = translator.strength

    def write(staged: Path) -> None:
        for name, table in _tables(translator).items():
            pq.write_table(table, staged / name)
        for name, text in beside.items():
            (staged / name).write_text(text, encoding="utf-8")

    settings = {
        "train_cutoff": translator.train_cutoff.isoformat(),
        "prior_mix": asdict(translator.mix),
        "weighing": translator.weighing.to_json(),
        "shrinkage": strength.shrinkage,
        "alpha": strength.alpha,
        "temperature": strength.temperature,
        "delays_us": translator.delays.tolist(),
        "without": sorted(without),
    }
    write_artifact(folder, kind=translator.kind, settings=settings, write=write)


def _tables(translator: FrequencyTranslator) -> dict[str, pa.Table]:
    counts = translator.counts.tocoo()
    columns = {
        "source": pa.array(counts.row.astype(np.int32)),
        "target": pa.array(counts.col.astype(np.int32)),
        "weight": pa.array(counts.data.astype(np.float32)),
    }
    if translator.pair_users is not None:
        # The same pairs in the same order: they were made from one table.
        columns["users"] = pa.array(translator.pair_users.data.astype(np.float32))
    if translator.pair_units is not None:
        columns["units"] = pa.array(translator.pair_units)
    return {
        "counts.parquet": pa.table(columns),
        "source_items.parquet": pa.table({"key": translator.source_items.ids}),
        "target_items.parquet": pa.table(
            {
                "item_id": translator.target_items.ids,
                "marginal": translator.marginal,
                "prior": translator.prior,
                "first_seen": translator.first_seen,
            }
        ),
    }


def _load_frequency(settings: dict[str, Any], folder: Path) -> FrequencyTranslator:
    counts = _read(folder / "counts.parquet")
    sources = _read(folder / "source_items.parquet")
    targets = _read(folder / "target_items.parquet")
    places = (counts["source"].to_numpy(), counts["target"].to_numpy())

    def matrix(column: str) -> sparse.csr_matrix:
        shape = (sources.num_rows, targets.num_rows)
        return sparse.csr_matrix((counts[column].to_numpy(), places), shape=shape)

    translator = FrequencyTranslator(
        train_cutoff=datetime.fromisoformat(settings["train_cutoff"]),
        source_items=Vocabulary(ids=sources["key"].combine_chunks()),
        target_items=Vocabulary(ids=targets["item_id"].combine_chunks()),
        counts=matrix("weight"),
        weighing=Weighing.from_json(settings["weighing"]),
        pair_users=matrix("users") if "users" in counts.column_names else None,
        pair_units=counts["units"].to_numpy() if "units" in counts.column_names else None,
        mix=PriorMix.from_json(settings["prior_mix"]),
        marginal=targets["marginal"].to_numpy(),
        prior=targets["prior"].to_numpy(),
        first_seen=targets["first_seen"].to_numpy(),
        delays=np.asarray(settings["delays_us"], dtype=np.int64),
        strength=Strength(
            shrinkage=settings["shrinkage"],
            alpha=settings["alpha"],
            temperature=settings["temperature"],
        ),
    )
    _refuse_unfit(translator)
    return translator


def _read(file: Path) -> pa.Table:
    table = pq.read_table(file)
    for field in table.schema:
        if field.type not in _TYPES.get(field.name, ()) or table[field.name].null_count:
            raise ValueError(f"{file.name}: {field.name!r} is {field.type}, or has nulls")
    return table


def _refuse_unfit(translator: FrequencyTranslator) -> None:
    """Refuse what no training writes, so that no score can come out as no number."""
    strength, weighing = translator.strength, translator.weighing
    arrays = [translator.marginal, translator.prior, translator.counts.data]
    if translator.pair_users is not None:
        arrays.append(translator.pair_users.data)
    for array in arrays:
        if not ((array >= 0) & (array < _MOST)).all():  # also of NaN
            raise ValueError("a count or a share is none")
    for items in (translator.source_items, translator.target_items):
        _refuse_double(items.ids)
    refuse_strength(strength.alpha, strength.temperature, strength.shrinkage)
    if not strength.temperature or not strength.shrinkage:
        raise ValueError(f"the strength is {strength}")
    if translator.delays.ndim != 1 or translator.train_cutoff.tzinfo is None:
        raise ValueError("the delays or the cutoff are none")
    if (translator.pair_users is None) is not weighing.is_plain:
        raise ValueError("the users of the pairs do not fit how they were counted")


def _refuse_double(ids: pa.Array) -> None:
    if ids.null_count or len(ids.unique()) != len(ids):
        raise ValueError("an item is named twice, or not at all")
