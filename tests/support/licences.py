"""Under which licences what is locked is: `python -m tests.support.licences` lists it."""

from __future__ import annotations

import re
from importlib.metadata import PackageMetadata, distribution
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements.lock"

# What a licence says of itself -> its name at https://spdx.org/licenses.
_WORDS = {
    "Apache Software License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
_CLASS = re.compile(r"License :: (?:OSI Approved|DFSG approved)(?: :: (.*))?")


def locked() -> dict[str, str]:
    """The version of each distribution in the lock."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {name: version for name, _, version in pairs}


def licences_of(name: str) -> set[str]:
    """The licences of an installed distribution, by their SPDX names where it says any."""
    told = distribution(name).metadata
    words = re.split(r"\s+(?:AND|OR)\s+|;\s*", _said(told))
    return {_WORDS.get(word, word.strip("() ")) for word in map(str.strip, words) if word}


def _said(told: PackageMetadata) -> str:
    if expression := told.get("License-Expression"):
        return str(expression)
    classes = [_CLASS.fullmatch(text) for text in told.get_all("Classifier") or []]
    named = [found[1] for found in classes if found and found[1]]
    return "; ".join(named) or str(told.get("License") or "none")


def main() -> None:
    """Print every locked distribution with its licences."""
    for name, version in sorted(locked().items(), key=lambda pair: pair[0].lower()):
        print(f"{name:36} {version:14} {', '.join(sorted(licences_of(name)))}")  # noqa: T201


if __name__ == "__main__":
    main()
