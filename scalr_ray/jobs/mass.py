"""What is published beside a batch, and whether it leaves the batch any weight.

Synthetic events harm by their mass alone, however it is split among batches. So both the bound that
a batch is scaled to and the one that it is refused by look at all that a reader would see with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.errors import MassReached
from scalr_ray.generate.refining.weigh import ExactSum
from scalr_ray.jobs.workspace import Workspace

# A batch that was lowered to just the bound fills it, but for so much.
_ROUNDING = 1e-6


def events_beside(
    workspace: Workspace, batch_id: str, as_of: datetime, columns: Sequence[str]
) -> pa.Table:
    """The events that are published as of a batch's time, and will be beside its own."""
    beside = _beside(workspace, batch_id, ())
    if not beside:
        return workspace.schema.empty_table().select(list(columns))
    return workspace.lake.read(as_of=as_of, batch_ids=beside, columns=columns)


def published_mass(
    workspace: Workspace, batch_id: str, as_of: datetime, *, replaces: Sequence[str] = ()
) -> float:
    """The sum of the weights of the events that are published as of a batch's time and stay.

    It is the most that the sum can be for what is rounded, so that a bound by it holds.

    Args:
        workspace: an opened repository.
        batch_id: of the batch, whose own events do not count.
        as_of: its generation time.
        replaces: batches that it will take the place of, beside those that the ledger names.
    """
    mass = ExactSum()
    for beside in _beside(workspace, batch_id, replaces):
        rows = workspace.lake.read(
            as_of=as_of, batch_ids=[beside], columns=("label", "sample_weight")
        )
        mass.add(rows["sample_weight"].filter(pc.greater(rows["label"], 0.0)).to_numpy())
    return mass.most


def refuse_without_room(published: float, *, real_events: int, mass_frac: float) -> None:
    """Stop where what is published weighs as much as all synthetic events may.

    Raises:
        MassReached: it does.
    """
    if published > 0 and published >= mass_frac * real_events * (1.0 - _ROUNDING):
        raise MassReached(
            f"the published events weigh {published / max(real_events, 1):.3f} per real target "
            f"event, and weights.mass_frac allows {mass_frac:g}: a new batch would count for "
            "nothing; retire one with `scalr retire`, or raise weights.mass_frac"
        )


def _beside(workspace: Workspace, batch_id: str, replaces: Sequence[str]) -> list[str]:
    apart = {batch_id, *replaces}
    apart |= {other.batch_id for other in workspace.ledger.replaced_by(batch_id)}
    return sorted(set(workspace.lake.published_batches()) - apart)
