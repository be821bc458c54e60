from __future__ import annotations

import pytest

from scalr_ray.core.errors import ConfigError
from scalr_ray.simulate import WorldConfig


@pytest.mark.parametrize(
    ("dials", "named"),
    [
        ({"transfer": 1.5}, "transfer"),
        ({"transfer": float("nan")}, "transfer"),
        ({"users": 0}, "users"),
        ({"launch_frac": 0.9}, "launch_frac"),
        ({"overlap_frac": 0.8, "target_only_frac": 0.3}, "overlap_frac"),
        ({"source_domains": ()}, "domains"),
        ({"source_domains": ("a", "a")}, "domains"),
        ({"source_domains": ("target",)}, "domains"),
        ({"target_domain": ""}, "domains"),
    ],
)
def test_dials_that_make_no_world_are_refused_by_name(dials, named):
    with pytest.raises(ConfigError, match=named):
        WorldConfig(**dials)


def test_the_ends_of_the_transfer_dial_are_allowed():
    assert (WorldConfig(transfer=0).transfer, WorldConfig(transfer=1).transfer) == (0, 1)
