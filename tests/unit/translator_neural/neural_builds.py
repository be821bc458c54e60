"""Users and nets small enough to reason about."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import torch

from scalr_ray.translator.encode import Vocabulary
from scalr_ray.translator.histories import EventLists, Users
from scalr_ray.translator.neural.config import NetShape
from scalr_ray.translator.neural.features import FeatureSpec
from scalr_ray.translator.neural.net import TranslatorNet
from scalr_ray.translator.neural.translator import NeuralTranslator
from scalr_ray.translator.prior_mix import PriorMix

DAY = 86_400_000_000
SOURCES, TARGETS = 6, 7

# (item, day) in order of appearance
History = list[tuple[int, int]]


def lists_of(histories: list[History]) -> EventLists:
    flat = [event for history in histories for event in history]
    return EventLists(
        offsets=np.cumsum([0, *(len(history) for history in histories)]),
        items=np.array([item for item, _ in flat], dtype=np.int64),
        times=np.array([at * DAY for _, at in flat], dtype=np.int64),
        types=np.array([item % 2 for item, _ in flat], dtype=np.int64),
        values=np.array([np.nan if item % 2 else item for item, _ in flat], dtype=np.float32),
    )


def users_of(histories: list[tuple[History, History]]) -> Users:
    """Users with a source and an own history each, as of day 30."""
    return Users(
        as_of=30 * DAY,
        source=lists_of([source for source, _ in histories]),
        own=lists_of([own for _, own in histories]),
    )


def translator(
    *,
    user_features: pa.Table | None = None,
    item_features: pa.Table | None = None,
    length: int = 16,
    width: int = 16,
) -> NeuralTranslator:
    """A translator with random weights."""
    specs = [
        None if table is None else FeatureSpec.fit(table)
        for table in (user_features, item_features)
    ]
    torch.manual_seed(0)
    net = TranslatorNet(
        NetShape(
            source_items=SOURCES,
            target_items=TARGETS,
            event_types=2,
            length=length,
            width=width,
            user_features=specs[0],
            item_features=specs[1],
        )
    )
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    share = np.arange(1, TARGETS + 1) / np.arange(1, TARGETS + 1).sum()
    return NeuralTranslator(
        net=net,
        train_cutoff=datetime(2024, 1, 1, tzinfo=UTC),
        source_items=Vocabulary(ids=pa.array([f"s{item}" for item in range(SOURCES)])),
        target_items=Vocabulary(ids=pa.array(range(TARGETS))),
        event_types=Vocabulary(ids=pa.array(["buy", "view"])),
        mix=PriorMix(windows_days=(None,), weights=(1.0,)),
        log_prior=np.log(share).astype(np.float32),
        first_seen=np.arange(TARGETS) * 4 * DAY,
        delays=np.array([DAY, 2 * DAY]),
        item_features=None
        if specs[1] is None or item_features is None
        else specs[1].encode(item_features),
    )
