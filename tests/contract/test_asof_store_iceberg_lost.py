"""Writes to an Iceberg table whose catalog, in PostgreSQL, refuses them or is lost meanwhile."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from feast_config import feast_config
from iceberg_tables import HOUR, T0, create, rows, sales, source, view
from losing_proxy import Loss, losing_proxy
from postgres_server import PASSWORD
from pyiceberg.table import Table
from sqlalchemy import create_engine, make_url

from scalr_ray.core.errors import RetryLater, StateUnknown, UsageError

pytestmark = pytest.mark.feast

BATCH = rows(*(("s", n, n, T0, T0 + n * HOUR) for n in range(3)))


def write(repo: Path, uri: str, batch: pa.Table = BATCH) -> None:
    from scalr_ray.offline_store import AsOfOfflineStore

    target = view(source(repo, catalog_properties={"uri": uri}))
    AsOfOfflineStore.offline_write_batch(feast_config(repo), target, batch, None)


def stored(repo: Path, uri: str) -> int:
    with sales(repo, uri) as table:
        return int(table.scan().to_arrow().num_rows)


@pytest.mark.parametrize(("lost", "there"), [("commit", 0), ("answer", 3)])
def test_a_commit_without_an_answer_is_unknown_and_repeated_adds_its_rows_once(
    tmp_path, postgres_url, lost: Loss, there: int
) -> None:
    create(tmp_path, uri=postgres_url)
    with losing_proxy(postgres_url) as proxy:
        proxy.lose = lost
        with pytest.raises(StateUnknown, match="write the same rows again, which adds them once"):
            write(tmp_path, proxy.url)
        assert proxy.lost == 1
        assert stored(tmp_path, postgres_url) == there
        write(tmp_path, proxy.url)
    assert stored(tmp_path, postgres_url) == 3


def test_a_server_that_is_lost_before_a_commit_has_changed_nothing(
    tmp_path, postgres_url, monkeypatch
) -> None:
    create(tmp_path, uri=postgres_url)
    plain = Table.append
    with losing_proxy(postgres_url) as proxy:

        def append_without(self: Table, batch: pa.Table, **options: object) -> None:
            proxy.close()
            plain(self, batch, **options)

        monkeypatch.setattr(Table, "append", append_without)
        with pytest.raises(RetryLater, match=r"could not write to .* does not answer"):
            write(tmp_path, proxy.url)
    assert stored(tmp_path, postgres_url) == 0


def test_a_role_that_may_only_read_is_told_so(tmp_path, postgres_url) -> None:
    create(tmp_path, uri=postgres_url)
    owner = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    role = f"reader_{owner.url.database}"
    with owner.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
        connection.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    owner.dispose()
    reader = make_url(postgres_url).set(username=role).render_as_string(hide_password=False)
    with pytest.raises(UsageError, match=r"write to .* may not be written; mend the permissions"):
        write(tmp_path, reader)
    assert stored(tmp_path, reader) == 0
