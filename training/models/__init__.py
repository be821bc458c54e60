"""Downstream trainers: plain arrays in, a score for every user and item out.

```
base.py            Interactions, the Ranker protocol, ranking in chunks
state.py           what is kept of a ranker, and where its training goes on from
popularity.py      recent popularity: the baseline that matters, and the prior of the others
ials.py            implicit matrix factorisation with weights that mean what they say
least_squares.py   its solver: all rows of one side at once
two_tower.py       a user's vector times an item's, by softmax
sequential.py      attention to the rows of a user, each counting by its weight
dcn.py             a cross network (DCN-v2), pointwise: a probability for a pair
neural.py          what these three share: epochs, ways in for synthetic rows, state
trees.py           gradient-boosted trees (LightGBM), pointwise
implicit_als.py    ALS by the library `implicit`
item_knn.py        neighbours of items, by the same library
negatives.py       pairs that were not seen, for the pointwise ones
```
No Ray, no Feast: whoever holds a mixed training set as an Arrow table can use these. Those that
need torch, LightGBM or implicit are imported by their own names.
"""

from __future__ import annotations

from training.models.base import Interactions, Ranker, rank_users
from training.models.ials import IALS, IALSConfig
from training.models.popularity import Popularity, PopularityConfig

__all__ = [
    "IALS",
    "IALSConfig",
    "Interactions",
    "Popularity",
    "PopularityConfig",
    "Ranker",
    "rank_users",
]
