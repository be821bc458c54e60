"""Who and what events are about."""

from __future__ import annotations

from pathlib import Path

from feast import Entity, ValueType

from scalr_ray.core.config import load_config
from scalr_ray.core.events import IdType

_VALUE_TYPES: dict[IdType, ValueType] = {"string": ValueType.STRING, "int64": ValueType.INT64}
_ids = load_config(Path(__file__).parent).ids

user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=_VALUE_TYPES[_ids.user_id],
    description="A person, known by one id in every domain.",
)

item = Entity(
    name="item",
    join_keys=["item_id"],
    value_type=_VALUE_TYPES[_ids.item_id],
    description="Something a user can interact with, in one domain.",
)

event = Entity(
    name="event",
    join_keys=["event_id"],
    value_type=ValueType.STRING,
    description="One interaction of one user with one item at one time.",
)
