"""Translators over a handful of users, and the plain-Python count they are held against."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
from small_worlds import day, matrix

from scalr_ray.translator import FrequencyTranslator, PriorMix, Strength, Vocabulary, count_users
from scalr_ray.translator.frequency import overlap_marginal

SOURCES, TARGETS = 4, 5


def build(users, *, alpha=0.6, shrinkage=1.0, temperature=1.0, prior=None, pseudo=0.0):
    """The translator of `users`, pairs of the source and the target codes they have."""
    history = matrix([source for source, _ in users], SOURCES)
    own = matrix([target for _, target in users], TARGETS)
    shares = np.arange(TARGETS, 0, -1.0) if prior is None else np.asarray(prior, dtype=float)
    return FrequencyTranslator(
        train_cutoff=day(10),
        source_items=Vocabulary(ids=pa.array([f"s{code}" for code in range(SOURCES)])),
        target_items=Vocabulary(ids=pa.array([f"t{code}" for code in range(TARGETS)])),
        counts=count_users(history, own),
        marginal=overlap_marginal(history, own) + pseudo,
        mix=PriorMix.recent(window_days=30, background=0.01),
        prior=shares / shares.sum(),
        first_seen=np.zeros(TARGETS, dtype=np.int64),
        delays=np.arange(0, 1_010, 10, dtype=np.int64),
        strength=Strength(shrinkage=shrinkage, alpha=alpha, temperature=temperature),
    )


def pair_count(users, source, target):
    return sum(1 for have, own in users if source in have and target in own)


def recounted_log_lift(others, history, target, shrinkage, pseudo=0.0):
    """log P(target | history) / q(target), counted over `others` as the definition says."""
    overlap = [(have, own) for have, own in others if have and own]
    marginal = [pseudo + sum(1 for _, own in overlap if item in own) for item in range(TARGETS)]
    if not history:
        return 0.0
    ratios = []
    for source in history:
        row = [pair_count(overlap, source, item) for item in range(TARGETS)]
        # c / q, of which both go to 0 together where nobody has the item.
        by_q = row[target] * sum(marginal) / marginal[target] if marginal[target] else 0.0
        ratios.append((by_q + shrinkage) / (sum(row) + shrinkage))
    return math.log(sum(ratios) / len(ratios))
