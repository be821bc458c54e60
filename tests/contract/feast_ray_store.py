"""What the Ray store of Feast answers, held to what is declared: minutes, for `make compare`.

It is a test that is asked for by name: it waits for what other projects do in processes of their
own, which on a busy machine took longer than a test may.
"""

from __future__ import annotations

from tests.contract.compare import measure
from tests.contract.store_harness import FEAST_ON_RAY
from tests.contract.test_store_contract import declared


def test_the_ray_store_of_feast_answers_as_declared() -> None:
    assert measure([FEAST_ON_RAY])[FEAST_ON_RAY] == declared(FEAST_ON_RAY)
