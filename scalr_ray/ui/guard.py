"""Whom the server answers, and what it forbids browsers in every answer.

A page of somebody else can make a browser ask this server by a name of its own that leads here (DNS
rebinding), and would then read the answer. So only known names are answered in `Host`. An address
that is written out cannot be rebound.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "Content-Security-Policy"
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'; sandbox"
)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[^\s:\[\]/@]+))(?::\d{1,5})?", re.I)
_METHODS = ("GET", "HEAD")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def page_policy(style_hash: str) -> str:
    """The policy of our own pages: one style, known by its hash, and no script.

    Args:
        style_hash: SHA-256 of the style, in base64.
    """
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names under which the server answers.

    Attributes:
        known: names and addresses, in lower case.
        addresses: whether any address is answered that is written out.
    """

    known: frozenset[str]
    addresses: bool

    @classmethod
    def of(cls, host: str) -> Names:
        """The names of a server that listens on `host`: loopback, and `host` itself.

        A server that listens on all addresses answers to each of them, and to the machine's name.
        """
        try:
            everywhere = ipaddress.ip_address(host).is_unspecified
        except ValueError:
            everywhere = False
        more = socket.gethostname() if everywhere else host
        return cls(known=_LOOPBACK | {more.lower()}, addresses=everywhere)

    def allow(self, host: str) -> bool:
        """Whether a `Host` header, with or without a port, has one of the names."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = (found["six"] or found["name"]).lower().removesuffix(".")
        return name in self.known or (self.addresses and _is_address(name))


class Guard:
    """ASGI: refuses what changes something and unknown names; adds headers to every answer."""

    def __init__(self, app: ASGIApp, *, names: Names, policy: str) -> None:
        self._app = app
        self._names = names
        self._headers = {POLICY: policy, **_HEADERS}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refusal(scope) or self._app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """The answer to a request that no page gets to see; None for others."""
        if scope["type"] != "http":
            return None
        hosts = Headers(scope=scope).getlist("host")
        if len(hosts) != 1 or not self._names.allow(hosts[0]):
            told = "this server does not answer to that name; open it by the address it was given\n"
            return PlainTextResponse(told, status_code=421)
        if scope["method"] not in _METHODS:
            told = "these pages can be looked at and not changed\n"
            return PlainTextResponse(told, status_code=405, headers={"Allow": ", ".join(_METHODS)})
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
