"""What a manifest says of the events of a set."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from training.manifest import _fingerprint, sorted_ids


def fingerprint(ids):
    return _fingerprint(sorted_ids(ids))


@given(ids=st.lists(st.text(max_size=3), unique=True), random=st.randoms(use_true_random=False))
def test_the_fingerprint_is_that_of_the_set_of_ids(ids, random):
    def told(names, chunks=1):
        parts = [names[place::chunks] for place in range(chunks)]
        return fingerprint(pa.chunked_array([pa.array(part, pa.string()) for part in parts]))

    assert told(random.sample(ids, len(ids)), chunks=3) == told(ids)
    sliced = pa.array(["other", *ids, "another"], pa.string()).slice(1, len(ids))
    assert fingerprint(pa.chunked_array([sliced])) == told(ids)
    others = {frozenset(ids[:-1]), frozenset([*ids, "longer"]), frozenset(["".join(ids), *ids])}
    assert all(told(list(other)) != told(ids) for other in others if other != set(ids))


def test_ids_do_not_run_into_each_other():
    assert fingerprint(pa.chunked_array([["ab", "c"]])) != fingerprint(
        pa.chunked_array([["a", "bc"]])
    )
