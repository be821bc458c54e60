"""Whether there is room for what is about to be written."""

from __future__ import annotations

import shutil
from pathlib import Path

from scalr_ray.core.errors import UsageError


def refuse_full_disk(folder: Path, needed_bytes: int, what: str) -> None:
    """Check that about `needed_bytes` fit where `folder`, which is there, lies.

    Args:
        folder: on the disk in question.
        needed_bytes: estimated.
        what: is to be written, for the message.

    Raises:
        UsageError: they do not fit.
    """
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise UsageError(
            f"{what} take about {_size(needed_bytes)} in {folder}, where {_size(free_bytes)} are "
            "free; make room, or point data_dir at a larger disk"
        )


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
