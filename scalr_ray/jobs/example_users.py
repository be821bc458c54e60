"""Example users of a report: what they did in the source domains, and what was drawn from it.

No user id is told: a report lies where an erasure does not reach. A user is shown who has no target
history, was drawn for and came back, the first ones by a hash of the id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.core.clock import from_micros, to_micros
from scalr_ray.core.errors import UsageError
from scalr_ray.core.keyed import id_keys
from scalr_ray.jobs.evaluation_result import Subject
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.offline_store.pull import pull_features
from scalr_ray.translator.encode import source_domains, source_ids

_USERS, _EVENTS = 3, 6
_TITLE = "title"


def example_users(
    workspace: Workspace, subject: Subject, synthetic: pa.Table
) -> list[dict[str, Any]]:
    """Some users, each with the newest source events and the likeliest synthetic ones.

    Args:
        workspace: an opened repository.
        subject: what is evaluated.
        synthetic: rows of the batch, in the columns of a synthetic event.

    Returns:
        Of each user `source`, rows of `domain`, `item` and `day`, and `synthetic`, rows of `item`,
        `likelihood` and `taken`, whether the user took the item after the cut. An item is told by
        its title where `evaluation.titles` serves one, and by its id otherwise.

    Raises:
        UsageError: the service of `evaluation.titles` is not registered or has no titles.
    """
    events, test = subject.events, subject.test
    drawn = synthetic.filter(pc.greater(synthetic["label"], 0.0))
    owners = events.users.codes(drawn["user_id"])
    places = np.flatnonzero(test.segments["hidden"] & np.isin(test.users, owners))
    keys = id_keys(events.users.ids.take(pa.array(test.users[places])))
    chosen = places[np.argsort(keys, kind="stable")[:_USERS]]
    found = []
    for place in chosen:
        code = test.users[place]
        mine = drawn.filter(pa.array(owners == code))
        order = [("likelihood", "descending"), ("event_id", "ascending")]
        mine = mine.sort_by(order).slice(0, _EVENTS)
        taken = np.isin(events.target_items.codes(mine["item_id"]), test.relevant[place].indices)
        found.append(
            {
                "source": _newest(subject, code),
                "synthetic": [
                    {"item": str(item), "likelihood": likelihood, "taken": bool(hit)}
                    for item, likelihood, hit in zip(
                        mine["item_id"].to_pylist(),
                        mine["likelihood"].to_pylist(),
                        taken,
                        strict=True,
                    )
                ],
            }
        )
    titles = _titles(workspace, subject, found)
    for rows in (row for user in found for side in user.values() for row in side):
        rows["item"] = titles.get(rows["item"], rows["item"])
    return found


def _newest(subject: Subject, user: int) -> list[dict[str, Any]]:
    """The newest source events of a user, the last one first."""
    source = subject.events.source
    mine = np.flatnonzero(source.users == user)
    mine = mine[np.argsort(-source.times[mine], kind="stable")[:_EVENTS]]
    keys = subject.events.source_items.ids.take(pa.array(source.items[mine]))
    rows = zip(
        source_domains(keys).to_pylist(), source_ids(keys).to_pylist(), source.times[mine],
        strict=True,
    )  # fmt: skip
    return [
        {"domain": domain, "item": item, "day": from_micros(int(time)).date().isoformat()}
        for domain, item, time in rows
    ]


def _titles(
    workspace: Workspace, subject: Subject, users: list[dict[str, Any]]
) -> Mapping[str, str]:
    """The titles that Feast serves of the items that are shown, by item id as text."""
    service = workspace.config.evaluation.titles
    shown = sorted({row["item"] for user in users for side in user.values() for row in side})
    if service is None or not shown:
        return {}
    ids = pa.array(shown).cast(subject.events.target_items.ids.type)
    times: NDArray[np.int64] = np.full(len(ids), to_micros(subject.batch.as_of))
    served = pull_features(workspace.store, service, key="item_id", ids=ids, times=times)
    if _TITLE not in served.column_names:
        raise UsageError(
            f"feature service {service} of evaluation.titles serves no {_TITLE!r} of an item; it "
            f"has {', '.join(served.column_names)}"
        )
    titles = served[_TITLE].cast(pa.string()).to_pylist()
    return {item: title for item, title in zip(shown, titles, strict=True) if title}
