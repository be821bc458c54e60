"""What happens to ledgers of older and newer versions, on every database.

Run like `ledger_suite`, by importing all of it where there are `ledger_url` and `ledger`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, inspect, make_url

from scalr_ray.core.errors import ConfigError
from scalr_ray.ledger import BatchState, Ledger
from scalr_ray.ledger.database import REVISION
from scalr_ray.ledger.tables import Base

CUT = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
CUT_US = 1_772_368_215_123_456

# The tables as versions before the migrations made them; {counting} is a key that
# counts up.
FIRST = """
CREATE TABLE scalr_schema (version BIGINT NOT NULL, PRIMARY KEY (version));
CREATE TABLE scalr_runs (run_id TEXT NOT NULL, verb TEXT NOT NULL,
    config_fingerprint TEXT NOT NULL, config_json TEXT NOT NULL, seed BIGINT NOT NULL,
    started_at BIGINT NOT NULL, finished_at BIGINT, status TEXT NOT NULL, error_code TEXT,
    metrics_json TEXT NOT NULL, code_version TEXT NOT NULL, PRIMARY KEY (run_id));
CREATE INDEX ix_scalr_runs_started_at ON scalr_runs (started_at);
CREATE TABLE scalr_translators (version TEXT NOT NULL, run_id TEXT NOT NULL, kind TEXT NOT NULL,
    train_cutoff BIGINT NOT NULL, config_fingerprint TEXT NOT NULL, data_fingerprint TEXT NOT NULL,
    metrics_json TEXT NOT NULL, path TEXT NOT NULL, created_at BIGINT NOT NULL,
    PRIMARY KEY (version), FOREIGN KEY(run_id) REFERENCES scalr_runs (run_id));
CREATE INDEX ix_scalr_translators_created_at ON scalr_translators (created_at);
CREATE TABLE scalr_batches (batch_id TEXT NOT NULL, run_id TEXT NOT NULL,
    translator_version TEXT NOT NULL, state TEXT NOT NULL, as_of BIGINT NOT NULL,
    rows BIGINT NOT NULL, reason TEXT, snapshot_id BIGINT, created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL, PRIMARY KEY (batch_id),
    FOREIGN KEY(run_id) REFERENCES scalr_runs (run_id),
    FOREIGN KEY(translator_version) REFERENCES scalr_translators (version));
CREATE INDEX ix_scalr_batches_created_at ON scalr_batches (created_at);
CREATE INDEX ix_scalr_batches_state ON scalr_batches (state);
CREATE TABLE scalr_verdicts (id {counting} PRIMARY KEY NOT NULL, batch_id TEXT NOT NULL,
    check_name TEXT NOT NULL, passed BOOLEAN NOT NULL, value {real}, threshold {real},
    detail TEXT NOT NULL, created_at BIGINT NOT NULL,
    FOREIGN KEY(batch_id) REFERENCES scalr_batches (batch_id));
CREATE INDEX ix_scalr_verdicts_batch_id ON scalr_verdicts (batch_id);
INSERT INTO scalr_runs VALUES ('r1', 'train', 'f', '{{"a":1}}', 1, {now}, {now}, 'done', NULL, '{{}}', '0');
INSERT INTO scalr_translators VALUES ('t1', 'r1', 'frequency', {now}, 'c', 'd', '{{}}', '/t1', {now});
INSERT INTO scalr_batches VALUES ('b1', 'r1', 't1', 'published', {now}, 10, NULL, 7, {now}, {now});
INSERT INTO scalr_schema VALUES ({layout});
"""  # noqa: E501
SECOND = """
CREATE TABLE scalr_watermarks (batch_id TEXT NOT NULL, domain TEXT NOT NULL,
    seen_up_to BIGINT NOT NULL, PRIMARY KEY (batch_id, domain),
    FOREIGN KEY(batch_id) REFERENCES scalr_batches (batch_id));
CREATE TABLE scalr_replacements (batch_id TEXT NOT NULL, replaced_id TEXT NOT NULL,
    PRIMARY KEY (batch_id, replaced_id),
    FOREIGN KEY(batch_id) REFERENCES scalr_batches (batch_id),
    FOREIGN KEY(replaced_id) REFERENCES scalr_batches (batch_id));
INSERT INTO scalr_watermarks VALUES ('b1', 'books', {now});
"""


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def older(url: str, layout: int) -> None:
    """A database as an older version left it, with a published batch in it."""
    with connected(url) as connection:
        sqlite = connection.dialect.name == "sqlite"
        counting, real = ("INTEGER", "DOUBLE") if sqlite else ("BIGSERIAL", "DOUBLE PRECISION")
        for statement in (FIRST + SECOND * (layout > 1)).split(";\n"):
            filled = statement.format(
                counting=counting, real=real, now=CUT_US, layout=layout
            ).strip()
            if filled:
                connection.exec_driver_sql(filled)


def differences(url: str) -> list[object]:
    """Between the tables that are there and those of the models."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def is_ours(_item, name, kind, *_others):
        return kind != "table" or name in Base.metadata.tables

    with connected(url) as connection, warnings.catch_warnings():
        # SQLite tells nothing of how its types compare
        warnings.simplefilter("ignore")
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "include_object": is_ours}
        )
        return compare_metadata(context, Base.metadata)


@pytest.mark.parametrize("layout", [1, 2])
def test_an_older_ledger_is_brought_up_to_date_and_keeps_its_rows(ledger_url, layout):
    older(ledger_url, layout)
    with Ledger(ledger_url) as ledger:
        batch = ledger.batch("b1")
        assert (batch.state, batch.as_of, batch.snapshot_id) == (BatchState.PUBLISHED, CUT, 7)
        assert ledger.watermarks() == ({"books": CUT} if layout == 2 else {})
        assert ledger.run("r1").owner is None
        assert ledger.run("r1").config == {"a": 1}
        assert ledger.flag_translator("t1", "an erasure").flagged == "an erasure"
        ledger.set_watermarks("b1", {"games": CUT})
        assert ledger.pins() == []
        assert ledger.erasures() == []
    assert differences(ledger_url) == []
    with connected(ledger_url) as connection:
        assert not inspect(connection).has_table("scalr_schema")


def test_a_new_ledger_has_the_tables_of_the_models(ledger_url, ledger):
    assert ledger.runs() == []
    assert differences(ledger_url) == []


def test_the_newest_revision_is_the_one_that_is_looked_for():
    from scalr_ray.ledger.migrations import newest

    assert newest() == REVISION


def test_many_bring_one_ledger_up_to_date_at_once(ledger_url):
    older(ledger_url, 1)

    def open_it(_number: int) -> str:
        with Ledger(ledger_url) as ledger:
            return ledger.batch("b1").batch_id

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(open_it, range(16))) == {"b1"}
    assert differences(ledger_url) == []


def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(ledger_url, ledger):
    assert ledger.runs() == []
    with connected(ledger_url) as connection:
        connection.exec_driver_sql("UPDATE scalr_ledger_version SET version_num = '0999'")
    with pytest.raises(ConfigError, match=r"ledger revision 0999 .* up to 0003; upgrade scalr"):
        Ledger(ledger_url)
    with connected(ledger_url) as connection:
        found = connection.exec_driver_sql("SELECT version_num FROM scalr_ledger_version")
        assert found.scalars().all() == ["0999"]
