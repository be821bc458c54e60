"""Known-truth worlds: events of several domains whose true probabilities can be asked for.

`WorldConfig` holds the dials, `World.generate` makes the events. With `transfer=0` the world is a
null world: nothing a user does in a source domain tells what they choose in the target domain.
"""

from __future__ import annotations

from scalr_ray.simulate.config import WORLD_START, WorldConfig
from scalr_ray.simulate.world import World

__all__ = ["WORLD_START", "World", "WorldConfig"]
