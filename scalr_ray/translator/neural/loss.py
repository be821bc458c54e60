"""How likely the net makes what happened: the criterion of training and of validation.

Legend: Q queries, K candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import torch
from torch import Tensor

from scalr_ray.core.errors import TooLittleData
from scalr_ray.core.keyed import stream_seed
from scalr_ray.translator.neural.batch import collate
from scalr_ray.translator.neural.candidates import Candidates, Catalogue
from scalr_ray.translator.neural.net import TranslatorNet

# Temperatures that are tried; none of them is kept, the strength is fitted afterwards.
TEMPERATURES = (1.0, 1.5, 2.0, 3.0)
# Scores of queries that are held at a time while a net is validated, several times: 256 MB each.
_MOST_SCORES = 1 << 26


def log_likelihood(
    match: Tensor, candidates: Candidates, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The log-probability of each query's item among the candidates.

    Args:
        match: (Q, K) what the net adds to the log prior.
        candidates: the items, their prior and what is owned.
        temperature: divides match and log prior.

    Returns:
        (Q,) log-likelihoods, 0 where the item was not visible as of the query's moment, and (Q,)
        whether it was.
    """
    prior = candidates.log_prior[candidates.moments]
    own = candidates.columns[:, None]
    prior_of_item = prior.gather(1, own).squeeze(1)
    visible = torch.isfinite(prior_of_item)
    scores = match + prior
    if temperature != 1.0:
        scores = scores / temperature
    of_item = scores.gather(1, own).squeeze(1)
    # The query's own item is there for certain, not by a draw, and so without correction.
    corrected = (scores + candidates.offsets).scatter(1, own, of_item[:, None])
    query, column = candidates.owned
    corrected = corrected.index_put((query, column), corrected.new_tensor(float("-inf")))
    # A row without any visible item has no normaliser, and no gradient either.
    corrected = torch.where(visible[:, None], corrected, 0.0)
    values = torch.where(visible, of_item, 0.0) - torch.logsumexp(corrected, dim=1)
    return torch.where(visible, values, 0.0), visible


def mean_log_likelihood(
    net: TranslatorNet, tables: Iterable[pa.Table], catalogue: Catalogue, *, seed: int = 0
) -> float:
    """The mean log-likelihood per query, nats, as the net stands; higher is better.

    Args:
        net: on any device; its mode is left as it was.
        tables: training rows, a batch each.
        catalogue: without negatives the value is exact; else candidates are drawn by `seed`.
        seed: of drawn candidates, the same at every call.

    Raises:
        DataError: no query's item was visible as of the query's time.
    """
    return _mean_at(net, tables, catalogue, (1.0,), seed)


def tuned_log_likelihood(
    net: TranslatorNet, tables: Iterable[pa.Table], catalogue: Catalogue, *, seed: int = 0
) -> float:
    """The same at the best of some temperatures, as one is always fitted afterwards.

    The net learns from what happened next; what is generated from one cut has to hold for weeks, in
    which the prior flattens. Whether the net's match adds to it shows only at a suitable
    temperature.

    Raises:
        DataError: no query's item was visible as of the query's time.
    """
    return _mean_at(net, tables, catalogue, TEMPERATURES, seed)


def _mean_at(
    net: TranslatorNet,
    tables: Iterable[pa.Table],
    catalogue: Catalogue,
    temperatures: Sequence[float],
    seed: int,
) -> float:
    """The mean log-likelihood at the best of the temperatures."""
    totals, count = log_likelihood_sums(net, tables, catalogue, temperatures, seed=seed)
    return best_mean(totals, count)


def log_likelihood_sums(
    net: TranslatorNet,
    tables: Iterable[pa.Table],
    catalogue: Catalogue,
    temperatures: Sequence[float],
    *,
    seed: int = 0,
) -> tuple[list[float], int]:
    """The summed log-likelihood at each of the temperatures, and how many queries count."""
    device = next(net.parameters()).device
    totals, count = torch.zeros(len(temperatures), dtype=torch.float64), 0
    with _evaluating(net), torch.inference_mode():
        for position, rows in enumerate(tables):
            batch = collate(rows, features=net.shape.user_features)
            candidates = catalogue.candidates(batch, stream_seed(seed, position)).to(device)
            states = net.states(batch.to(device))
            vectors = net.item_vectors(candidates.items, candidates.features)
            step = max(1, _MOST_SCORES // max(len(candidates.items), 1))
            for start in range(0, len(states), step):
                part = candidates.of_queries(start, start + step)
                asked = states[start : start + step]
                match = net.match(asked, vectors, part.ages, part.moments, eras=part.eras)
                for place, temperature in enumerate(temperatures):
                    values, visible = log_likelihood(match, part, temperature=temperature)
                    totals[place] += values.double().sum().cpu()
                count += int(visible.sum())
    return totals.tolist(), count


def best_mean(totals: Sequence[float], count: float) -> float:
    """The mean at the best of the temperatures.

    Raises:
        DataError: no query counts.
    """
    if count == 0:
        raise TooLittleData(
            "no target event of the validation window is on an item that was known by then; "
            "move the cuts or import more events"
        )
    return max(totals) / count


@contextmanager
def _evaluating(net: TranslatorNet) -> Iterator[None]:
    """Without dropout for the time of a block."""
    training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(training)
