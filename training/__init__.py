"""What a downstream team runs: pull a mixed training set, train, measure, report.

```
mixed.py     the one way to pull a training set of real and synthetic events, as of a time
             (mix.py says what is wanted; selection.py, mixing.py and negatives.py find it;
             guard.py proves that nothing leaks; inputs.py says what is read, manifest.py describes)
dataset.py   what comes of it: rows and manifest
splits.py    two parts by time, with an embargo
streams.py   the rows for a trainer: torch (torch_stream.py), from disk (row_file.py) in shards
             (row_stream.py)
saved.py     training sets that were saved: load, compare, remove, take users out of them
             (saving.py saves; set_folders.py and durable.py know the files)
models/      downstream trainers; they know neither Feast nor Ray
train.py     `python -m training.train`: one of them on such a set (workers.py: on Ray Train)
metrics.py   full-catalogue ranking metrics under a global time cut
pointwise.py what probabilities of pairs are worth: order and calibration
lift.py      paired lift between two arms, with intervals (bootstrap.py) and a verdict (verdict.py)
segments.py  where a lift comes from, and who pays for it, corrected for so many questions
report.py    report.json and a self-contained report.html (report_page.py, report_plots.py)
```
Nothing here is imported before it is used: `import training` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.dataset import MixedDataset
    from training.mixed import Mix, Negatives, build_mixed_dataset

__all__ = ["Mix", "MixedDataset", "Negatives", "build_mixed_dataset"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute may be anything
    """Load the pull on first use: it brings Arrow."""
    if name in __all__:
        from training import mixed

        return getattr(mixed, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
