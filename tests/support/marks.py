"""Marks that many modules have."""

from __future__ import annotations

import pytest

OPENS_FEAST = [
    pytest.mark.feast,
    # Feast, Ray and their dependencies warn about their own future; none of it is ours to mend
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:feast"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
