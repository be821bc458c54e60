"""A training set as a Ray Dataset, shared among the workers of a training."""

from __future__ import annotations

import pyarrow as pa
import pytest
import ray
from local_ray import local_ray

from training.dataset import MixedDataset

pytestmark = [
    pytest.mark.ray,
    # Ray sets deprecated options of its own while it makes its default context.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context"),
]

ROWS = 200_000  # more than a block


@pytest.fixture(scope="module", autouse=True)
def session():
    with local_ray(3):
        yield


@ray.remote
def taken(share):
    return [value for batch in share.iter_batches(batch_size=5_000) for value in batch["id"]]


def test_workers_of_a_training_share_the_rows():
    rows = pa.table({"id": range(ROWS), "user_id": [f"u{n % 7}" for n in range(ROWS)]})
    dataset = MixedDataset(table=rows, manifest={}).to_ray()
    assert dataset.count() == ROWS
    assert dataset.schema().names == rows.column_names
    shares = dataset.streaming_split(2, equal=True)
    found = ray.get([taken.remote(share) for share in shares])
    assert sorted(found[0] + found[1]) == list(range(ROWS))
    assert len(found[0]) == len(found[1])
