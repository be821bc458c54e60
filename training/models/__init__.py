"""Downstream trainers: plain arrays in, a score for every user and item out.

```
base.py            Interactions, the Ranker protocol, ranking in chunks
state.py           what is kept of a ranker, and where its training goes on from
popularity.py      recent popularity: the baseline that matters, and the prior of the others
ials.py            implicit matrix factorisation with weights that mean what they say
least_squares.py   its solver: all rows of one side at once
```
No Ray, no Feast, no torch: whoever holds a mixed training set as an Arrow table can use these.
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
