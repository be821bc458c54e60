"""What a batch is refined by, and how one block of rows is: each row by itself.

Rows of crowded buckets and of items beyond their cap are refused with a reason, and the weights are
composed. Nothing here looks at two rows at once, so that blocks can be refined anywhere, in any
order.

Only positives are aligned, capped, compared with real events and bounded in their mass. Negatives
stay, also where their positive leaves: they were drawn from the prior, and say nothing about it.

Legend: I items, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.generate.refining.align import ItemCaps
from scalr_ray.generate.refining.contrast import keys_of_users
from scalr_ray.generate.refining.discriminate import Density
from scalr_ray.generate.refining.weigh import WeightRule

ABOVE_BUCKET_SHARE = "above_bucket_share"
ITEM_CAP = "item_cap"


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """What `refine` needs to know; numpy arrays and two small models, fit to be sent to workers.

    Attributes:
        keep: (I,) a row stays when its `thinning` value lies below that of its item.
        caps: the last rows of items with too many.
        density: of the density weights; None: all 1.
        weights: how factors become a weight.
    """

    keep: NDArray[np.float64]
    caps: ItemCaps
    density: Density | None
    weights: WeightRule


def refine(drawn: pa.Table, refinement: Refinement, schema: pa.Schema) -> pa.Table:
    """Refuse and weigh the rows of a block; each row by itself, whatever stands beside it.

    Args:
        drawn: rows of `draw_events`.
        refinement: of the batch they belong to.
        schema: of a synthetic event.

    Returns:
        The rows in their order, in `schema` plus `reason`: as the draw gave it, or
        `above_bucket_share` or `item_cap`. Refused rows carry the weights they would have had.
    """
    factors = weight_factors(drawn, refinement)
    computed = {**factors, "sample_weight": refinement.weights.sample_weight(factors)}
    columns = [
        pa.array(computed[name]) if name in computed else drawn[name] for name in schema.names
    ]
    reason = pc.coalesce(drawn["reason"], _new_reasons(drawn, refinement))
    return pa.table(columns, schema=schema).append_column("reason", reason)


def _new_reasons(drawn: pa.Table, refinement: Refinement) -> pa.Array:
    """(N,) why a row that the draw accepted is refused; null where it stays."""
    item, thinning = drawn["item_code"].to_numpy(), drawn["thinning"].to_numpy()
    thinned = thinning >= refinement.keep[item]
    capped = refinement.caps.exceeded(item, thinning, drawn["event_id"].combine_chunks())
    reason = pc.if_else(pa.array(capped), ITEM_CAP, pa.scalar(None, pa.string()))
    reason = pc.if_else(pa.array(thinned), ABOVE_BUCKET_SHARE, reason)
    negative = pa.array(drawn["label"].to_numpy() <= 0)
    return pc.if_else(negative, pa.scalar(None, pa.string()), reason)


def weight_factors(drawn: pa.Table, refinement: Refinement) -> dict[str, NDArray[np.float64]]:
    """(N,) per factor of the weight, for rows of `draw_events`."""
    density = np.ones(drawn.num_rows)
    if refinement.density is not None and drawn.num_rows:
        density = refinement.density.weights(
            drawn["item_code"].to_numpy(),
            drawn["event_timestamp"].cast(pa.int64()).to_numpy(),
            keys_of_users(drawn["user_id"]),
        )
    return refinement.weights.factors(drawn, density)
