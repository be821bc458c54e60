"""`python -m training.train` on the rows of a feature repository: a saved set, or a pull."""

from __future__ import annotations

import pytest
from marks import OPENS_FEAST
from pulled_sets import (  # noqa: F401 - the fixtures
    LATER,
    START,
    build,
    layout_fixture,
    publish,
    repo_fixture,
    store_fixture,
    stores_are_closed,
    template_fixture,
)

from training.models.state import State
from training.train import main

pytestmark = OPENS_FEAST

PULL = ("--service", "mixed_training_v1", "--start", START.isoformat(), "--end", LATER.isoformat())


def train(layout, out, *given) -> int:
    argv = ["--model", "ials", "--repo", layout.repo, "--out", out, *given]
    return main([str(part) for part in argv])


def test_a_saved_set_and_the_pull_that_it_is_of_train_the_same_ranker(layout, store, tmp_path):
    publish(layout, "b1")
    dataset = build(store)
    dataset.save("kept")
    publish(layout, "b2")
    assert train(layout, tmp_path / "saved", "--saved", "kept") == 0
    assert train(layout, tmp_path / "pulled", *PULL, "--as-of", LATER.isoformat()) == 0
    pair = ("--saved", "again")
    build(store).save("again")
    assert train(layout, tmp_path / "again", *pair) == 0
    first, second, third = (
        State.read(tmp_path / name).tensors for name in ("saved", "pulled", "again")
    )
    assert same(second, third)
    assert not same(first, second)  # the second batch came in between


def same(one, two) -> bool:
    return one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)


@pytest.mark.parametrize(
    ("given", "code", "line"),
    [
        (PULL, 2, "a pull needs --start, --end and --as-of"),
        ((*PULL, "--saved", "kept"), 2, "with either --saved or --service"),
        (("--saved", "missing"), 2, "there is no saved training set"),
    ],
)
def test_rows_that_cannot_be_had_get_one_line(layout, tmp_path, capsys, given, code, line):
    assert train(layout, tmp_path / "out", *given) == code
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
