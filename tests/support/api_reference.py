"""The API reference: `python -m tests.support.api_reference site` writes it from the docstrings."""

from __future__ import annotations

import sys
from dataclasses import is_dataclass
from importlib import import_module
from inspect import isclass
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import pdoc
from pdoc import render
from pdoc.doc import Module

# The public faces of the rooms, and where what the SDK returns is described.
FACES = (
    "scalr_ray",
    "scalr_ray.core.errors",
    "scalr_ray.core.events",
    "scalr_ray.core.clock",
    "scalr_ray.core.config",
    "scalr_ray.simulate",
    "scalr_ray.ingest",
    "scalr_ray.offline_store",
    "scalr_ray.offline_store.history",
    "scalr_ray.offline_store.pull",
    "scalr_ray.lake",
    "scalr_ray.ledger",
    "scalr_ray.translator",
    "scalr_ray.learn",
    "scalr_ray.learn.neural.tune",
    "scalr_ray.generate",
    "scalr_ray.gate",
    "scalr_ray.jobs.backfill",
    "scalr_ray.jobs.collect",
    "scalr_ray.jobs.demo",
    "scalr_ray.jobs.doctor",
    "scalr_ray.jobs.erase",
    "scalr_ray.jobs.generate",
    "scalr_ray.jobs.increment",
    "scalr_ray.jobs.lineage",
    "scalr_ray.jobs.progress",
    "scalr_ray.jobs.recover",
    "scalr_ray.jobs.release",
    "scalr_ray.jobs.retire",
    "scalr_ray.jobs.status",
    "scalr_ray.jobs.train",
    "scalr_ray.jobs.upkeep",
    "training",
    "training.saved",
    "training.splits",
    "training.streams",
    "training.train",
    "training.metrics",
    "training.lift",
    "training.verdict",
    "training.models",
    "training.models.dcn",
    "training.models.implicit_als",
    "training.models.item_knn",
    "training.models.sequential",
    "training.models.trees",
    "training.models.two_tower",
)


def modules() -> dict[str, Module]:
    """The documented modules by name, imported and ready."""
    faces = {name: import_module(name) for name in FACES}
    for face in faces.values():
        # What is imported on first use is not there to be documented before.
        for public in getattr(face, "__all__", ()):
            setattr(face, public, getattr(face, public))
        _resolve_inherited(face)
    return {name: Module(face) for name, face in faces.items()}


def _resolve_inherited(face: ModuleType) -> None:
    """Give constructors the types of fields that are inherited from a class of another module.

    They are texts, which pdoc looks up where the class stands and not where the field does.
    """
    for value in vars(face).values():
        if isclass(value) and is_dataclass(value) and value.__module__ == face.__name__:
            above = [base for base in value.__mro__[1:] if is_dataclass(base)]
            if any(base.__module__ != face.__name__ for base in above):
                hints = get_type_hints(value)
                texts = value.__init__.__annotations__
                texts.update({name: hints[name] for name in texts if name in hints})


def write(out: Path, *, search: bool = True) -> None:
    """Write a page for each module into a folder, with an index that can be searched."""
    modules()
    render.configure(docformat="google", show_source=False, search=search)
    pdoc.pdoc(*FACES, output_directory=out)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
