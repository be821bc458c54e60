"""Is this translator of these events? What it knows must still be there."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.core.duck import quote_text
from scalr_ray.core.errors import DataError
from scalr_ray.offline_store.event_stream import EventStream, query
from scalr_ray.translator import Translator
from scalr_ray.translator.encode import Vocabulary, source_keys

# A catalogue may lose items to erasure and corrections; one that loses half is another one.
_LEAST_THERE = 0.5


def vanished_items(
    source: EventStream,
    target: EventStream,
    translator: Translator,
    domain: str,
    *,
    new: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """(I,) the target items of the translator that have no visible event any more.

    Args:
        source: visible events of the source domains.
        target: visible events of the target domain.
        translator: trained on what was visible then or before.
        domain: the target domain.
        new: (I,) items that need no event, since they are known by something else.

    Raises:
        DataError: most of what the translator knows is not there: it is of other data.
    """
    sources = query(source, "SELECT DISTINCT domain, item_id FROM {events}")
    _missing(translator.source_items, source_keys(sources), "source")
    wanted = f"WHERE domain = {quote_text(domain)}"
    targets = query(target, f"SELECT DISTINCT item_id FROM {{events}} {wanted}")
    return _missing(translator.target_items, targets["item_id"], "target", new)


def _missing(
    known: Vocabulary, seen: pa.ChunkedArray, side: str, new: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    same_type = pc.cast(seen, known.ids.type)
    codes = known.codes(same_type)
    missing = np.ones(len(known), dtype=bool)
    missing[codes[codes >= 0]] = False
    expected = len(known)
    if new is not None:
        missing &= ~new
        expected -= int(new.sum())
    if missing.sum() > (1 - _LEAST_THERE) * expected:
        raise DataError(
            f"{int(missing.sum()):,} of the {expected:,} {side} items that the translator knows "
            "have no visible events: it was trained on other data; run `scalr train`"
        )
    return missing
