"""A neural translator on disk: tensors, Parquet and JSON; loading one runs no code of its own.

```
<folder>/translator.json            settings, look-backs, shape, delays, sha256 of each other file
         weights.safetensors        of the net
         item_features.safetensors  encoded item features, where there are any
         source_items.parquet       key
         target_items.parquet       item_id, log_prior, first_seen
         event_types.parquet        event_type
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
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalr_ray.core.errors import DataError
from scalr_ray.translator.artifact import reading, refuse_strength, write_artifact
from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.neural.config import NetShape
from scalr_ray.translator.neural.net import TranslatorNet
from scalr_ray.translator.neural.translator import NeuralTranslator
from scalr_ray.translator.prior_mix import PriorMix

_WEIGHTS = "weights.safetensors"
_ITEM_FEATURES = "item_features.safetensors"


def save_neural(translator: NeuralTranslator, folder: Path, *, without: Sequence[str] = ()) -> None:
    """Write all files beside `folder` and rename, so that a reader finds all of them or none.

    Args:
        translator: to be written.
        folder: where; what lies there is replaced.
        without: what stands for users whom it was trained without.
    """

    def write(staged: Path) -> None:
        for name, table in _tables(translator).items():
            pq.write_table(table, staged / name)
        for name, tensors in _tensors(translator).items():
            save_file(tensors, staged / name)

    settings = {
        "train_cutoff": translator.train_cutoff.isoformat(),
        "prior_mix": asdict(translator.mix),
        "shape": translator.net.shape.to_json(),
        "alpha": translator.alpha,
        "temperature": translator.temperature,
        "delays_us": translator.delays.tolist(),
        "without": sorted(without),
    }
    write_artifact(folder, kind=translator.kind, settings=settings, write=write)


def load_neural(folder: Path, device: torch.device | str = "cpu") -> NeuralTranslator:
    """Read a translator back, onto `device`.

    Raises:
        DataError: the folder is missing, incomplete, damaged, or of another format or kind.
    """
    with reading(folder, SafetensorError) as settings:
        if settings["kind"] != NeuralTranslator.kind:
            raise DataError(f"translator {folder} is {settings['kind']}; run `scalr train` again")
        return _assemble(settings, folder, torch.device(device))


def _tables(translator: NeuralTranslator) -> dict[str, pa.Table]:
    return {
        "source_items.parquet": pa.table({"key": translator.source_items.ids}),
        "event_types.parquet": pa.table({"event_type": translator.event_types.ids}),
        "target_items.parquet": pa.table(
            {
                "item_id": translator.target_items.ids,
                "log_prior": translator.log_prior,
                "first_seen": translator.first_seen,
            }
        ),
    }


def _tensors(translator: NeuralTranslator) -> dict[str, dict[str, Tensor]]:
    files = {_WEIGHTS: translator.net.state_dict()}
    if translator.item_features is not None:
        files[_ITEM_FEATURES] = dict(translator.item_features)
    return {
        file: {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        for file, tensors in files.items()
    }


def _assemble(settings: dict[str, Any], folder: Path, device: torch.device) -> NeuralTranslator:
    shape, weights = NetShape.from_json(settings["shape"]), load_file(folder / _WEIGHTS)
    _refuse_another_size(shape, weights)
    net = TranslatorNet(shape)
    net.load_state_dict(weights)
    targets = pq.read_table(folder / "target_items.parquet")
    translator = NeuralTranslator(
        net=net.to(device),
        train_cutoff=datetime.fromisoformat(settings["train_cutoff"]),
        source_items=_vocabulary(folder / "source_items.parquet"),
        target_items=Vocabulary(ids=targets["item_id"].combine_chunks()),
        event_types=_vocabulary(folder / "event_types.parquet"),
        mix=PriorMix.from_json(settings["prior_mix"]),
        log_prior=np.array(targets["log_prior"]),
        first_seen=np.array(targets["first_seen"]),
        delays=np.asarray(settings["delays_us"], dtype=np.int64),
        item_features=None if shape.item_features is None else load_file(folder / _ITEM_FEATURES),
        alpha=settings["alpha"],
        temperature=settings["temperature"],
    )
    _refuse_unfit(translator)
    return translator


def _refuse_unfit(translator: NeuralTranslator) -> None:
    """Refuse what no training writes, so that no score can come out as no number."""
    refuse_strength(translator.alpha, translator.temperature)
    if not translator.temperature or translator.train_cutoff.tzinfo is None:
        raise ValueError("its temperature or its cutoff is none")
    if not all(weight.isfinite().all() for weight in translator.net.state_dict().values()):
        raise ValueError("a weight is no number")
    shape = translator.net.shape
    sizes = (len(translator.source_items), len(translator.target_items))
    if sizes != (shape.source_items, shape.target_items) or translator.delays.ndim != 1:
        raise ValueError("its items are not those of its weights")
    prior, first_seen = translator.log_prior, translator.first_seen
    if prior.dtype != np.float32 or not (prior <= 1e-5).all() or first_seen.dtype != np.int64:
        raise ValueError("its prior is none")


def _refuse_another_size(shape: NetShape, weights: Mapping[str, Tensor]) -> None:
    """Refuse a shape that needs more numbers than there are, before memory is taken for them."""
    there = sum(weight.numel() for weight in weights.values())
    tables = (shape.source_items + shape.target_items + shape.event_types) * shape.width
    if max(tables, shape.length, shape.heads, shape.layers * shape.width) > there:
        raise DataError(f"its weights are not of the shape that it names: {there} numbers")


def _vocabulary(path: Path) -> Vocabulary:
    return Vocabulary(ids=pq.read_table(path).column(0).combine_chunks())
