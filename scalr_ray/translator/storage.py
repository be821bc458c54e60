"""A translator on disk: JSON and Parquet only, so that loading one runs no code of its own.

```
<folder>/translator.json       settings, cutoff, delays
         counts.parquet        source, target, users
         source_items.parquet  key
         target_items.parquet  item_id, marginal, prior, first_seen
```
"""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from scalr_ray.core.errors import DataError
from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.frequency import FrequencyTranslator, Strength

_FORMAT = 1


def save_translator(translator: FrequencyTranslator, folder: Path) -> None:
    """Write all files beside `folder` and rename, so that a reader finds all of them or none."""
    staged = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    counts = translator.counts.tocoo()
    pq.write_table(
        pa.table(
            {
                "source": pa.array(counts.row.astype(np.int32)),
                "target": pa.array(counts.col.astype(np.int32)),
                "users": pa.array(counts.data.astype(np.float32)),
            }
        ),
        staged / "counts.parquet",
    )
    pq.write_table(pa.table({"key": translator.source_items.ids}), staged / "source_items.parquet")
    pq.write_table(
        pa.table(
            {
                "item_id": translator.target_items.ids,
                "marginal": translator.marginal,
                "prior": translator.prior,
                "first_seen": translator.first_seen,
            }
        ),
        staged / "target_items.parquet",
    )
    strength = translator.strength
    settings = {
        "format": _FORMAT,
        "kind": "frequency",
        "train_cutoff": translator.train_cutoff.isoformat(),
        "window_days": strength.window_days,
        "shrinkage": strength.shrinkage,
        "alpha": strength.alpha,
        "temperature": strength.temperature,
        "delays_us": translator.delays.tolist(),
    }
    (staged / "translator.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)


def load_translator(folder: Path) -> FrequencyTranslator:
    """Read a translator back.

    Raises:
        DataError: the folder is missing, incomplete or of another format.
    """
    try:
        settings = json.loads((folder / "translator.json").read_text(encoding="utf-8"))
        counts = pq.read_table(folder / "counts.parquet")
        sources = pq.read_table(folder / "source_items.parquet")
        targets = pq.read_table(folder / "target_items.parquet")
    except (OSError, pa.ArrowInvalid, json.JSONDecodeError) as error:
        raise DataError(
            f"translator {folder} is unreadable ({error}); run `scalr train`"
        ) from error
    if settings.get("format") != _FORMAT:
        raise DataError(f"translator {folder} has another format; run `scalr train` again")
    return FrequencyTranslator(
        train_cutoff=datetime.fromisoformat(settings["train_cutoff"]),
        source_items=Vocabulary(ids=sources["key"].combine_chunks()),
        target_items=Vocabulary(ids=targets["item_id"].combine_chunks()),
        counts=sparse.csr_matrix(
            (
                counts["users"].to_numpy(),
                (counts["source"].to_numpy(), counts["target"].to_numpy()),
            ),
            shape=(sources.num_rows, targets.num_rows),
        ),
        marginal=targets["marginal"].to_numpy(),
        prior=targets["prior"].to_numpy(),
        first_seen=targets["first_seen"].to_numpy(),
        delays=np.asarray(settings["delays_us"], dtype=np.int64),
        strength=Strength(
            window_days=settings["window_days"],
            shrinkage=settings["shrinkage"],
            alpha=settings["alpha"],
            temperature=settings["temperature"],
        ),
    )
