from __future__ import annotations

import pytest
from small_drawings import small_drawing


@pytest.fixture(scope="session")
def drawing():
    return small_drawing()
