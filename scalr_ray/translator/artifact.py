"""A folder that is written whole and read back only if nothing in it has changed.

`translator.json` holds the settings and the sha256 of each other file; loading runs no code that
lies in the folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from scalr_ray.core.damage import plain_name, refusing_damage
from scalr_ray.core.errors import ConfigError, DataError
from scalr_ray.core.fingerprint import file_fingerprint

_FORMAT = 2
_MOST_STRENGTH = 1e6
_SETTINGS = "translator.json"


def write_artifact(
    folder: Path, *, kind: str, settings: Mapping[str, Any], write: Callable[[Path], None]
) -> None:
    """Write all files beside `folder` and rename, so that a reader finds all of them or none.

    Args:
        folder: where they will lie; what lies there is replaced.
        kind: of the translator.
        settings: JSON values.
        write: writes the other files into the folder it is given.
    """
    staged = folder.with_name(f".{folder.name}.partial")
    replaced = folder.with_name(f".{folder.name}.replaced")
    for leftover in (staged, replaced):
        if leftover.exists():
            shutil.rmtree(leftover)
    staged.mkdir(parents=True)
    write(staged)
    files = {path.name: file_fingerprint(path) for path in sorted(staged.iterdir())}
    text = json.dumps({"format": _FORMAT, "kind": kind, **settings, "files": files}, indent=2)
    (staged / _SETTINGS).write_text(text, encoding="utf-8")
    if folder.exists():
        folder.rename(replaced)
    staged.rename(folder)
    if replaced.exists():
        shutil.rmtree(replaced)


def mend_artifacts(root: Path, *, dry_run: bool = False) -> list[str]:
    """Bring back the folders that were being replaced when a writer died; nobody may be writing.

    Args:
        root: where the folders lie.
        dry_run: change nothing.

    Returns:
        The names of the folders that are, or would be, back.
    """
    back = []
    for replaced in sorted(root.glob(".*.replaced")):
        name = replaced.name.removeprefix(".").removesuffix(".replaced")
        if not (root / name).exists():
            back.append(name)
            if not dry_run:
                replaced.rename(root / name)
    return back


def kind_of(folder: Path) -> str:
    """The kind of translator that lies in a folder.

    Raises:
        DataError: the folder is missing, or its settings are unreadable or of another format.
    """
    with _refusing(folder):
        return str(_settings(folder)["kind"])


@contextmanager
def reading(folder: Path, *more: type[Exception]) -> Iterator[dict[str, Any]]:
    """The settings of a folder whose files are as they were written, for the time of a block.

    Args:
        folder: what `write_artifact` has written.
        more: what the block raises where a file is not what it should be, beside errors of Arrow,
            JSON, torch and the file system.

    Raises:
        DataError: the folder is missing, incomplete, damaged or of another format.
    """
    with _refusing(folder, *more):
        settings = _settings(folder)
        for name, recorded in settings["files"].items():
            if file_fingerprint(folder / plain_name(name)) != recorded:
                raise DataError(f"translator {folder}: {name} is damaged; run `scalr train` again")
        yield settings


def refuse_strength(*numbers: object) -> None:
    """Refuse exponents, temperatures and pseudo-users that no training chooses.

    Raises:
        ValueError: one is no number, negative or beyond a million.
    """
    for number in numbers:
        if type(number) not in (int, float) or not 0 <= number <= _MOST_STRENGTH:  # type: ignore[operator]
            raise ValueError("its strength is none")


def _settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    if settings["format"] != _FORMAT:
        raise DataError(f"translator {folder} has another format; run `scalr train` again")
    return settings


def _refusing(folder: Path, *more: type[Exception]) -> AbstractContextManager[None]:
    remedy = "run `scalr train` again"
    return refusing_damage(f"translator {folder}", remedy, ConfigError, *more)
