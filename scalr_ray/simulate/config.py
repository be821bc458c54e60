"""The dials of a simulated world, checked when they are set."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from scalr_ray.core.errors import ConfigError

WORLD_START = datetime(2025, 1, 1, tzinfo=UTC)
"""The midnight at which every world begins."""

# A user has each item once at most, so nobody may come near the end of the catalogue: beyond this
# share of it, further visits do not happen.
MAX_OWNED_FRAC = 1 / 3


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """What a world is made of; equal configurations give equal worlds.

    Attributes:
        users: people in the world, over all domains.
        source_items: items in the catalogue of each source domain.
        target_items: items in the catalogue of the target domain.
        days: length of the world, from `WORLD_START`.
        source_domains: names of the source domains; a source user is active in all of them.
        target_domain: name of the target domain.
        latent: width of tastes and item vectors.
        genres: clusters of item vectors in each domain.
        transfer: share of the variance of a user's target taste that is their source taste, in
            [0, 1]; 0 is the null world.
        sharpness: how strongly taste moves a choice, in units of log probability per standard
            deviation of taste.
        overlap_frac: share of the users who are active in both kinds of domain.
        target_only_frac: share of the users without any source event; the rest has no target event.
        late_frac: share of the target users who come to the target domain late, at 60 to 95 % of
            the world's length.
        source_events_per_user: mean events of a source user per source domain over the whole world.
        target_events_per_user: the same in the target domain.
        session_events: mean events of a session.
        activity_sigma: standard deviation of the log of users' activity; its tail is log-normal.
        popularity_exponent: exponent of the power law of popularity over rank.
        drift: standard deviation of an item's log popularity around its level in the power law.
        drift_days: days after which the correlation of that movement has fallen to 1/e.
        launch_frac: share of the items that are launched during the world; nobody can choose them
            before.
        seed: of all randomness.
    """

    users: int = 6000
    source_items: int = 1500
    target_items: int = 800
    days: int = 360
    source_domains: tuple[str, ...] = ("source",)
    target_domain: str = "target"
    latent: int = 8
    genres: int = 16
    transfer: float = 0.8
    sharpness: float = 2.5
    overlap_frac: float = 0.65
    target_only_frac: float = 0.1
    late_frac: float = 0.6
    source_events_per_user: float = 36.0
    target_events_per_user: float = 24.0
    session_events: float = 2.5
    activity_sigma: float = 0.8
    popularity_exponent: float = 0.6
    drift: float = 0.9
    drift_days: float = 180.0
    launch_frac: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse dials that make no world.

        Raises:
            ConfigError: a dial is out of its range, or the names of the domains are not distinct.
        """
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(
                    f"world.{name} is {value}; choose a value between {low:g} and {high:g}"
                )
        if self.overlap_frac + self.target_only_frac > 1:
            raise ConfigError(
                "world.overlap_frac and world.target_only_frac add up to more than 1; lower one"
            )
        names = (*self.source_domains, self.target_domain)
        if not self.source_domains or not all(names) or len(set(names)) < len(names):
            raise ConfigError(
                f"world domains {', '.join(map(repr, names))} must be one target and one or more "
                "sources with distinct, non-empty names"
            )


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("users", 1, 999_999),
    ("source_items", 10, 999_999),
    ("target_items", 10, 999_999),
    ("days", 1, 36_500),
    ("latent", 1, 256),
    ("genres", 1, 10_000),
    ("transfer", 0, 1),
    ("sharpness", 0, 10),
    ("overlap_frac", 0, 1),
    ("target_only_frac", 0, 1),
    ("late_frac", 0, 1),
    ("source_events_per_user", 0, 10_000),
    ("target_events_per_user", 0, 10_000),
    ("session_events", 1, 100),
    ("activity_sigma", 0, 3),
    ("popularity_exponent", 0, 3),
    ("drift", 0, 3),
    ("drift_days", 1, 36_500),
    ("launch_frac", 0, 0.5),
)
