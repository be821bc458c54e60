"""What is installed with SCALR may be used, changed and passed on together with it."""

from __future__ import annotations

from licences import licences_of, locked

PERMISSIVE = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "PSF-2.0",
    "Unlicense",
    "Zlib",
}
BY_FILE = {"MPL-2.0"}  # changes to its own files are to be passed on, and nothing else
# Imported as they are, and never copied into the project: which the LGPL asks for.
AS_LIBRARIES = {"psycopg", "psycopg-binary", "psycopg-pool"}


def test_every_locked_distribution_has_a_licence_that_allows_its_use():
    names = locked()
    assert len(names) > 100
    others = {name: licences_of(name) - PERMISSIVE - BY_FILE for name in names}
    refused = {name: found for name, found in others.items() if found}
    assert refused == {name: {"LGPL-3.0-only"} for name in AS_LIBRARIES}
