"""Who is granted `scalr_reader` in PostgreSQL pulls and reads, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import call_scalr
from lake_rows import NOON
from marks import OPENS_FEAST
from planted_logs import bytes_below
from postgres_server import PASSWORD, Database
from pulled_sets import (  # noqa: F401 - a fixture
    IDS,
    ROWS,
    batches,
    build,
    open_store,
    record_batches,
    rows_of,
    stores_are_closed,
    write_repo,
)
from sqlalchemy import create_engine, inspect, make_url, text

from scalr_ray.core.errors import UsageError
from scalr_ray.core.layout import Layout
from scalr_ray.lake import SyntheticEventLake
from scalr_ray.ledger import BatchState, Ledger

pytestmark = OPENS_FEAST

ROLES = Path(__file__).parents[2] / "infra" / "roles.sql"
SAYS = "may not be written; mend the permissions"


def contents(url: str) -> dict[str, list[str]]:
    """Every row of every table, as the owner sees them."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {
            name: sorted(map(str, connection.execute(text(f'SELECT * FROM "{name}"'))))
            for name in inspect(connection).get_table_names()
        }
    engine.dispose()
    return found


@pytest.fixture(scope="module")
def owner(postgres_database: Database, tmp_path_factory) -> Iterator[Layout]:
    """A repository with a batch that is published and one that is accepted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        layout = write_repo(tmp_path_factory.mktemp("roles") / "repo", postgres_database.plain_url)
        _fill(layout)
        yield layout


def _fill(layout: Layout) -> None:
    record_batches(layout, b1=BatchState.PUBLISHED, b2=BatchState.ACCEPTED)
    with SyntheticEventLake.open(layout, IDS) as lake:
        for batch_id in ("b1", "b2"):
            lake.write_staged(batch_id, rows_of(batch_id))
        lake.publish("b1")


@pytest.fixture
def granted(owner: Layout) -> Iterator[Callable[[str], Layout]]:
    """Makes the repository one that somebody else opens, who is granted a role."""

    files = ("scalr.yaml", "feature_store.yaml")
    texts = {file: (owner.repo / file).read_text(encoding="utf-8") for file in files}

    def grant(role: str) -> Layout:
        engine = create_engine(owner.database_url, isolation_level="AUTOCOMMIT")
        name = f"{role}_{engine.url.database}"
        with engine.connect() as connection:
            for _ in range(2):  # as often as you like
                connection.exec_driver_sql(ROLES.read_text(encoding="utf-8"))
            connection.exec_driver_sql(f"DROP ROLE IF EXISTS {name}")
            connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
            connection.exec_driver_sql(f"GRANT {role} TO {name}")
        engine.dispose()
        url = make_url(owner.database_url).set(username=name).render_as_string(hide_password=False)
        for file in files:
            written = texts[file].replace(owner.database_url, url)
            (owner.repo / file).write_text(written, encoding="utf-8")
        return Layout.of(owner.repo)

    yield grant
    for file in files:
        (owner.repo / file).write_text(texts[file], encoding="utf-8")


def test_a_reader_reads_as_of_and_changes_nothing_and_a_writer_publishes(owner, granted) -> None:
    there = contents(owner.database_url)
    layout = granted("scalr_reader")
    assert layout.database_url != owner.database_url
    dataset = build(open_store(layout.repo))
    assert batches(dataset) == {"b1"}
    with Ledger(layout.database_url) as ledger:
        assert {batch.batch_id for batch in ledger.batches()} == {"b1", "b2"}
        with pytest.raises(UsageError, match=SAYS):
            ledger.move_batch("b2", expected=BatchState.ACCEPTED, to=BatchState.PUBLISHED)
    with SyntheticEventLake.open(layout, IDS) as lake:
        assert lake.read(as_of=NOON.replace(year=2100)).num_rows == ROWS
        for act in (lambda: lake.publish("b2"), lambda: lake.retire("b1")):
            with pytest.raises(UsageError, match=SAYS):
                act()
        with pytest.raises(UsageError, match=SAYS):
            lake.erase(["u1"])
    assert call_scalr(layout.repo, "runs").code == 0
    before = bytes_below(layout.data)
    for verb in (["publish", "b2"], ["retire", "b1"], ["erase", "--user", "u1"], ["recover"]):
        answer = call_scalr(layout.repo, *verb)
        assert (answer.code, answer.out) == (2, ""), verb
        assert answer.err.count("\n") == 1
        assert SAYS in answer.err
    assert bytes_below(layout.data) == before
    assert contents(owner.database_url) == there

    layout = granted("scalr_writer")
    answer = call_scalr(layout.repo, "publish", "b2")
    assert answer.code == 0, answer.err
    assert batches(build(open_store(layout.repo))) == {"b1", "b2"}
    engine = create_engine(layout.database_url)
    with engine.connect() as connection, pytest.raises(Exception, match="must be owner"):
        connection.exec_driver_sql("DROP TABLE scalr_runs")
    engine.dispose()
