"""Saved translators that somebody has changed, and whose hashes say so."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

SETTINGS = "translator.json"


def said(sound: Path) -> dict[str, Any]:
    """The settings of a saved translator."""
    return json.loads((sound / SETTINGS).read_text())


def forged(sound: Path, folder: str, settings: Any, name: str = "", content: bytes = b"") -> Path:
    """A copy with other settings or another file, whose hash the settings name."""
    copy = Path(folder) / "t"
    shutil.copytree(sound, copy)
    if name:
        (copy / name).write_bytes(content)
        settings["files"][name] = hashlib.sha256(content).hexdigest()
    (copy / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    return copy
