"""A translator on disk: JSON and Parquet only, so that loading one runs no code of its own.

```
<folder>/translator.json       settings, cutoff, delays, and the sha256 of each other file
         counts.parquet        source, target, users
         source_items.parquet  key
         target_items.parquet  item_id, marginal, prior, first_seen
```
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from scalr_ray.core.errors import DataError
from scalr_ray.core.fingerprint import file_fingerprint
from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.frequency import FrequencyTranslator, Strength
from scalr_ray.translator.prior_mix import PriorMix
from scalr_ray.translator.protocol import Translator

_FORMAT = 2
_SETTINGS = "translator.json"


def save_translator(translator: Translator, folder: Path) -> None:
    """Write a translator of any kind, so that a reader finds all of it or nothing."""
    if isinstance(translator, FrequencyTranslator):
        _save_frequency(translator, folder)
        return
    from scalr_ray.translator.neural.storage import save_neural
    from scalr_ray.translator.neural.translator import NeuralTranslator

    assert isinstance(translator, NeuralTranslator)
    save_neural(translator, folder)


def load_translator(folder: Path) -> Translator:
    """Read a translator of any kind back.

    Raises:
        DataError: the folder is missing, incomplete, damaged or of another format.
    """
    if (folder / "weights.safetensors").exists():
        from scalr_ray.translator.neural.storage import load_neural

        return load_neural(folder)
    return load_frequency(folder)


def _save_frequency(translator: FrequencyTranslator, folder: Path) -> None:
    staged = folder.with_name(f".{folder.name}.partial")
    replaced = folder.with_name(f".{folder.name}.replaced")
    for leftover in (staged, replaced):
        if leftover.exists():
            shutil.rmtree(leftover)
    staged.mkdir(parents=True)
    tables = _tables(translator)
    for name, table in tables.items():
        pq.write_table(table, staged / name)
    strength = translator.strength
    settings = {
        "format": _FORMAT,
        "kind": "frequency",
        "train_cutoff": translator.train_cutoff.isoformat(),
        "prior_mix": asdict(translator.mix),
        "shrinkage": strength.shrinkage,
        "alpha": strength.alpha,
        "temperature": strength.temperature,
        "delays_us": translator.delays.tolist(),
        "files": {name: file_fingerprint(staged / name) for name in tables},
    }
    (staged / _SETTINGS).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    if folder.exists():
        folder.rename(replaced)
    staged.rename(folder)
    if replaced.exists():
        shutil.rmtree(replaced)


def load_frequency(folder: Path) -> FrequencyTranslator:
    """Read a frequency translator back.

    Raises:
        DataError: the folder is missing, incomplete, damaged or of another format.
    """
    try:
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        if settings["format"] != _FORMAT:
            raise DataError(f"translator {folder} has another format; run `scalr train` again")
        for name, recorded in settings["files"].items():
            if file_fingerprint(folder / name) != recorded:
                raise DataError(f"translator {folder}: {name} is damaged; run `scalr train` again")
        return _assemble(settings, folder)
    # Arrow's errors and malformed JSON are ValueErrors.
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(
            f"translator {folder} is unreadable ({reason}); run `scalr train` again"
        ) from error


def _tables(translator: FrequencyTranslator) -> dict[str, pa.Table]:
    counts = translator.counts.tocoo()
    return {
        "counts.parquet": pa.table(
            {
                "source": pa.array(counts.row.astype(np.int32)),
                "target": pa.array(counts.col.astype(np.int32)),
                "users": pa.array(counts.data.astype(np.float32)),
            }
        ),
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


def _assemble(settings: dict[str, Any], folder: Path) -> FrequencyTranslator:
    counts = pq.read_table(folder / "counts.parquet")
    sources = pq.read_table(folder / "source_items.parquet")
    targets = pq.read_table(folder / "target_items.parquet")
    places = (counts["source"].to_numpy(), counts["target"].to_numpy())
    return FrequencyTranslator(
        train_cutoff=datetime.fromisoformat(settings["train_cutoff"]),
        source_items=Vocabulary(ids=sources["key"].combine_chunks()),
        target_items=Vocabulary(ids=targets["item_id"].combine_chunks()),
        counts=sparse.csr_matrix(
            (counts["users"].to_numpy(), places), shape=(sources.num_rows, targets.num_rows)
        ),
        mix=_mix(settings["prior_mix"]),
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


def _mix(saved: dict[str, Any]) -> PriorMix:
    return PriorMix(
        windows_days=tuple(saved["windows_days"]),
        weights=tuple(saved["weights"]),
        per_event=saved["per_event"],
    )
