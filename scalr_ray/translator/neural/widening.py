"""A neural translator that knows more items than it was trained with: by their features.

Dropping ids in training (`id_dropout`) has taught the net to match an item by its features beside
the row of the unknown id. That is how it matches an item that came later.

Legend: I target items, N of them new, D width.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import nn

from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.neural.net import TranslatorNet
from scalr_ray.translator.neural.translator import NeuralTranslator


def with_items(
    translator: NeuralTranslator, ids: pa.Array, *, served: pa.Table, first_seen: NDArray[np.int64]
) -> NeuralTranslator:
    """The translator under a wider vocabulary; of the items that it had, nothing is another.

    The new items have no prior yet (`with_prior`), and are matched by their features alone.

    Args:
        translator: of a net that takes item features.
        ids: (N,) distinct ids that are not among its target items, of their type.
        served: (N rows) the features of each.
        first_seen: (N,) microseconds since 1970 from when on each is known.

    Raises:
        DataError: a feature is missing, or of a type that it was not in training.
    """
    shape = translator.net.shape
    assert shape.item_features is not None, "nothing else tells of an item that nobody touched"
    assert translator.item_features is not None, "a net that takes features has them"
    joined = pa.concat_arrays([translator.target_items.ids, ids])
    order = np.asarray(pc.array_sort_indices(joined)).astype(np.int64)
    places = torch.from_numpy(order)
    told = shape.item_features.encode(served)
    nothing = np.full(len(ids), -np.inf, dtype=np.float32)
    return replace(
        translator,
        net=_widened(translator.net, len(ids), places),
        target_items=Vocabulary(ids=joined.take(pa.array(order))),
        log_prior=np.concatenate((translator.log_prior, nothing))[order],
        first_seen=np.concatenate((translator.first_seen, first_seen))[order],
        item_features={
            name: torch.cat((known, told[name].to(known)))[places]
            for name, known in translator.item_features.items()
        },
    )


def _widened(net: TranslatorNet, more: int, order: torch.Tensor) -> TranslatorNet:
    """A copy of the net with `more` target items, in `order` (I,) of the old ones and the new."""
    wider = copy.deepcopy(net)
    table = net.target_table.weight.detach()
    # An unknown id was never met where none was dropped: its row is what chance made it.
    unknown = table[:1] if net.shape.id_dropout > 0 else torch.zeros_like(table[:1])
    rows = torch.cat((table[1:], unknown.expand(more, -1)))[order.to(table.device)]
    wider.target_table = nn.Embedding(len(rows) + 1, net.shape.width, device=table.device)
    wider.target_table.weight = nn.Parameter(torch.cat((table[:1], rows)))
    wider.shape = replace(net.shape, target_items=len(rows))
    return wider
