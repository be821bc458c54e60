"""How well a net predicts rows it is not trained on, by one worker or by many together."""

from __future__ import annotations

from collections.abc import Callable

import torch

from scalr_ray.core.keyed import stream_seed
from scalr_ray.learn.neural.feed import Feed
from scalr_ray.learn.neural.peers import Alone, Peers
from scalr_ray.translator.neural.batch import collate
from scalr_ray.translator.neural.candidates import Catalogue
from scalr_ray.translator.neural.loss import log_likelihood
from scalr_ray.translator.neural.net import TranslatorNet


def mean_log_likelihood(
    feed: Feed, catalogue: Catalogue, peers: Peers | None = None
) -> Callable[[TranslatorNet], float]:
    """What gives a net's mean log-likelihood per query of the feed's rows, nats; 0 at best.

    Every worker scores its part of the rows; all get the same value. Nothing is drawn at random
    that differs from one call to the next.
    """
    together = peers or Alone()

    def validate(net: TranslatorNet) -> float:
        device = next(net.parameters()).device
        net.eval()
        total, count = 0.0, 0
        rows = feed.batches(0, rank=together.rank, workers=together.workers)
        with torch.no_grad():
            for step, table in enumerate(rows):
                batch = collate(table, features=net.shape.user_features)
                seed = stream_seed("validation", step, together.rank)
                candidates = catalogue.candidates(batch, seed).to(device)
                match = net(batch.to(device), candidates)
                values, visible = log_likelihood(match.float(), candidates)
                total, count = total + float(values.sum()), count + int(visible.sum())
        all_values, all_queries = together.total([total, count])
        return all_values / max(all_queries, 1.0)

    return validate
