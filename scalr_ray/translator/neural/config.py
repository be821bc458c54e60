"""The sizes of the neural translator: fixed when the net is built, saved beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from scalr_ray.core.errors import ConfigError
from scalr_ray.translator.neural.features import FeatureSpec


@dataclass(frozen=True, kw_only=True)
class NetShape:
    """Sizes and widths of a net.

    Attributes:
        source_items: S, size of the vocabulary of (domain, item) keys.
        target_items: I, size of the target catalogue.
        event_types: size of the vocabulary of event types.
        length: L, the most tokens of a user that are read at a time, the latest.
        width: D, of tokens, states and item vectors.
        layers: of the transformer; with 0 a state is the mean of the tokens so far.
        heads: of each attention; divides the width.
        dropout: of tokens, of residual branches and of states while training.
        id_dropout: share of item ids that are replaced by the unknown id while training, so that
            features have to speak for an item too; of candidates only where items have features.
        user_features: how the features of a query's user are encoded; None without any.
        item_features: how the features of target items are encoded; None without any.
    """

    source_items: int
    target_items: int
    event_types: int = 0
    length: int = 128
    width: int = 64
    layers: int = 1
    heads: int = 2
    dropout: float = 0.3
    id_dropout: float = 0.1
    user_features: FeatureSpec | None = field(default=None)
    item_features: FeatureSpec | None = field(default=None)

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(
                f"the width {self.width} is no multiple of the number of heads {self.heads}; "
                "choose another"
            )

    @property
    def left_out(self) -> tuple[str, ...]:
        """One line for each feature that was served and is not learned from, and why."""
        specs = (self.user_features, self.item_features)
        return tuple(note for spec in specs if spec is not None for note in spec.notes)

    def to_json(self) -> dict[str, Any]:
        """A JSON object from which `from_json` gives an equal shape."""
        plain = asdict(self)
        for side in ("user_features", "item_features"):
            spec = getattr(self, side)
            plain[side] = None if spec is None else spec.to_json()
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> NetShape:
        """The shape that `to_json` has written."""
        specs = {
            side: None if plain[side] is None else FeatureSpec.from_json(plain[side])
            for side in ("user_features", "item_features")
        }
        return cls(**{**plain, **specs})
