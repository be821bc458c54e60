"""What is new is what appeared after the watermark of its own domain."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_worlds import day, event_table

from scalr_ray.core.duck import duck
from scalr_ray.core.errors import UsageError
from scalr_ray.jobs.backfill import parse_every
from scalr_ray.jobs.news import describe_watermarks, is_new_sql

MICROSECOND = timedelta(microseconds=1)
DOMAINS = ("books", "games")

# Few users and days, so that ties with a watermark are common; half of the events come late.
rows = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 6), st.integers(0, 3))
)


def tables(books, games):
    return pa.concat_tables(
        [
            event_table([(user, item, at, at + late) for user, item, at, late in of], domain)
            for domain, of in zip(DOMAINS, (books, games), strict=True)
        ]
    )


def news(source, since, domains=DOMAINS):
    with duck() as session:
        session.register("source", source)
        query = f"SELECT event_id FROM source WHERE {is_new_sql(domains, since)}"
        return sorted(event_id for (event_id,) in session.execute(query).fetchall())


@given(books=rows, games=rows, marks=st.dictionaries(st.sampled_from(DOMAINS), st.integers(0, 9)))
def test_news_are_what_brute_force_finds(books, games, marks):
    since = {domain: day(at) for domain, at in marks.items()}
    new = [
        row["event_id"]
        for row in tables(books, games).to_pylist()
        if row["domain"] not in since
        or max(row["event_timestamp"] + MICROSECOND, row["available_at"]) > since[row["domain"]]
    ]
    assert news(tables(books, games), since) == sorted(new)
    only_books = [event_id for event_id in new if event_id.startswith("books")]
    assert news(tables(books, games), since, ["books"]) == sorted(only_books)


def test_an_event_at_the_watermark_itself_is_not_seen_yet_unless_it_had_arrived():
    source = event_table([("a", "x", 3)], "books")
    assert len(news(source, {"books": day(3)})) == 1  # it is seen a microsecond later
    assert len(news(source, {"books": day(3) + MICROSECOND})) == 0
    late = event_table([("a", "x", 1, 3)], "books")
    assert len(news(late, {"books": day(3)})) == 0
    assert len(news(late, {"books": day(3) - MICROSECOND})) == 1


def test_a_domain_that_lags_is_not_skipped_over_by_one_that_is_ahead():
    source = tables([("a", "x", 2, 0)], [("b", "y", 6, 0)])
    assert len(news(source, {"books": day(1), "games": day(7)})) == 1
    assert len(news(source, {"books": day(7), "games": day(1)})) == 1


def test_watermarks_are_described_by_domain():
    told = describe_watermarks({"games": day(1), "books": day(0)})
    assert told == "2026-01-01 00:00:00+00:00 (books), 2026-01-02 00:00:00+00:00 (games)"


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("7d", timedelta(days=7)),
        ("12h", timedelta(hours=12)),
        ("99999d", timedelta(days=99999)),
        (timedelta(minutes=1), timedelta(minutes=1)),
    ],
)
def test_durations_are_days_or_hours(text, span):
    assert parse_every(text) == span


@pytest.mark.parametrize(
    "text", ["", "7", "d", "0d", "07d", "-7d", "+7d", "7 d", "7D", "1.5d", "7d ", "7d12h", "7w",
             "100000d"]
)  # fmt: skip
def test_other_durations_are_refused(text):
    with pytest.raises(UsageError, match="is no duration; write days or hours, say 7d or 12h"):
        parse_every(text)


@pytest.mark.parametrize("span", [timedelta(0), timedelta(days=-1)])
def test_a_distance_that_leads_nowhere_is_refused(span):
    with pytest.raises(UsageError, match="is not positive"):
        parse_every(span)
