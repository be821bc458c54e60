from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import event_table

from scalr_ray.translator import Vocabulary
from scalr_ray.translator.encode import incidence, source_keys

texts = st.lists(st.text(max_size=3), max_size=12)
numbers = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=12)


@pytest.mark.parametrize(("strategy", "kind"), [(texts, pa.string()), (numbers, pa.int64())])
def test_codes_are_positions_among_the_sorted_distinct_ids(strategy, kind):
    @given(strategy)
    def check(values):
        vocabulary = Vocabulary.of(pa.array(values, kind))
        expected = sorted(set(values), key=lambda v: v.encode() if isinstance(v, str) else v)
        assert vocabulary.ids.to_pylist() == expected
        assert len(vocabulary) == len(expected)
        codes = vocabulary.codes(pa.array(values, kind))
        assert codes.tolist() == [expected.index(value) for value in values]

    check()


@given(texts, texts)
def test_unknown_ids_get_minus_one(known, asked):
    vocabulary = Vocabulary.of(pa.array(known, pa.string()))
    codes = vocabulary.codes(pa.array(asked, pa.string()))
    assert [code >= 0 for code in codes] == [value in known for value in asked]
    assert codes.dtype == np.int64


@given(texts, st.integers(1, 4))
def test_chunks_make_no_difference(values, size):
    parts = [values[at : at + size] for at in range(0, len(values), size)]
    chunked = pa.chunked_array([pa.array(part, pa.string()) for part in parts], pa.string())
    whole = Vocabulary.of(pa.array(values, pa.string()))
    assert Vocabulary.of(chunked).ids.equals(whole.ids)
    assert whole.codes(chunked).tolist() == whole.codes(pa.array(values, pa.string())).tolist()


@given(texts, texts)
def test_fingerprints_are_equal_exactly_where_the_vocabularies_are(left, right):
    one, other = (Vocabulary.of(pa.array(values, pa.string())) for values in (left, right))
    assert (one.fingerprint == other.fingerprint) == one.ids.equals(other.ids)


def test_the_same_item_id_in_two_domains_is_two_items():
    table = pa.concat_tables(
        [event_table([("u", "7", 0)], "books"), event_table([("u", "7", 0)], "films")]
    )
    assert len(Vocabulary.of(source_keys(table))) == 2


def test_integer_item_ids_make_keys_too():
    table = event_table([("u", "7", 0)], "books")
    numbered = table.set_column(2, "item_id", pa.array([7], pa.int64()))
    assert source_keys(numbered).equals(source_keys(table))


def test_incidence_leaves_unknown_codes_out_and_counts_repeats_once():
    got = incidence(np.array([0, 0, 1, -1, 1]), np.array([2, 2, 0, 1, -1]), (2, 3))
    assert got.toarray().tolist() == [[0, 0, 1], [1, 0, 0]]
    assert got.dtype == np.float32
    assert got.nnz == 2
