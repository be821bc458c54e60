"""What a point-in-time join must do, one check per promise, judged on any store.

`judge` returns "ok" or what happens instead, in words fit for a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pandas as pd
import pyarrow as pa

from tests.contract.asof_oracle import FeatureRow
from tests.contract.store_harness import (
    ROW,
    VIEWS,
    Bench,
    deviation,
    entity_frame,
    expected,
    rows_for,
)

OK = "ok"
T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)

Check = Callable[[Bench], str]


def judge(check: str, bench: Bench) -> str:
    try:
        return CHECKS[check](bench) or OK
    except Exception as error:  # noqa: BLE001 - whatever a store raises is its answer
        return f"raises {type(error).__name__}"


def row(key: Any, hours: float, value: Any, *, known: float | None = None) -> FeatureRow:
    """A feature row at T0 + hours, recorded when it happened unless said otherwise."""
    keys = key if isinstance(key, tuple) else (key,)
    recorded = T0 + (hours if known is None else known) * HOUR
    return FeatureRow(keys, T0 + hours * HOUR, recorded, (value,))


def at(key: Any, hours: float = 0) -> tuple[tuple[Any, ...], datetime]:
    """An entity row at T0 + hours."""
    return (key if isinstance(key, tuple) else (key,), T0 + hours * HOUR)


def agrees(
    rows: Sequence[FeatureRow],
    wanted: Sequence[Any],
    *,
    view: str = "visits",
    cut_off: bool = False,
) -> Check:
    """One view, and the oracle's answer."""

    def check(bench: Bench) -> str:
        spec = VIEWS[view]
        bench.write(view, rows)
        found = bench.ask(
            entity_frame(spec.keys, wanted),
            [f"{view}:{spec.feature}"],
            filter_by_created_timestamp=cut_off,
        )
        return deviation(found, {spec.feature: expected(view, rows, wanted, cut_off=cut_off)})

    return check


ONE = [row("a", -1, 7)]


def _full_tie_whatever_the_file_order(bench: Bench) -> str:
    tied = [row("a", -1, value) for value in (1, 3, 2)]
    answers = set()
    for rows in (tied, tied[::-1], [tied[1], tied[2], tied[0]]):
        bench.write("visits", rows)
        found = bench.ask(entity_frame(["user"], [at("a")]), ["visits:amount"])
        answers.update(found["amount"].to_pylist())
    return "" if len(answers) == 1 else "another row when the file is reordered"


def _full_tie_gives_one_row(bench: Bench) -> str:
    bench.write("visits", [row("a", -1, value) for value in (1, 2)])
    found = bench.ask(entity_frame(["user"], [at("a")]), ["visits:amount"])
    return "" if found.num_rows == 1 else rows_for(found.num_rows, 1)


def _labels_at_one_time(bench: Bench) -> str:
    bench.write("visits", ONE)
    wanted = entity_frame(["user"], [at("a")] * 3).assign(label=["x", "y", "z"])
    found = bench.ask(wanted, ["visits:amount"])
    return deviation(found, {"amount": [7] * 3, "label": ["x", "y", "z"]})


def _identical_entity_rows(bench: Bench) -> str:
    bench.write("visits", ONE)
    wanted = entity_frame(["user"], [at("a")] * 2).drop(columns=ROW)
    found = bench.ask(wanted, ["visits:amount"])
    return "" if found["amount"].to_pylist() == [7, 7] else rows_for(found.num_rows, 2)


def _row_order(bench: Bench) -> str:
    keys = ["b", "a", "c", None, "a", "?"]
    rows = [row(key, -hours, hours) for key in ("a", "b", "c") for hours in (1, 3)]
    wanted = [at(keys[(5 * n) % 6], (7 * n) % 11) for n in range(60)]
    bench.write("visits", rows)
    found = bench.ask(entity_frame(["user"], wanted), ["visits:amount"])
    return "" if found[ROW].to_pylist() == list(range(60)) else "other order"


def _cut_off_without_created_is_refused(bench: Bench) -> str:
    bench.write("unrecorded", ONE)
    try:
        bench.ask(
            entity_frame(["user"], [at("a")]),
            ["unrecorded:amount"],
            filter_by_created_timestamp=True,
        )
    except Exception as error:  # noqa: BLE001 - any error will do that names the view
        return "" if "unrecorded" in str(error) else f"raises {type(error).__name__}"
    return "silently ignored"


def _full_feature_names(bench: Bench) -> str:
    bench.write("visits", [row("a", -1, 7)])
    bench.write("fading", [row("a", -1, 8)])
    found = bench.ask(
        entity_frame(["user"], [at("a")]),
        ["visits:amount", "fading:amount"],
        full_feature_names=True,
    )
    return deviation(found, {"visits__amount": [7], "fading__amount": [8]})


def _join_key_map(bench: Bench) -> str:
    bench.write("visits", [row("a", -1, 7), row("b", -1, 8)])
    wanted = entity_frame(["user"], [at("a"), at("b"), at("a")]).assign(friend=["b", "?", "a"])
    found = bench.ask(wanted, bench.store.get_feature_service("aliased"), full_feature_names=True)
    return deviation(
        found, {"friend_visits__amount": [8, None, 7], "own_visits__amount": [7, 8, 7]}
    )


def _views_with_different_keys(bench: Bench) -> str:
    visits = [row("a", -2, 7), row("b", -1, 8)]
    pairs = [row(("a", "b"), -3, 5), row(("b", "a"), -1, 6)]
    wanted = [at(("a", "b"), hours) for hours in (-2, 0)] + [at(("b", "a")), at(("?", "a"))]
    bench.write("visits", visits)
    bench.write("pairs", pairs)
    frame = entity_frame(["left", "right"], wanted)
    found = bench.ask(
        frame.assign(user=frame["left"]),
        ["visits:amount", "pairs:amount"],
        full_feature_names=True,
    )
    of_user = [((left,), t) for (left, _), t in wanted]
    return deviation(
        found,
        {
            "visits__amount": expected("visits", visits, of_user),
            "pairs__amount": expected("pairs", pairs, wanted),
        },
    )


def _zones(zone: timezone | None) -> Check:
    def check(bench: Bench) -> str:
        rows = [row("a", -1, 7), row("a", 0, 8), row("a", 1, 9)]
        bench.write("visits", rows)
        wanted = [at("a", -0.5), at("a"), at("a", 0.5)]
        frame = entity_frame(["user"], wanted)
        frame["event_timestamp"] = frame["event_timestamp"].dt.tz_convert(zone)
        found = bench.ask(frame, ["visits:amount"])
        if wrong := deviation(found, {"amount": expected("visits", rows, wanted)}):
            return wrong
        times = found["event_timestamp"]
        if times.type.tz != "UTC":
            return f"{times.type.tz or 'no zone'} out"
        return deviation(found, {"event_timestamp": [t for _, t in wanted]})

    return check


def _mixed_zones(bench: Bench) -> str:
    rows = [row("a", -1, 7), row("a", 0, 8)]
    bench.write("visits", rows)
    wanted = [at("a", -0.5), at("a")]
    frame = entity_frame(["user"], wanted)
    zones = (timezone(timedelta(hours=5, minutes=30)), timezone(-3 * HOUR))
    frame["event_timestamp"] = pd.Series(
        [t.astimezone(zone) for (_, t), zone in zip(wanted, zones, strict=True)], dtype=object
    )
    found = bench.ask(frame, ["visits:amount"])
    return deviation(found, {"amount": expected("visits", rows, wanted)})


def _on_demand(bench: Bench) -> str:
    bench.write("visits", ONE)
    wanted = entity_frame(["user"], [at("a"), at("a", 1)])
    found = bench.ask(wanted, ["visits:amount", "doubled:double"])
    return deviation(found, {"amount": [7, 7], "double": [14, 14]})


def _arrow_entity_rows(bench: Bench) -> str:
    bench.write("visits", ONE)
    wanted = pa.Table.from_pandas(entity_frame(["user"], [at("a"), at("?")]), preserve_index=False)
    return deviation(bench.ask(wanted, ["visits:amount"]), {"amount": [7, None]})


def _columns_named_like_the_source(bench: Bench) -> str:
    bench.write("visits", ONE)
    wanted = entity_frame(["user"], [at("a"), at("?")]).assign(known=[1, 2], at=["x", None])
    found = bench.ask(wanted, ["visits:amount"])
    return deviation(found, {"amount": [7, None], "known": [1, 2], "at": ["x", None]})


_CORRECTED = [row("a", -3, 8), row("a", -3, 7, known=1), row("a", -1, 6, known=2)]
_EDGES = [at("a", hours) for hours in (-3, -2.9, -1, 0, 1, 2)]
_MAPPED = [row(1, -2, 7), row(1, -1, 8, known=1), row(2, -1, 9)]
_SWAPPED = [row(("1", "11"), -1, 1), row(("11", "1"), -1, 2)]

CHECKS: dict[str, Check] = {
    "the latest row at or before t": agrees(
        [row("a", -3, 7), row("b", -1, 8), row("a", 0, 9), row("a", 1, 10)],
        [at("a", -3), at("a", -1), at("b"), at("a"), at("a", 0.5)],
    ),
    "a later `created` wins a tie": agrees(
        [row("a", -1, 8, known=-0.5), row("a", -1, 7, known=0), row("a", -1, 9)], [at("a", 1)]
    ),
    "a full tie gives one row": _full_tie_gives_one_row,
    "a full tie gives the same row whatever the file order": _full_tie_whatever_the_file_order,
    "TTL includes its bound": agrees(
        [row("a", -3, 7), row("b", -2, 8)], [at("a"), at("b")], view="fading"
    ),
    "TTL 0 means none": agrees([row("a", -24_000, 7)], [at("a")]),
    "an expired feature is null, its entity row stays": agrees(
        [FeatureRow(("a",), T0 - 3 * HOUR - MICROSECOND, T0, (7,)), row("b", -1, 8)],
        [at("a"), at("b")],
        view="fading",
    ),
    "only future features give null": agrees([row("a", 1, 7), row("b", -1, 8)], [at("a"), at("b")]),
    "an unknown key gives null": agrees(ONE, [at("a"), at("?")]),
    "same key and time with 3 labels gives 3": _labels_at_one_time,
    "identical entity rows all stay": _identical_entity_rows,
    "microseconds are told apart": agrees(
        [
            FeatureRow(("a",), T0 - MICROSECOND, T0, (7,)),
            FeatureRow(("a",), T0 + MICROSECOND, T0, (8,)),
        ],
        [(("a",), T0), (("a",), T0 + MICROSECOND)],
    ),
    "a null key stays": agrees(ONE, [at("a"), at(None)]),
    "a null key meets no null key": agrees([*ONE, row(None, -1, 8)], [at("a"), at(None)]),
    "the row order stays": _row_order,
    'keys ("1", "11") and ("11", "1") differ': agrees(
        _SWAPPED, [at(("1", "11")), at(("11", "1"))], view="pairs"
    ),
    "entity columns may be named like columns of the source": _columns_named_like_the_source,
    "the availability cut-off hides what was recorded later": agrees(
        _CORRECTED, _EDGES, cut_off=True
    ),
    "a row never recorded is hidden by the cut-off": agrees(
        [*ONE, FeatureRow(("a",), T0, None, (8,))], [at("a", 1)], cut_off=True
    ),
    "the cut-off falls back to a row within the TTL": agrees(
        [row("a", -2, 7), row("a", -1, 8, known=1), row("b", -4, 7), row("b", -1, 8, known=1)],
        [at("a"), at("b")],
        view="fading",
        cut_off=True,
    ),
    "the cut-off is refused where `created` is not recorded": _cut_off_without_created_is_refused,
    "full feature names": _full_feature_names,
    "join-key maps": _join_key_map,
    "several views with different keys": _views_with_different_keys,
    "field mappings": agrees(_MAPPED, [at(1), at(2), at(3)], view="prices"),
    "the cut-off through a field mapping": agrees(
        _MAPPED, [at(1), at(2), at(3)], view="prices", cut_off=True
    ),
    "arrays": agrees(
        [row("a", -2, [1, 2]), row("b", -1, [])], [at("a"), at("b"), at("?")], view="baskets"
    ),
    "a feature whose name ends in `_y`": agrees(ONE, [at("a")], view="pays"),
    "another time zone in, UTC out": _zones(timezone(timedelta(hours=5, minutes=30))),
    "no time zone in means UTC, UTC out": _zones(None),
    "a time zone per row": _mixed_zones,
    "an on-demand feature view": _on_demand,
    "entity rows as an Arrow table": _arrow_entity_rows,
}
