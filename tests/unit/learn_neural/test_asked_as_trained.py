from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from neural_worlds import Event, coded, day

from scalr_ray.learn.neural.examples import training_rows
from scalr_ray.translator.neural.asking import Asked

TOKENS = ("token_item", "token_side", "token_type", "token_time", "token_value")
EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 12).map(float), st.just(0.0)),
    max_size=30,
)
# Everybody is in both domains and has an item to predict after the cut.
BASE: list[Event] = [(user, 9, 0.0, 0.0) for user in range(4)]
LATER: list[Event] = [(user, 8, 20.0, 0.0) for user in range(4)]


@settings(max_examples=50, deadline=None)
@given(source=EVENTS, target=EVENTS, length=st.sampled_from([4, 64]))
def test_users_are_asked_about_with_the_tokens_that_training_would_show(source, target, length):
    events = coded([*BASE, *source], [*target, *LATER])
    trained = training_rows(
        events, start=day(15), end=day(30), length=length, as_of=day(15)
    ).to_pylist()
    users = events.known(np.arange(4), day(15))
    asked = Asked.of(users, length).rows(users).to_pylist()
    for user in range(4):
        shown, given_now = trained[user], asked[user]
        assert shown["query_time"] == given_now["query_time"]
        (prefix,) = given_now["query_prefix"]
        assert prefix == len(given_now["token_item"]) <= length
        for name in TOKENS:
            # A training row may begin later: its segments overlap by half.
            kept = len(shown[name])
            assert kept >= min(prefix, length // 2)
            assert str(shown[name]) == str(given_now[name][prefix - kept :])
