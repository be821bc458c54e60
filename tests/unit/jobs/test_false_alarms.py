"""The verdict in small worlds where nothing can help, and in one where something does.

`python -m tests.bench.false_alarms` counts over a hundred of each.
"""

from __future__ import annotations

import pytest

from tests.bench.false_alarms import verdict
from training.lift import Verdict

USERS = 300


@pytest.mark.parametrize("kind", ["null", "shuffled"])
def test_nothing_is_said_to_help_where_nothing_transfers(kind):
    assert Verdict.HELPS not in [verdict(kind, USERS, seed) for seed in range(3)]


def test_what_helps_is_said_to_help():
    assert verdict("planted", USERS, 0) is Verdict.HELPS
