"""Feature services: what each kind of training pulls.

Rows are selected from the event views first; the services named after a mix enrich those rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from feast import FeatureService

if TYPE_CHECKING or __package__:
    from .events import source_events, target_events
    from .features import item_popularity, user_source_features
else:
    from events import source_events, target_events
    from features import item_popularity, user_source_features

translator_inputs_v1 = FeatureService(
    name="translator_inputs_v1",
    features=[source_events, target_events, user_source_features, item_popularity],
    description="What a translator learns from: real events of both domains, and features.",
    tags={"mix": "real"},
)

mixed_training_v1 = FeatureService(
    name="mixed_training_v1",
    features=[user_source_features, item_popularity],
    description="Enriches real target events and synthetic events, each as of its own time.",
    tags={"mix": "real+synthetic"},
)

real_only_v1 = FeatureService(
    name="real_only_v1",
    features=[user_source_features, item_popularity],
    description="Enriches real target events, each as of its own time.",
    tags={"mix": "real"},
)

user_features_v1 = FeatureService(
    name="user_features_v1",
    features=[user_source_features],
    description="What a neural translator may read of a user, as of each event.",
    tags={"mix": "real"},
)

item_features_v1 = FeatureService(
    name="item_features_v1",
    features=[item_popularity],
    description="What a neural translator may read of an item, as of its train cutoff.",
    tags={"mix": "real"},
)
