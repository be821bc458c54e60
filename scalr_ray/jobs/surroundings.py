"""What Feast says, as of a generation time, of the items and users that are drawn for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.core.clock import to_micros
from scalr_ray.core.errors import UsageError
from scalr_ray.generate import Catalogue, Served
from scalr_ray.jobs.workspace import Workspace
from scalr_ray.offline_store.pull import pull_features
from scalr_ray.translator import Translator


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What restricts and aligns a batch, beside the events.

    Attributes:
        catalogue: which items may be proposed to whom.
        item_values: (I,) the feature that alignment goes by; None for popularity, or none at all.
        workspace: to ask of users; None where nothing is asked of them.
    """

    catalogue: Catalogue
    item_values: pa.Array | None = None
    workspace: Workspace | None = None

    @classmethod
    def none(cls, translator: Translator) -> Surroundings:
        """Nothing is restricted, and nothing asked."""
        return cls(catalogue=Catalogue.everything(len(translator.target_items)))

    @classmethod
    def of(cls, workspace: Workspace, translator: Translator, as_of: datetime) -> Surroundings:
        """Ask Feast for what the configuration names.

        Raises:
            UsageError: a service is not registered, or lacks a feature.
            DataError: nothing may be proposed.
        """
        generation, alignment = workspace.config.generation, workspace.config.alignment
        items, settings = translator.target_items.ids, generation.catalogue
        catalogue, values = Catalogue.everything(len(items)), None
        if settings.service is not None:
            served = _serve(workspace, settings.service, "item_id", items, as_of)
            # Every combination of values that an item has makes a group of users.
            groups = pa.table(
                {
                    user: _named(served, item, settings.service)
                    for user, item in settings.same.items()
                }
            )
            catalogue = Catalogue.of(settings, served, as_of, groups)
        if alignment.by is not None and alignment.service is not None:
            served = _serve(workspace, alignment.service, "item_id", items, as_of)
            values = _named(served, alignment.by, alignment.service).combine_chunks()
        asks_users = bool(settings.same) or generation.consent is not None
        return cls(
            catalogue=catalogue, item_values=values, workspace=workspace if asks_users else None
        )

    @property
    def asks_users(self) -> bool:
        """Whether anything is asked of users."""
        return self.workspace is not None

    def admit(self, plan: pa.Table, as_of: datetime) -> pa.Table:
        """The plan without those who did not consent, each user in the group of their items."""
        if self.workspace is None:
            return plan
        users = plan["user_id"].combine_chunks()
        groups, consents = self.about(users, np.full(len(users), to_micros(as_of)))
        at = plan.schema.get_field_index("group")
        plan = plan.set_column(at, plan.schema.field(at), pa.array(groups))
        return plan.filter(pa.array(consents))

    def about(
        self, users: pa.Array, times: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(N,) the group of each user as of its time, and whether the user consents."""
        groups, consents = np.zeros(len(users), dtype=np.int64), np.ones(len(users), dtype=bool)
        if self.workspace is None:
            return groups, consents
        generation, store = self.workspace.config.generation, self.workspace.store
        if generation.catalogue.users is not None:
            service = generation.catalogue.users
            served = pull_features(store, service, key="user_id", ids=users, times=times)
            groups = self.catalogue.group_of(served)
        if generation.consent is not None:
            service, feature = generation.consent.service, generation.consent.feature
            served = pull_features(store, service, key="user_id", ids=users, times=times)
            flag = _named(served, feature, service).cast(pa.bool_())
            consents = pc.fill_null(flag, fill_value=False).to_numpy()
        return groups, consents


def served_features(workspace: Workspace, kind: str) -> tuple[Served, ...]:
    """The services that a run reads features of users or items from, each once.

    Args:
        workspace: an opened repository.
        kind: of the translator; only the neural one reads features.
    """
    generation, neural = workspace.config.generation, workspace.config.translator.neural
    named: list[tuple[str, str | None]] = [
        ("user_id", neural.features if kind == "neural" else None),
        ("user_id", generation.catalogue.users),
        ("user_id", generation.consent.service if generation.consent is not None else None),
        ("item_id", neural.item_features if kind == "neural" else None),
        ("item_id", generation.catalogue.service),
        ("item_id", workspace.config.alignment.service),
    ]

    def asked(service: str, key: str) -> Served:
        def ask(ids: pa.Array, times: NDArray[np.int64]) -> pa.Table:
            return pull_features(workspace.store, service, key=key, ids=ids, times=times)

        return Served(service=service, key=key, ask=ask)

    once = dict.fromkeys((service, key) for key, service in named if service is not None)
    return tuple(asked(service, key) for service, key in once)


def _serve(
    workspace: Workspace, service: str, key: str, ids: pa.Array, as_of: datetime
) -> pa.Table:
    times = np.full(len(ids), to_micros(as_of))
    return pull_features(workspace.store, service, key=key, ids=ids, times=times)


def _named(served: pa.Table, feature: str, service: str) -> pa.ChunkedArray:
    if feature not in served.column_names:
        there = ", ".join(served.column_names)
        raise UsageError(f"feature service {service} has no feature {feature!r}; it has {there}")
    return served[feature]
