"""The report of a run: `report.json` for machines and a self-contained `report.html` for people.

Both are written from the same values, so they cannot disagree. The result is a mapping with

```
verdict              helps, no_effect, harms or cannot_tell
sentence, cautions   the verdict in plain language, and what to keep in mind
published            whether the synthetic events went into the offline store
rankers, baselines   {name: {segment: {metric: value}}}
arms                 {real_only, synthetic, folded_in, placebo, upsampled:
                     {segment: {metric: value}}}
lift                 {segment: {metric: {estimate, low, high}}}, of synthetic over real only
lift_over_placebo    the same, of synthetic over placebo
lift_over_prior      the same, of the translator over the prior
lift_folded_over_real, lift_folded_over_rows
                     the same, of folded in over real only, and over synthetic
lift_upsampled_over_real
                     the same, of real events that weigh as much as the mixed ones
volume               [{events, lift: {segment: interval of NDCG over real only}}], least first
lineage              {batch, run, translator, ...}
finer                {level, segments: {name: {users, over_real, over_placebo}}}, of NDCG
examples             [{source: [{domain, item, day}], synthetic: [{item, likelihood, taken}]}]
better_way           fold-in, rows, depends, no_difference or cannot_tell
calibration          [{predicted, observed, count}], one per bin of the likelihood
popularity           {real, synthetic: [events per item]}
alignment            {by, before, after, target: [share of each bucket], kept_frac}
gate                 [{check, passed, value, threshold, detail}]
counts, timings_s, versions, command, config_fingerprint
origins              of several batches: {rows: [{batch_id, as_of, until, published, verdict,
                     test_users, ndcg: {arm: {segment: value}}, lifts: {comparison: {segment:
                     interval of NDCG}}}], left_out: [{batch_id, as_of, why}], published,
                     pooled: {test_users, ndcg, and the lifts as above}}, the oldest first
```

Of several batches, verdict, sentence and better way are those of all together; all else but
`origins` is of the newest. Segments are `all`, `hidden` and `warm`; lifts are relative (0.5 is
+50 %). Every part is optional: the page says what was not measured. In `synthetic` the events are
mixed in as rows; earlier reports have no arm that they are folded into.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from scalr_ray.core.errors import UsageError

JSON_NAME = "report.json"
HTML_NAME = "report.html"


def write_report(out: Path, result: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write both files into `out` and return their paths, JSON first.

    The folder is made if need be. An existing report is replaced, each file at once. Numbers that
    JSON cannot express (NaN, infinities) become null.

    Raises:
        UsageError: `out` is not a folder or cannot be written.
        TypeError: the result holds something that is no JSON value.
    """
    # Drawing takes Matplotlib, which takes a second to import.
    from training.report_page import render

    plain = _plain(result)
    text = json.dumps(plain, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)
    contents = {out / JSON_NAME: text + "\n", out / HTML_NAME: render(plain)}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            _replace(path, content)
    except OSError as error:
        raise UsageError(
            f"the report cannot be written to {out} ({error.strerror}); choose another folder"
        ) from error
    json_path, html_path = contents
    return json_path, html_path


def _replace(path: Path, content: str) -> None:
    """Put `content` in place of `path`, so that no reader sees half of it."""
    staged = path.with_name(f".{path.name}.tmp")
    staged.write_text(content, encoding="utf-8")
    staged.replace(path)


def _plain(value: Any) -> Any:  # noqa: ANN401 - recursive over JSON
    """`value` as plain JSON types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | Path):
        return str(value)
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"a report cannot hold a {type(value).__name__}")
