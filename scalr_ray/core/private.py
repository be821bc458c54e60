"""Files that only their owner may read: secrets, and what must not lie open while it is needed."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def secret_in(path: Path) -> str:
    """The secret that lies in a file, made on the first call: 64 hex digits.

    Of several processes that make it at the same time one wins, and all get the same.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        _write(made, secrets.token_hex(32))
        with suppress(FileExistsError):  # whoever was first has made it
            path.hardlink_to(made)
        made.unlink()
    return path.read_text(encoding="ascii")


def write_private(path: Path, text: str) -> None:
    """Write a file for its owner alone, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    half_written = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    _write(half_written, text)
    half_written.replace(path)


def _write(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
