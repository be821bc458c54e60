"""Generation: from users and a translator to synthetic events, with Ray Data.

```
bucket_events   the events of the store, in buckets of users on disk      buckets, bucketing, disk
draw_batch      pass 1: each bucket planned and drawn for                  pipeline, actors
  plan_bucket     who gets how many events, and what is known of them      plan
  draw_events     what is proposed, drawn, triggered, when                 kernel/, catalogue
fit_refinement  what can only be decided once all has been drawn           refining/
refine_batch    pass 2: thinned, weighed, and staged by rename             pipeline
```

Every draw is keyed by user and item, so that buckets, workers and retries change nothing.
"""

from scalr_ray.generate.actors import DrawTask
from scalr_ray.generate.bucketing import AboutUsers, bucket_events
from scalr_ray.generate.buckets import BucketRules, Buckets
from scalr_ray.generate.catalogue import Catalogue
from scalr_ray.generate.kernel.draw import DrawSettings, draw_events
from scalr_ray.generate.pipeline import (
    Destination,
    DrawnBatch,
    GeneratedBatch,
    draw_batch,
    refine_batch,
    wanted_rows,
    work_folder,
)
from scalr_ray.generate.plan import (
    Coding,
    PlanRules,
    history_weight,
    known,
    plan_bucket,
    plan_users,
    vocabulary_fingerprint,
)
from scalr_ray.generate.refining.refine import (
    ObservedTarget,
    Refinement,
    RefineSettings,
    Served,
    fit_refinement,
    refine,
)

__all__ = [
    "AboutUsers",
    "BucketRules",
    "Buckets",
    "Catalogue",
    "Coding",
    "Destination",
    "DrawSettings",
    "DrawTask",
    "DrawnBatch",
    "GeneratedBatch",
    "ObservedTarget",
    "PlanRules",
    "RefineSettings",
    "Refinement",
    "Served",
    "bucket_events",
    "draw_batch",
    "draw_events",
    "fit_refinement",
    "history_weight",
    "known",
    "plan_bucket",
    "plan_users",
    "refine",
    "refine_batch",
    "vocabulary_fingerprint",
    "wanted_rows",
    "work_folder",
]
