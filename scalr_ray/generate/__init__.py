"""Generation: from users and a translator to synthetic events, with Ray Data.

`plan_users` says who gets events and what is known of them, `draw_events` is the kernel that turns
one block of users into candidates, and `generate_batch` runs it over Ray Data into a staging folder
that Feast cannot see. Every draw is keyed by user and item, so that partitions, workers and retries
change nothing.
"""

from scalr_ray.generate.draw import DrawSettings, draw_events
from scalr_ray.generate.pipeline import GeneratedBatch, generate_batch
from scalr_ray.generate.plan import PlanRules, history_weight, plan_users

__all__ = [
    "DrawSettings",
    "GeneratedBatch",
    "PlanRules",
    "draw_events",
    "generate_batch",
    "history_weight",
    "plan_users",
]
