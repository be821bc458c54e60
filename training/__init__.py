"""What a downstream team runs: pull a mixed training set, train, measure, report.

```
mixed.py     the one way to pull a training set of real and synthetic events, as of a time
models/      downstream trainers; they know neither Feast nor Ray
metrics.py   full-catalogue ranking metrics under a global time cut
lift.py      paired lift between two arms, with intervals (bootstrap.py) and a verdict (verdict.py)
report.py    report.json and a self-contained report.html (report_page.py, report_plots.py)
```
Nothing here is imported before it is used: `import training` costs nothing.
"""

from __future__ import annotations

__all__: tuple[str, ...] = ()
