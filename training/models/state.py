"""What is kept of a ranker: one safetensors file, which is arrays and JSON, and no code.

header     kind, settings, progress
arrays     by name
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scalr_ray.core.damage import refusing_damage
from scalr_ray.core.errors import UsageError
from scalr_ray.core.fingerprint import canonical_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_HEADER = "scalr"


@dataclass(frozen=True, kw_only=True)
class State:
    """A ranker between two steps of its training, or after the last.

    Attributes:
        kind: of ranker.
        settings: its configuration, as the dataclass that it is or as the JSON of it.
        tensors: arrays by name.
        progress: how far training is, as plain JSON values.
    """

    kind: str
    settings: DataclassInstance | str
    tensors: Mapping[str, NDArray[Any]]
    progress: Mapping[str, Any] = field(default_factory=dict)

    def check(self, kind: str, config: DataclassInstance) -> None:
        """Refuse the state of another kind of ranker, or of other settings.

        Raises:
            UsageError: it is.
        """
        if self.kind != kind:
            raise UsageError(f"the state is that of a ranker {self.kind!r}, not {kind!r}")
        if _text(self.settings) != _text(config):
            raise UsageError(
                f"the ranker {kind!r} was kept with the settings {_text(self.settings)}; take "
                "these, or fit anew"
            )

    def write(self, path: Path) -> None:
        """Write the file; it appears whole or not at all."""
        from safetensors.numpy import save_file

        header = {
            "kind": self.kind,
            "settings": _text(self.settings),
            "progress": dict(self.progress),
        }
        arrays = {name: np.ascontiguousarray(array) for name, array in self.tensors.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        waiting = path.with_name(f"{path.name}.{os.getpid()}")
        save_file(arrays, waiting, metadata={_HEADER: canonical_json(header)})
        waiting.replace(path)

    @classmethod
    def read(cls, path: Path) -> State:
        """The state that was written to `path`.

        Raises:
            DataError: there is none, or the file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        with refusing_damage(f"the state of a ranker in {path}", "train it again", SafetensorError):
            with safe_open(path, framework="numpy") as file:
                header = json.loads((file.metadata() or {})[_HEADER])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = cls(tensors=tensors, **header)
            if not isinstance(state.kind, str) or not isinstance(state.progress, dict):
                raise TypeError("its header says no kind or no progress")
            return state


def _text(settings: DataclassInstance | str) -> str:
    return settings if isinstance(settings, str) else canonical_json(asdict(settings))
