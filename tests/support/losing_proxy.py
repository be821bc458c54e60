"""A way to PostgreSQL that loses the connection at the very moment of a commit."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy import make_url

_COMMIT = b"COMMIT"
_SILENCE_S = 0.5  # after which the server has said all it says to a commit

Loss = Literal["commit", "answer"]


@dataclass(kw_only=True)
class LosingProxy:
    """Passes everything on, until it is told to lose something.

    Attributes:
        url: for SQLAlchemy, of the database behind it.
        lose: the next commit, which the server never sees, or only the answer to it.
        lost: how many were lost.
    """

    url: str
    lose: Loss | None = None
    lost: int = 0
    _ends: list[socket.socket] = field(default_factory=list)

    def serve(self, listener: socket.socket, server: tuple[str, int]) -> None:
        """Take connections until the listener is closed."""
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            upstream = socket.create_connection(server)
            self._ends += [client, upstream]
            threading.Thread(target=self._to_server, args=(client, upstream), daemon=True).start()
            threading.Thread(target=self._to_client, args=(upstream, client), daemon=True).start()

    def close(self) -> None:
        """End all connections."""
        for end in self._ends:
            _close(end)

    def _to_server(self, client: socket.socket, upstream: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self.lose is not None and _COMMIT in data:
                    lose, self.lose = self.lose, None
                    self.lost += 1
                    if lose == "answer":
                        self._commit_unheard(client, upstream, data)
                    break
                upstream.sendall(data)
        _close(client)
        _close(upstream)

    def _commit_unheard(self, client: socket.socket, upstream: socket.socket, data: bytes) -> None:
        client.shutdown(socket.SHUT_WR)  # whatever the server says now is not passed on
        upstream.sendall(data)
        threading.Event().wait(_SILENCE_S)

    def _to_client(self, upstream: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := upstream.recv(65536):
                client.sendall(data)
        _close(client)


@contextmanager
def losing_proxy(url: str) -> Iterator[LosingProxy]:
    """A proxy before the server of `url`, as long as the context lasts."""
    parsed = make_url(url)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        reached = parsed.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        proxy = LosingProxy(url=reached)
        serving = threading.Thread(
            target=proxy.serve, args=(listener, (parsed.host, parsed.port)), daemon=True
        )
        serving.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            proxy.close()
    serving.join(timeout=10)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
