"""How well a net predicts rows it is not trained on, scored by many workers together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count

from scalr_ray.learn.neural.feed import Feed
from scalr_ray.learn.neural.peers import Peers
from scalr_ray.translator.neural.candidates import Catalogue
from scalr_ray.translator.neural.loss import TEMPERATURES, best_mean, log_likelihood_sums
from scalr_ray.translator.neural.net import TranslatorNet


def shared_validation(
    feed: Feed | None, catalogue: Catalogue, peers: Peers
) -> Callable[[TranslatorNet], float]:
    """What an epoch is judged by: `tuned_log_likelihood` over the rows of the feed.

    Every worker scores its part of them, against the whole catalogue; all get the same value.
    Without a feed each epoch is better than the last.
    """
    if feed is None:
        epochs = count()
        return lambda _: float(next(epochs))
    full = replace(catalogue, negatives=0)

    def validate(net: TranslatorNet) -> float:
        rows = feed.batches(0, rank=peers.rank, workers=peers.workers)
        totals, queries = log_likelihood_sums(net, rows, full, TEMPERATURES)
        *all_totals, all_queries = peers.total([*totals, queries])
        return best_mean(all_totals, all_queries)

    return validate
