"""Which target items may be proposed, and to whom.

Items are restricted by what Feast serves of them as of the generation time: by named values, by a
window of availability, by a flag. Where an item must also equal its user in something, say in the
market, users and items fall into groups, and a user is proposed the items of the same group.

Legend: N users, I target items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalr_ray.core.config import CatalogueSettings
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import TIMESTAMP
from scalr_ray.translator.encode import Vocabulary

# Joins the values of several features into one key; a control character no value should carry.
_SEPARATOR = "\x1f"


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The items that may be proposed to each group of users.

    Attributes:
        item_group: (I,) int32, the group of users to which an item may be proposed; -1: to nobody.
        user_features: the features of a user that decide the group; without any all users are in
            group 0.
        values: the values of these features, joined, of each group that has an item. After these
            groups comes one of users whose values are missing or are those of no item: nothing is
            proposed to them.
    """

    item_group: NDArray[np.int32]
    user_features: tuple[str, ...]
    values: Vocabulary

    def __len__(self) -> int:
        """The number of items."""
        return len(self.item_group)

    @property
    def groups(self) -> int:
        """The number of groups of users."""
        return len(self.values) + 1

    def allowed(self, group: int) -> NDArray[np.bool_]:
        """(I,) the items that may be proposed to the users of a group."""
        return np.asarray(self.item_group == group)

    def without(self, items: NDArray[np.bool_]) -> Catalogue:
        """The same without the `items` (I,); nothing of it may be left."""
        return replace(self, item_group=np.where(items, -1, self.item_group).astype(np.int32))

    @classmethod
    def everything(cls, items: int) -> Catalogue:
        """One group, to which all of so many items may be proposed."""
        return cls._of_one_group(np.ones(items, dtype=np.bool_))

    @classmethod
    def of(
        cls,
        settings: CatalogueSettings,
        items: pa.Table,
        as_of: datetime,
        groups: pa.Table | None = None,
    ) -> Catalogue:
        """The catalogue that the settings leave as of a time.

        An item of which a feature is unknown passes `only` and `same`, never; it is available, and
        not blocked. Values are compared by their text, so that 1 and "1" are the same market.

        Args:
            settings: what restricts it.
            items: (I rows, in order of code) features of each item as of `as_of`.
            as_of: the generation time.
            groups: features of users, any number of rows; with `same`, the combinations of values
                in it are those that make groups.

        Raises:
            UsageError: a feature is not among those that are served.
            DataError: a feature is of the wrong type, or a rule leaves no item.
        """
        passed = np.ones(items.num_rows, dtype=np.bool_)
        for rule, passes in _rules(settings, items, as_of):
            passed &= passes
            if not passed.any():
                raise DataError(
                    f"generation.catalogue.{rule} leaves no item to propose as of "
                    f"{as_of:%Y-%m-%d %H:%M:%S}; widen it, or mend the feature"
                )
        if not settings.same:
            return cls._of_one_group(passed)
        if groups is None:
            raise UsageError(
                "generation.catalogue.same needs features of the users; name their service as "
                "generation.catalogue.users"
            )
        return cls._of_groups(settings.same, items, groups, passed)

    def group_of(self, user_features: pa.Table) -> NDArray[np.int64]:
        """(N,) the group of each user, by the features served of them.

        Raises:
            UsageError: a feature is not among those that are served.
            DataError: a feature is of the wrong type.
        """
        if not self.user_features:
            return np.zeros(user_features.num_rows, dtype=np.int64)
        code = self.values.codes(_joined(user_features, self.user_features, "user"))
        return np.where(code < 0, len(self.values), code)

    @classmethod
    def _of_one_group(cls, passed: NDArray[np.bool_]) -> Catalogue:
        no_values = Vocabulary(ids=pa.array([], pa.string()))
        item_group = np.where(passed, 0, -1).astype(np.int32)
        return cls(item_group=item_group, user_features=(), values=no_values)

    @classmethod
    def _of_groups(
        cls, same: dict[str, str], items: pa.Table, users: pa.Table, passed: NDArray[np.bool_]
    ) -> Catalogue:
        """A group per combination of values that both a user and an item that passed have."""
        of_users = pc.drop_null(_joined(users, tuple(same), "user"))
        of_items = _joined(items, tuple(same.values()), "item")
        offered = pc.drop_null(of_items.filter(pa.array(passed)))
        both = of_users.filter(pc.is_in(of_users, value_set=pc.unique(offered)))
        if not len(both):
            pairs = ", ".join(f"{user} = {item}" for user, item in same.items())
            raise DataError(
                f"generation.catalogue.same ({pairs}) leaves no item to propose to anybody; no "
                "user has a value that an item has"
            )
        values = Vocabulary.of(both)
        item_group = np.where(passed, values.codes(of_items), -1).astype(np.int32)
        return cls(item_group=item_group, user_features=tuple(same), values=values)


def _rules(
    settings: CatalogueSettings, items: pa.Table, as_of: datetime
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Each rule by its name in the settings, with (I,) the items that pass it."""
    now = pa.scalar(as_of, TIMESTAMP)
    rules = []
    for name, values in settings.only.items():
        texts = pa.array(
            [str(int(value) if isinstance(value, bool) else value) for value in values]
        )
        rules.append((f"only ({name})", pc.is_in(_texts(items, name, "item"), value_set=texts)))
    if settings.available_from is not None:
        begun = pc.less_equal(_times(items, settings.available_from), now)
        rules.append(("available_from", pc.fill_null(begun, fill_value=True)))
    if settings.available_until is not None:
        ended = pc.less_equal(_times(items, settings.available_until), now)
        rules.append(("available_until", pc.invert(pc.fill_null(ended, fill_value=False))))
    if settings.blocked is not None:
        rules.append(("blocked", pc.invert(_flags(items, settings.blocked))))
    return [(rule, passes.to_numpy(zero_copy_only=False)) for rule, passes in rules]


def _joined(table: pa.Table, names: Sequence[str], whose: str) -> pa.Array:
    """One text per row for the values of several features; null where one of them is."""
    texts = [_texts(table, name, whose) for name in names]
    return pc.binary_join_element_wise(*texts, _SEPARATOR)


def _texts(table: pa.Table, name: str, whose: str) -> pa.Array:
    column = _feature(table, name, whose)
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_boolean(kind):
        return column.cast(pa.int8()).cast(pa.string())
    if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.cast(pa.string())
    raise DataError(
        f"the {whose} feature {name!r} is of type {kind}; the catalogue can go by text, whole "
        "numbers and flags"
    )


def _times(items: pa.Table, name: str) -> pa.Array:
    column = _feature(items, name, "item")
    if not pa.types.is_timestamp(column.type):
        raise DataError(
            f"the item feature {name!r} is of type {column.type}; serve a time with a zone"
        )
    if column.type.tz is None:
        raise DataError(f"the item feature {name!r} has times without a zone; store them in UTC")
    return column.cast(TIMESTAMP, safe=False)  # nanoseconds do not matter to a day of launch


def _flags(items: pa.Table, name: str) -> pa.Array:
    column = _feature(items, name, "item")
    if not (pa.types.is_boolean(column.type) or pa.types.is_integer(column.type)):
        raise DataError(
            f"the item feature {name!r} is of type {column.type}; serve a flag, true or false"
        )
    return pc.fill_null(column.cast(pa.bool_()), fill_value=False)


def _feature(table: pa.Table, name: str, whose: str) -> pa.Array:
    if name not in table.column_names:
        served = ", ".join(repr(column) for column in table.column_names) or "none"
        raise UsageError(
            f"generation.catalogue names the {whose} feature {name!r}, which its service does not "
            f"have; those there are {served}"
        )
    return table[name].combine_chunks()
