"""A real S3 HTTP API on a free port of this machine, for tests of what is read from and written to.

```python
from s3_server import s3_fixture, s3_server_fixture  # noqa: F401 - the fixture `s3`
```
"""

from __future__ import annotations

import logging
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

BUCKET = "history"
SECRET = "a-secret-that-must-not-be-shown"  # noqa: S105 - the server takes any


@dataclass(frozen=True)
class S3:
    """A running server with one bucket."""

    endpoint: str

    @property
    def files(self) -> fs.S3FileSystem:
        """The server as whoever fills it sees it."""
        return fs.S3FileSystem(
            endpoint_override=self.endpoint,
            access_key="filler",
            secret_key=SECRET,
            region="us-east-1",
            allow_bucket_creation=True,
        )

    def put(self, key: str, content: pa.Table | bytes, **options: object) -> None:
        """Write an object; a table as Parquet."""
        if isinstance(content, pa.Table):
            stream = pa.BufferOutputStream()
            pq.write_table(content, stream, **options)
            content = stream.getvalue()
        with self.files.open_output_stream(f"{BUCKET}/{key}") as target:
            target.write(content)

    def table(self, key: str) -> pa.Table:
        return pq.read_table(f"{BUCKET}/{key}", filesystem=self.files)

    def keys(self, prefix: str = "") -> list[str]:
        """The keys below a prefix, sorted."""
        root = f"{BUCKET}/{prefix}".rstrip("/")
        found = self.files.get_file_info(
            fs.FileSelector(root, recursive=True, allow_not_found=True)
        )
        return sorted(item.path.removeprefix(f"{BUCKET}/") for item in found if item.is_file)

    @contextmanager
    def checking_identities(self) -> Iterator[None]:
        """Refuse whoever is unknown to it, which is everybody."""
        self._trusted_requests(0)
        try:
            yield
        finally:
            self._trusted_requests(float("inf"))

    def _trusted_requests(self, count: float) -> None:
        request = urllib.request.Request(  # noqa: S310 - its own address
            f"{self.endpoint}/moto-api/reset-auth",
            data=str(count).encode(),
            headers={"Content-Type": "text/plain"},
        )
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 - as above


@pytest.fixture(scope="session", name="s3_server")
def s3_server_fixture() -> Iterator[S3]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    started = S3(f"http://{host}:{port}")
    started.files.create_dir(BUCKET)
    yield started
    server.stop()


@pytest.fixture(name="s3")
def s3_fixture(s3_server, monkeypatch) -> S3:
    """The server, with an identity in the environment and nothing else of the host's."""
    identify(monkeypatch)
    return s3_server


def identify(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the identity of a reader in the environment, and take out what the host has there."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
