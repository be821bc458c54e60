"""What one user may weigh: whoever has touched too many items of a domain does not count there.

However often a user does something, it counts once: as one user of a pair of items, as one event of
an item in the prior. What is left is how many items they touch. A user with more than
`translator.most_source_items` or `most_target_items` of them is a shop, a test account, a robot or
an attacker, and its events of that domain are left out of the training, whole. Everybody else is
counted in full.

So f users who act together move a translation by this much and no more (`WEIGHT` of a pair, 1 where
users count alike; a = `most_target_items`; m = `min_users`; s = f * a * m * WEIGHT):

```
evidence  half the L1 distance of the shrunk P(i | history) is at most
          mean_j s / (n_j + k + s) + k / (n_j + k) * s / (M + s)
scores    |log P(i | u) - log P'(i | u)| under one prior is at most alpha / temperature times
          log(1 + max(s / M, f m WEIGHT (M + s) / (k q_min)))      what a pushed item gains
          + log(1 + s / (n_min + k)) + log(1 + f WEIGHT / q_min)   what the others lose
prior     half its L1 distance is at most sum_k weight_k * f a / (n_k + f a) over its windows
```

with n_j the weight in the row of source item j and n_min the smallest in the history, k the
shrinkage, M the sum of the marginal and q_min its smallest entry, at least `MARGINAL_PSEUDO_USERS`;
n_k the events in a window, where an empty one counts as wholly moved. All of it grows at most
linearly in f, and falls with the number of honest users: a rare source item belongs to whoever has
it, unless `min_users` asks for more, and fewer than m users make no pair at all.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def without_crowders(events: pa.Table, most_items: int | None) -> pa.Table:
    """The events of a domain without those of users who have touched too many of its items.

    Args:
        events: columns of `scalr_ray.core.events`, as of some time: who is left out follows from
            them alone.
        most_items: distinct (domain, item) keys that a user may have; None: any number.
    """
    if most_items is None:
        return events
    per_user = pc.value_counts(events["user_id"])
    many = per_user.field("values").filter(pc.greater(per_user.field("counts"), most_items))
    if not len(many):
        return events
    suspects = events.select(["user_id", "domain", "item_id"]).filter(
        pc.is_in(events["user_id"], value_set=many)
    )
    items = suspects.group_by(["user_id", "domain", "item_id"]).aggregate([])
    counts = items.group_by("user_id").aggregate([([], "count_all")])
    crowders = counts.filter(pc.greater(counts["count_all"], most_items))["user_id"]
    if not len(crowders):
        return events
    return events.filter(pc.invert(pc.is_in(events["user_id"], value_set=crowders)))
