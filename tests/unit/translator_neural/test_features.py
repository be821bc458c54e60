from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from scalr_ray.core.errors import DataError
from scalr_ray.translator.neural.feature_net import FeatureNet
from scalr_ray.translator.neural.features import FeatureSpec

TABLE = pa.table(
    {
        "age": pa.array([20, None, 40, 60], pa.int64()),
        "spend": pa.array([0.0, math.nan, -3.5, 1e30]),
        "member": pa.array([True, False, None, True]),
        "country": pa.array(["de", "fr", None, "de"]),
        "tags": pa.array([["a", "b"], [], None, ["a", None]], pa.list_(pa.string())),
        "shelves": pa.array([[1, 2], [2], [], None], pa.list_(pa.int64())),
        "profile": pa.array([[1.0, 2.0], None, [3.0, 4.0], [0.0, 0.0]], pa.list_(pa.float32())),
    }
)


def column(name: str, values: pa.Array) -> FeatureSpec:
    return FeatureSpec.fit(pa.table({name: values}))


def test_every_type_becomes_a_tensor_of_its_own_kind():
    spec = FeatureSpec.fit(TABLE)
    assert {c.name: c.kind for c in spec.columns} == {
        "age": "number",
        "spend": "number",
        "member": "boolean",
        "country": "category",
        "tags": "bag",
        "shelves": "bag",
        "profile": "vector",
    }
    assert spec.notes == ()
    encoded = spec.encode(TABLE)
    assert all(tensor.shape[0] == 4 for tensor in encoded.values())
    assert all(torch.isfinite(tensor).all() for tensor in encoded.values())
    out = FeatureNet(spec, 8)(encoded)
    assert out.shape == (4, 8)
    assert torch.isfinite(out).all()


def test_numbers_are_standardised_after_their_logarithm_and_nulls_flagged():
    encoded = column("age", TABLE["age"]).encode(TABLE)["age"]
    logs = np.log1p([20.0, 40.0, 60.0])
    expected = (logs - logs.mean()) / logs.std()
    assert np.allclose(encoded[[0, 2, 3], 0], expected, atol=1e-5)
    assert encoded[1].tolist() == [0.0, 0.0]
    assert encoded[:, 1].tolist() == [1.0, 0.0, 1.0, 1.0]


def test_an_extreme_number_is_bounded():
    spec = column("spend", pa.array([1.0, 2.0, 3.0]))
    assert spec.encode(pa.table({"spend": [1e300]}))["spend"][0, 0] == 10.0


def test_categories_have_codes_for_the_unknown_and_for_null():
    spec = column("country", TABLE["country"])
    assert spec.columns[0].values == ("de", "fr")
    codes = spec.encode(pa.table({"country": ["fr", "de", "xx", None]}))["country"]
    assert codes.tolist() == [3, 2, 0, 1]


def test_a_bag_is_the_mean_of_its_known_elements_in_any_order():
    spec = column("tags", TABLE["tags"])
    net = FeatureNet(spec, 4)
    bags = pa.table({"tags": pa.array([["a", "b"], ["b", "a", "new"], [], ["new"], None])})
    out = net(spec.encode(bags))
    assert torch.allclose(out[0], out[1], atol=1e-6)
    assert torch.equal(out[2], out[3])
    assert torch.equal(out[2], out[4])
    assert not torch.allclose(out[0], out[2])


def test_a_vector_of_another_length_is_refused():
    spec = column("profile", TABLE["profile"])
    assert spec.columns[0].size == 2
    with pytest.raises(DataError, match="feature profile has vectors of 3 numbers"):
        spec.encode(pa.table({"profile": [[1.0, 2.0, 3.0]]}))


def test_what_cannot_be_used_is_left_out_with_a_note():
    table = pa.table(
        {
            "age": [1, 2],
            "empty": pa.nulls(2, pa.string()),
            "when": pa.array([0, 1], pa.timestamp("us", tz="UTC")),
            "ragged": [[1.0], [1.0, 2.0]],
            "nowhere": [math.nan, math.inf],
        }
    )
    spec = FeatureSpec.fit(table)
    assert [c.name for c in spec.columns] == ["age"]
    assert [note.split(" is left out: ")[0] for note in spec.notes] == [
        "feature empty",
        "feature when",
        "feature ragged",
        "feature nowhere",
    ]


def test_features_that_are_all_null_are_named():
    with pytest.raises(DataError, match="none of the features can be learned from"):
        FeatureSpec.fit(pa.table({"a": pa.nulls(3, pa.int64()), "b": pa.nulls(3)}))


def test_a_feature_that_is_missing_or_of_another_type_is_named():
    spec = column("age", TABLE["age"])
    with pytest.raises(DataError, match="feature age is missing"):
        spec.encode(pa.table({"other": [1]}))
    with pytest.raises(DataError, match="feature age is string but was a number"):
        spec.encode(pa.table({"age": ["old"]}))


def test_all_null_values_are_served_as_null():
    spec = FeatureSpec.fit(TABLE)
    nothing = pa.table({name: pa.nulls(2) for name in TABLE.column_names})
    encoded = spec.encode(nothing)
    assert encoded["age"].tolist() == [[0.0, 0.0]] * 2
    assert encoded["country"].tolist() == [1, 1]
    assert not encoded["tags"].any()
    assert not encoded["profile"].any()


def test_a_spec_survives_json():
    spec = FeatureSpec.fit(TABLE)
    again = FeatureSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec


def test_slices_and_chunks_encode_like_the_whole():
    spec = FeatureSpec.fit(TABLE)
    whole = spec.encode(TABLE)
    parts = spec.encode(pa.concat_tables([TABLE.slice(1, 2), TABLE.slice(3)]))
    for name, tensor in whole.items():
        assert torch.equal(tensor[1:], parts[name]), name
