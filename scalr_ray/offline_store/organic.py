"""Organic only: what is learnt from and translated has been observed, never drawn.

A translation of translations would feed the model its own guesses, generation by generation, until
what was popular is all there is. So every reader of events refuses a synthetic view and a synthetic
row; it is no matter of which view is named in a configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.errors import DataError
from scalr_ray.core.events import SYNTHETIC_PREFIX

if TYPE_CHECKING:
    from feast import FeatureView

_KIND_TAG = "kind"
# No observed event has both; whatever its tags say, a view that serves them holds synthetic events.
_LINEAGE = frozenset({"batch_id", "sample_weight"})


def refuse_synthetic_view(view: FeatureView) -> None:
    """Check that a view holds observed events, by its tags and by what it serves.

    Raises:
        DataError: it holds synthetic ones.
    """
    served = {feature.name for feature in view.features}
    if view.tags.get(_KIND_TAG) == SYNTHETIC_PREFIX or served >= _LINEAGE:
        raise DataError(
            f"feature view {view.name} holds synthetic events, which are never translated or "
            "learnt from; name a view of observed events"
        )


def refuse_synthetic_rows(view: str, events: pa.Table) -> None:
    """Check that no event of a view is synthetic by its type.

    Args:
        view: the name of the view, for the message.
        events: with `event_id` and `event_type`.

    Raises:
        DataError: some are; the first is named.
    """
    types = pc.fill_null(events["event_type"].cast(pa.string()), "")
    synthetic = events.filter(pc.starts_with(types, SYNTHETIC_PREFIX))
    if synthetic.num_rows:
        raise DataError(
            f"{synthetic.num_rows} events of {view} are synthetic, the first is "
            f"{synthetic['event_id'][0].as_py()}; synthetic events are never translated: drop them "
            "from the log"
        )
