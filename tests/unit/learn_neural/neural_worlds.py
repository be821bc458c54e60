"""Small worlds to learn from, and what training them takes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import torch

from scalr_ray.core.events import event_schema
from scalr_ray.learn.counts import first_appearances
from scalr_ray.learn.events import TrainingEvents
from scalr_ray.translator.neural.candidates import Catalogue
from scalr_ray.translator.neural.config import NetShape
from scalr_ray.translator.neural.net import TranslatorNet
from scalr_ray.translator.prior import PopularityIndex
from scalr_ray.translator.prior_mix import PriorMix

START = datetime(2024, 1, 1, tzinfo=UTC)
MIX = PriorMix.recent(window_days=90, background=0.1)

# (user, item, day it happened, days until it was known)
Event = tuple[int, int, float, float]


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def event_table(domain: str, events: Iterable[Event]) -> pa.Table:
    """A table of events, whose ids do not depend on their order."""
    rows = [
        {
            "event_id": f"{domain}-{user}-{item}-{at}-{late}",
            "user_id": user,
            "item_id": item,
            "domain": domain,
            "event_type": "view" if item % 2 else "buy",
            "event_timestamp": day(at),
            "available_at": day(at + late),
            "value": None if item % 3 else float(item),
        }
        for user, item, at, late in events
    ]
    return pa.Table.from_pylist(rows, schema=event_schema("int64", "int64"))


def coded(source: Iterable[Event], target: Iterable[Event]) -> TrainingEvents:
    return TrainingEvents.of(event_table("source", source), event_table("target", target))


def pairs(
    seed: int, *, users: int = 300, items: int = 30, planted: float = 0.9, late: float = 0.0
) -> tuple[list[Event], list[Event]]:
    """Four times per user a source item j, and 3 days later a target item that is j or random."""
    rng = np.random.default_rng(seed)
    source: list[Event] = []
    target: list[Event] = []
    for user in range(users):
        for _ in range(4):
            item, at = int(rng.integers(items)), float(rng.integers(200))
            source.append((user, item, at, late))
            same = rng.random() < planted
            target.append((user, item if same else int(rng.integers(items)), at + 3.0, 0.0))
    return source, target


def shape_of(events: TrainingEvents, **changes: object) -> NetShape:
    sizes = {
        "source_items": len(events.source_items),
        "target_items": len(events.target_items),
        "event_types": len(events.event_types),
        "length": 16,
        "width": 16,
        "layers": 1,
        "dropout": 0.1,
    }
    return NetShape(**{**sizes, **changes})


def net_of(events: TrainingEvents, seed: int = 0, **changes: object) -> TranslatorNet:
    torch.manual_seed(seed)
    return TranslatorNet(shape_of(events, **changes))


def stirred(net: TranslatorNet) -> TranslatorNet:
    """The net with all weights at random, also those that begin at 0."""
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return net


def catalogue_of(events: TrainingEvents, negatives: int = 0) -> Catalogue:
    log, items = events.target_log.first_to_appear(), len(events.target_items)
    return Catalogue(
        prior=PopularityIndex.of(log.items, log.times, log.known_from, items=items, mix=MIX),
        first_seen=first_appearances(events),
        shares=np.bincount(log.items, minlength=items) / max(len(log), 1),
        negatives=negatives,
    )
