"""Which items may be proposed, and to whom, by what is served of items and users."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalr_ray.core.config import CatalogueSettings
from scalr_ray.core.errors import DataError, UsageError
from scalr_ray.core.events import TIMESTAMP
from scalr_ray.generate.catalogue import Catalogue

NOW = datetime(2026, 3, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

market = st.sampled_from([None, "de", "fr", "jp"])
kind = st.sampled_from([None, 1, 2])
moment = st.sampled_from([None, NOW - MICROSECOND, NOW, NOW + MICROSECOND])
flag = st.sampled_from([None, True, False])
item = st.fixed_dictionaries(
    {"market": market, "kind": kind, "launch": moment, "retired": moment, "banned": flag}
)
user = st.fixed_dictionaries({"country": market, "taste": kind})

ITEM_SCHEMA = pa.schema(
    {
        "market": pa.string(),
        "kind": pa.int64(),
        "launch": TIMESTAMP,
        "retired": TIMESTAMP,
        "banned": pa.bool_(),
    }
)
USER_SCHEMA = pa.schema({"country": pa.string(), "taste": pa.int32()})


def items_of(rows):
    return pa.Table.from_pylist(rows, schema=ITEM_SCHEMA)


def users_of(rows):
    return pa.Table.from_pylist(rows, schema=USER_SCHEMA)


def settings(**restrictions):
    return CatalogueSettings(service="items", users="users", **restrictions)


def passes(row, user_row=None):
    """The rules in plain words, for the restrictions of the test below."""
    allowed = row["kind"] == 1 and row["market"] is not None
    allowed &= row["launch"] is None or row["launch"] <= NOW
    allowed &= row["retired"] is None or row["retired"] > NOW
    allowed &= not row["banned"]
    if user_row is not None:
        allowed &= user_row["country"] is not None and row["market"] == user_row["country"]
        allowed &= user_row["taste"] is not None and row["kind"] == user_row["taste"]
    return allowed


RULES = {
    "only": {"kind": (1,), "market": ("de", "fr", "jp")},
    "available_from": "launch",
    "available_until": "retired",
    "blocked": "banned",
}
FINE = {"market": "de", "kind": 1, "launch": None, "retired": None, "banned": None}
AT_HOME = {"country": "de", "taste": 1}


@given(st.lists(item, max_size=12))
def test_what_is_allowed_against_the_rules_in_plain_words(rows):
    rows = [FINE, *rows]
    catalogue = Catalogue.of(settings(**RULES), items_of(rows), NOW)
    assert catalogue.allowed(0).tolist() == [passes(row) for row in rows]


@given(st.lists(item, max_size=12), st.lists(user, max_size=6), st.lists(user, max_size=6))
def test_groups_against_the_rules_in_plain_words(rows, seen, others):
    """Users whose values were not there when the groups were made are proposed nothing."""
    rows, seen = [FINE, *rows], [AT_HOME, *seen]
    asked = settings(**RULES, same={"country": "market", "taste": "kind"})
    catalogue = Catalogue.of(asked, items_of(rows), NOW, users_of(seen))
    group = catalogue.group_of(users_of([*seen, *others]))
    for user_row, at in zip([*seen, *others], group, strict=True):
        allowed = catalogue.allowed(at).tolist()
        if user_row in seen:
            assert allowed == [passes(row, user_row) for row in rows]
        else:
            assert not any(allowed)


def test_everything_is_allowed_to_everybody_without_restrictions():
    for catalogue in (
        Catalogue.everything(3),
        Catalogue.of(CatalogueSettings(), items_of([FINE] * 3), NOW),
    ):
        assert catalogue.groups == 1
        assert catalogue.allowed(0).tolist() == [True] * 3
        assert catalogue.group_of(users_of([AT_HOME] * 2)).tolist() == [0, 0]


def test_values_are_compared_by_their_text():
    def allowed(table, **only):
        return Catalogue.of(settings(only=only), table, NOW).allowed(0).tolist()

    table = pa.table({"market": ["1", "2", "1"], "flag": [True, False, None]})
    assert allowed(table, market=(1,)) == [True, False, True]
    assert allowed(table, flag=(True,)) == [True, False, False]
    codes = pa.table({"market": pa.array(["a", "b", "a"]).dictionary_encode()})
    assert allowed(codes, market=("b",)) == [False, True, False]


def test_no_more_groups_are_made_than_items_have_values():
    users = pa.table({"country": [f"country {at}" for at in range(500)] + ["de"]})
    catalogue = Catalogue.of(settings(same={"country": "market"}), items_of([FINE]), NOW, users)
    assert [catalogue.allowed(group).tolist() for group in range(catalogue.groups)] == [
        [True],
        [False],
    ]
    assert set(catalogue.group_of(users)[:-1]) == {1}


def test_a_feature_that_is_not_served_is_named_with_those_that_are():
    with pytest.raises(UsageError, match=r"'color', .* those there are 'market', 'kind'"):
        Catalogue.of(settings(only={"color": ("red",)}), items_of([FINE]), NOW)
    asked = settings(same={"zone": "market"})
    with pytest.raises(UsageError, match=r"user feature 'zone', .*'country', 'taste'"):
        Catalogue.of(asked, items_of([FINE]), NOW, users_of([AT_HOME]))
    with pytest.raises(UsageError, match=r"catalogue.users"):
        Catalogue.of(asked, items_of([FINE]), NOW)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([datetime(2026, 1, 1)], pa.timestamp("us")), "without a zone"),  # noqa: DTZ001
        (pa.array(["2026-01-01"]), "serve a time with a zone"),
        (pa.array([20260101]), "serve a time with a zone"),
    ],
)
def test_times_must_be_times_with_a_zone(column, message):
    for rule in ("available_from", "available_until"):
        with pytest.raises(DataError, match=message):
            Catalogue.of(settings(**{rule: "launch"}), pa.table({"launch": column}), NOW)


def test_a_time_of_another_zone_and_unit_is_the_same_moment():
    launch = pa.array([NOW, NOW + timedelta(seconds=1)], pa.timestamp("s", tz="Asia/Tokyo"))
    catalogue = Catalogue.of(settings(available_from="launch"), pa.table({"launch": launch}), NOW)
    assert catalogue.allowed(0).tolist() == [True, False]


def test_flags_and_values_of_other_types_are_refused():
    with pytest.raises(DataError, match="serve a flag"):
        Catalogue.of(settings(blocked="market"), items_of([FINE]), NOW)
    lists = pa.table({"tags": [["a"], ["b"]]})
    with pytest.raises(DataError, match="'tags' is of type list"):
        Catalogue.of(settings(only={"tags": ("a",)}), lists, NOW)
    assert Catalogue.of(settings(blocked="n"), pa.table({"n": [0, 1, None]}), NOW).allowed(
        0
    ).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        ([{**FINE, "kind": 2}], r"only \(kind\)"),
        ([{**FINE, "market": None}], r"only \(market\)"),
        ([{**FINE, "launch": NOW + MICROSECOND}], "available_from"),
        ([{**FINE, "retired": NOW}], "available_until"),
        ([{**FINE, "banned": True}], "blocked"),
        ([{**FINE, "banned": True}, {**FINE, "retired": NOW}], "blocked"),
    ],
)
def test_the_rule_that_leaves_nothing_is_named(rows, rule):
    with pytest.raises(DataError, match=f"generation.catalogue.{rule} leaves no item"):
        Catalogue.of(settings(**RULES), items_of(rows), NOW)


def test_users_who_share_nothing_with_any_item_are_told_of():
    abroad = users_of([{"country": "jp", "taste": 1}, {"country": None, "taste": 1}])
    asked = settings(same={"country": "market"})
    with pytest.raises(DataError, match="country = market"):
        Catalogue.of(asked, items_of([FINE]), NOW, abroad)


def test_a_catalogue_without_any_item_is_refused():
    with pytest.raises(DataError, match="leaves no item"):
        Catalogue.of(settings(**RULES), items_of([]), NOW)
    assert len(Catalogue.everything(0)) == 0
    assert np.asarray(Catalogue.everything(2).group_of(users_of([]))).shape == (0,)
