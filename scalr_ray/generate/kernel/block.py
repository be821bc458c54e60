"""What the kernel is asked: the settings that a run has in common, and one block of its users.

Legend: B users, I target items, E source events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from scalr_ray.core.clock import to_micros
from scalr_ray.core.errors import DataError, LeakageError
from scalr_ray.generate.catalogue import Catalogue
from scalr_ray.generate.plan import known
from scalr_ray.translator.encode import incidence
from scalr_ray.translator.histories import Users
from scalr_ray.translator.protocol import Translator


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """What one generation run has in common.

    Attributes:
        batch_id: the batch the events belong to.
        translator_version: recorded as lineage.
        domain: the target domain.
        as_of: the logical generation time; nothing drawn lies at or after it.
        strategy: `sample` draws without replacement, `top` takes the likeliest.
        temperature: of the sampling, which is from (prior * lift^evidence)^(1 / temperature).
        top_p: sampling is cut to the likeliest items that together reach this probability; users
            get fewer events where these are fewer than their slots.
        evidence: exponent of the lift in drawing, where anything transfers at all.
        candidates: of a larger catalogue, only so many of the likeliest can be drawn.
        likelihood_floor: candidates below it are refused.
        without_evidence: `refuse` refuses the candidates of users of whom the translator knows
            nothing; `draw` leaves them what the prior says.
        negatives: for each accepted event, items drawn from the prior that are not proposed.
        seed: of every draw.
    """

    batch_id: str
    translator_version: str
    domain: str
    as_of: datetime
    strategy: Literal["sample", "top"]
    temperature: float
    top_p: float
    evidence: float
    candidates: int
    likelihood_floor: float
    without_evidence: Literal["draw", "refuse"]
    negatives: int
    seed: int


def refuse_later_translator(translator: Translator, settings: DrawSettings) -> None:
    """Raise LeakageError if the translator was trained after `settings.as_of`."""
    if translator.train_cutoff > settings.as_of:
        raise LeakageError(
            f"the translator was trained as of {translator.train_cutoff}, after the generation "
            f"time {settings.as_of}; train one as of then"
        )


@dataclass(frozen=True, kw_only=True)
class Block:
    """B users to draw for.

    Attributes:
        users: what the translator is told of them.
        keys: (B,) what their draws are keyed by.
        slots: (B,) how many items to draw; 0 for a user without an event that may trigger.
        group: (B,) of users in the catalogue.
        barred: (B, I) items that they own, or that were proposed to them before: never drawn, so
            that no synthetic event repeats a real one or another one.
        catalogue: the items that may be proposed to a group, if they are there.
        there: (I,) items that were seen before the cut, and have a prior.
        may_trigger: (E,) of `users.source`: fresh, with room for an event before the cut.
    """

    users: Users
    keys: NDArray[np.uint64]
    slots: NDArray[np.int64]
    group: NDArray[np.int64]
    barred: sparse.csr_matrix
    catalogue: Catalogue
    there: NDArray[np.bool_]
    may_trigger: NDArray[np.bool_]

    @classmethod
    def of(
        cls, planned: pa.Table, translator: Translator, as_of: datetime, catalogue: Catalogue
    ) -> Block:
        """The planned users, under the vocabularies of the translator.

        Raises:
            DataError: the catalogue is of other items, or of other groups than the plan.
        """
        items, group = len(translator.target_items), planned["group"].to_numpy()
        groups = int(group.max(initial=0)) + 1
        if len(catalogue) != items or catalogue.groups < groups:
            raise DataError(
                f"the catalogue has {len(catalogue)} items and {catalogue.groups} groups of users, "
                f"the translator {items} items and the plan {groups} groups; plan the users again"
            )
        users = known(planned, as_of)
        fresh = planned["source"].combine_chunks().flatten().field("fresh")
        # After an event in the last microsecond before the cut no other event fits.
        room = users.source.times < to_micros(as_of) - 1
        may_trigger = fresh.to_numpy(zero_copy_only=False) & room
        able = np.bincount(users.source.rows[may_trigger], minlength=len(users)) > 0
        return cls(
            users=users,
            keys=planned["user_key"].to_numpy(),
            slots=np.where(able, planned["slots"].to_numpy(), 0),
            group=group,
            barred=_barred(users, planned["taken"].combine_chunks(), items),
            catalogue=catalogue,
            there=(translator.first_seen < to_micros(as_of)) & np.isfinite(translator.log_prior),
            may_trigger=may_trigger,
        )

    def by_group(
        self, wanted: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.int64]]]:
        """(I,) items that may be proposed and users of each group, without who wants nothing.

        Args:
            wanted: (B,) how many items each user wants.
        """
        for group in np.unique(self.group):
            rows = np.flatnonzero((self.group == group) & (wanted > 0))
            possible = self.catalogue.allowed(group) & self.there
            if rows.size and possible.any():
                yield possible, rows


def _barred(users: Users, taken: pa.LargeListArray, items: int) -> sparse.csr_matrix:
    lengths = np.diff(taken.offsets.to_numpy())
    rows = np.concatenate([users.own.rows, np.repeat(np.arange(len(users)), lengths)])
    return incidence(
        rows, np.concatenate([users.own.items, taken.flatten().to_numpy()]), (len(users), items)
    )
