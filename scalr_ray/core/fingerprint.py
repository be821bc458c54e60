"""Fingerprints of configurations and files: sha256 over canonical JSON or over bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20


def canonical_json(value: Any) -> str:  # noqa: ANN401 - any JSON value, checked below
    """Serialise `value` with sorted keys and no spaces.

    Raises:
        TypeError: something in it has no canonical form (a set, an object, NaN).
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(value: Any, length: int = 64) -> str:  # noqa: ANN401 - see canonical_json
    """The first `length` hex digits of the sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def file_fingerprint(path: Path) -> str:
    """The sha256 of the bytes of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _plain(value: Any) -> Any:  # noqa: ANN401 - recursive over JSON
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
