"""The core starts fast because it stays free of the heavy packages."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import scalr_ray.core

MODULES = sorted(
    module.name for module in pkgutil.iter_modules(scalr_ray.core.__path__, "scalr_ray.core.")
)
PROBE = (
    "import importlib, sys; importlib.import_module(sys.argv[1]);"
    "print(*(name for name in ('feast', 'ray', 'torch') if name in sys.modules))"
)


def test_the_modules_of_the_core_are_found():
    assert {"scalr_ray.core.clock", "scalr_ray.core.config"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_of_the_core_imports_neither_feast_nor_ray_nor_torch(module: str):
    probe = subprocess.run(
        [sys.executable, "-c", PROBE, module], capture_output=True, text=True, check=True
    )
    assert probe.stdout.split() == []


def test_a_worker_that_draws_loads_neither_feast_nor_torch():
    # Feast takes a worker seconds to import, which every worker of every batch would wait for.
    program = (
        "import sys, scalr_ray.generate\n"
        "print(*(name for name in ('feast', 'pyiceberg', 'torch') if name in sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []
