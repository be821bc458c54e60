"""A real PostgreSQL server for the tests that need one: from a container, or started here.

A container of `SCALR_TEST_POSTGRES_IMAGE` is used where a Docker engine answers and has the image,
or can get it. Elsewhere a server is started from the programs of a local installation, in a folder
of its own, on a free port of the loopback, with a password; it is stopped at the end.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

IMAGE = os.environ.get("SCALR_TEST_POSTGRES_IMAGE", "postgres:16")
_USER = "postgres"
PASSWORD = "not a secret: p@ss/w#rd"  # noqa: S105 - and awkward on purpose
_QUOTED_PASSWORD = "not%20a%20secret%3A%20p%40ss%2Fw%23rd"  # noqa: S105
_PORT = 5432  # in the container
_OPTIONS = {
    "fsync": "off",
    "timezone": "America/New_York",  # so that nothing passes because the server is in UTC
}
_DOCKER_WAIT_S = 10
_PULL_WAIT_S = 120
_START_WAIT_S = 60
_INSTALLED = Path("/usr/lib/postgresql")
_TABLES = """
    SELECT oid::regclass::text FROM pg_class
    WHERE relkind IN ('r', 'm')
      AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
"""
_ROWS = """
    SELECT 1 FROM {table} AS stored
    WHERE strpos(stored::text, %(text)s) > 0
       OR strpos(stored::text, encode(convert_to(%(text)s, 'UTF8'), 'hex')) > 0
    LIMIT 1
"""
_FILES = """
    SELECT oid::regclass::text FROM pg_class
    WHERE pg_relation_filepath(oid) IS NOT NULL AND NOT relisshared
      AND position(
        convert_to(%(text)s, 'UTF8')
        IN pg_read_binary_file(pg_relation_filepath(oid), 0, 1000000000, true)
      ) > 0
"""
_NEITHER = (
    "no PostgreSQL to test against: install the server (on Debian `apt-get install postgresql`), "
    f"or start a Docker engine that can run {IMAGE}"
)


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where a running server is, and how to end and start it.

    Attributes:
        stop: ends it as a crash does: transactions and connections break off.
        start: starts it again, with the same data on the same port; returns when it answers.
    """

    host: str
    port: int
    stop: Callable[[], None] = field(repr=False)
    start: Callable[[], None] = field(repr=False)

    @contextmanager
    def down(self) -> Iterator[None]:
        """The server is gone as long as the context lasts."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def fresh_database(self) -> Iterator[Database]:
        """An empty database as long as the context lasts; at its end all connections are cut."""
        name = f"test_{secrets.token_hex(6)}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        try:
            yield Database(server=self, name=name)
        finally:
            with self._connect() as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(_address(self.host, self.port, "postgres"), autocommit=True)


@dataclass(frozen=True, kw_only=True)
class Database:
    """A database of a running server, and how to get in."""

    server: Server
    name: str

    def url(self, *, driver: str = "") -> str:
        """Its address with the password, for libpq, or for SQLAlchemy with its driver."""
        address = _address(self.server.host, self.server.port, self.name)
        return address.replace("postgresql", f"postgresql+{driver}", 1) if driver else address

    @property
    def plain_url(self) -> str:
        """Its address for SQLAlchemy without a password: libpq takes `PASSWORD` from PGPASSWORD."""
        return self.url(driver="psycopg").replace(f":{_QUOTED_PASSWORD}", "")

    def replace_by(self, other: Database) -> None:
        """Become a copy of another database of the server, to which nobody may be connected.

        Whoever is connected to this one is cut off.
        """
        with self.server._connect() as connection:
            connection.execute(f"DROP DATABASE {self.name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {self.name} TEMPLATE {other.name}")

    def holding(self, text: str) -> list[str]:
        """The tables and indexes in which a text stands, as text or as bytes.

        Rows are read through SQL, which unpacks what was compressed, and the files of all relations
        byte by byte, which have deleted rows and statistics too. The log of the server, which is
        there for all its databases, is not searched.

        Args:
            text: of letters, digits, blanks and hyphens: any other may be written differently.
        """
        assert re.fullmatch(r"[\w -]+", text)
        with self.connect() as connection:
            tables = connection.execute(_TABLES).fetchall()
            found = {
                name
                for (name,) in tables
                if connection.execute(_ROWS.format(table=name), {"text": text}).fetchone()
            }
            connection.execute("CHECKPOINT")  # what is in memory only is written
            found |= {name for (name,) in connection.execute(_FILES, {"text": text})}
        return sorted(found)

    def connect(self) -> psycopg.Connection:
        """A connection for plain statements, each committed by itself."""
        return psycopg.connect(self.url(), autocommit=True)


@contextmanager
def postgres_server() -> Iterator[Server]:
    """Run a server as long as the context lasts.

    Raises:
        RuntimeError: there is neither a container nor an installation; says what to install.
    """
    if _has_image():
        with _container() as server:
            yield server
        return
    programs = _programs()
    if programs is None:
        raise RuntimeError(_NEITHER)
    # the path of a socket must be short, and that of the host's temporary folder may not be
    with (
        tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder,
        _local(programs, Path(folder)) as server,
    ):
        yield server


def _has_image() -> bool:
    docker = shutil.which("docker")
    if docker is None:
        return False

    def succeeds(command: Sequence[str], wait_s: int) -> bool:
        try:
            done = subprocess.run(
                [docker, *command], capture_output=True, check=False, timeout=wait_s
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    return succeeds(["info"], _DOCKER_WAIT_S) and (
        succeeds(["image", "inspect", IMAGE], _DOCKER_WAIT_S)
        or succeeds(["pull", "--quiet", IMAGE], _PULL_WAIT_S)
    )


@contextmanager
def _container() -> Iterator[Server]:
    # its own cleaner would be one more image to get; the context below ends what it starts
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.community.postgres import PostgresContainer

    container = PostgresContainer(
        IMAGE, username=_USER, password=PASSWORD, dbname="postgres", driver=None
    )
    # a port that Docker chooses would be another one after a restart
    container.with_bind_ports(_PORT, _free_port())
    container.with_command(["postgres", *_settings(_OPTIONS)])
    with container:
        host, port = container.get_container_host_ip(), int(container.get_exposed_port(_PORT))
        running = container.get_wrapped_container()

        def stop() -> None:
            running.kill("SIGQUIT")
            running.wait(timeout=_START_WAIT_S)

        def start() -> None:
            running.start()
            _wait_for(host, port, lambda: running.logs().decode())

        _wait_for(host, port, lambda: running.logs().decode())
        yield Server(host=host, port=port, stop=stop, start=start)


def _programs() -> Path | None:
    """The folder of `initdb` and `postgres`: on the path, or the newest that Debian installed."""
    found = shutil.which("initdb")
    if found is not None and Path(found).resolve().with_name("postgres").exists():
        return Path(found).resolve().parent
    folders = [path.parent for path in _INSTALLED.glob("*/bin/initdb")]
    return max(folders, key=_version, default=None)


def _version(programs: Path) -> int:
    return int(re.sub(r"\D", "", programs.parent.name) or 0)


@contextmanager
def _local(programs: Path, folder: Path) -> Iterator[Server]:
    secret = folder / "password"
    secret.write_text(PASSWORD)
    prefix: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        prefix = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"]
        for path in (folder, secret):
            shutil.chown(path, _USER, _USER)
    data = folder / "data"
    create = ["-D", str(data), "-U", _USER, "-A", "scram-sha-256", f"--pwfile={secret}"]
    create += ["-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(
        [*prefix, str(programs / "initdb"), *create], check=True, cwd=folder, capture_output=True
    )
    host, port = "127.0.0.1", _free_port()
    place = {"listen_addresses": host, "port": str(port), "unix_socket_directories": str(folder)}
    command = [*prefix, str(programs / "postgres"), "-D", str(data), *_settings(_OPTIONS | place)]
    log = folder / "log"
    processes: list[subprocess.Popen[bytes]] = []

    def end(how: signal.Signals) -> None:
        # setpriv has become the server, so this is its pid
        processes[-1].send_signal(how)
        processes[-1].wait(timeout=_START_WAIT_S)

    def start() -> None:
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        processes.append(process)
        _wait_for(host, port, log.read_text, lambda: process.poll() is not None)

    start()
    try:
        yield Server(host=host, port=port, stop=lambda: end(signal.SIGQUIT), start=start)
    finally:
        end(signal.SIGINT)  # which does not wait for clients to leave


def _settings(options: Mapping[str, str]) -> list[str]:
    return [part for name, value in options.items() for part in ("-c", f"{name}={value}")]


def _address(host: str, port: int, database: str) -> str:
    return f"postgresql://{_USER}:{_QUOTED_PASSWORD}@{host}:{port}/{database}"


def _wait_for(
    host: str, port: int, log: Callable[[], str], ended: Callable[[], bool] = lambda: False
) -> None:
    deadline = time.monotonic() + _START_WAIT_S
    while True:
        try:
            psycopg.connect(_address(host, port, "postgres"), connect_timeout=5).close()
        except psycopg.OperationalError as error:
            if ended() or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {log()}") from error
            time.sleep(0.1)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
