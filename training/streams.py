"""Streams over the rows of a training set: what a trainer may read of them, and how.

What tells a synthetic row from a real one is there for analysis. A model that reads it learns who
made a row rather than what a user does, so it has to be asked for by name and by flag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from scalr_ray.core.errors import UsageError
from training.row_file import RowFile
from training.row_stream import RowStream

if TYPE_CHECKING:
    from training.torch_stream import TorchStream

# Each of them says whether a row is synthetic: a real one has no likelihood and no batch.
TELLTALES = ("is_synthetic", "likelihood", "batch_id", "event_type")

_NOT_FEATURES = frozenset({"event_timestamp", "available_at", "value"})


def torch_stream(
    file: RowFile,
    batch_size: int,
    *,
    columns: Sequence[str] | None = None,
    codes: Mapping[str, Sequence[Any]] | None = None,
    shuffle_rows: int = 262_144,
    seed: int = 0,
    drop_last: bool = False,
    telltales: bool = False,
) -> TorchStream:
    """A `TorchStream` over a file of rows, which holds some blocks of it at a time.

    Args:
        file: the rows.
        batch_size: rows of a batch.
        columns: those of a batch; None takes all that become tensors by themselves or by `codes`,
            without times, `value`, and what tells synthetic rows.
        codes: column -> its values in order, for ids: a batch has the place of the value, -1 where
            it is none of them.
        shuffle_rows: about how many rows are shuffled among themselves, after the blocks of the
            file were; 0 keeps the order of time.
        seed: of the order, beside the number of the epoch.
        drop_last: leave rows out that do not fill a batch in every shard, so that all ranks take
            equally many steps; else every row comes once.
        telltales: let `columns` name what tells a synthetic row from a real one.

    Raises:
        UsageError: a column is unknown, becomes no tensor, or tells synthetic rows unasked.
    """
    from training.torch_stream import TorchStream, becomes_tensor

    coded = {
        name: pa.array(values, file.schema.field(name).type)
        for name, values in (codes or {}).items()
        if name in file.schema.names
    }
    if columns is None:
        columns = [
            field.name
            for field in file.schema
            if field.name not in {*TELLTALES, *_NOT_FEATURES}
            and (field.name in coded or becomes_tensor(field.type))
        ]
    elif not telltales:
        refuse_telltales(columns)
    stream = RowStream(
        file=file,
        columns=tuple(columns),
        batch_rows=batch_size,
        shuffle_rows=shuffle_rows,
        seed=seed,
        drop_last=drop_last,
        codes=coded,
    )
    return TorchStream(stream)


def refuse_telltales(columns: Sequence[str]) -> None:
    """Check that no column says whether a row is synthetic.

    Raises:
        UsageError: one does.
    """
    for name in TELLTALES:
        if name in columns:
            raise UsageError(
                f"{name!r} tells a synthetic row from a real one, so it is no feature; leave it "
                "out, or say telltales=True for an analysis"
            )
