"""A Ray of this process alone, for the time of a block."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from scalr_ray.offline_store.cluster import ray_session


@contextmanager
def local_ray(cpus: int) -> Iterator[None]:
    """Start it and end it; its sockets need a short path."""
    with (
        tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short,
        patch.dict(os.environ, {"RAY_TMPDIR": short}),
        ray_session(cpus),
    ):
        yield
