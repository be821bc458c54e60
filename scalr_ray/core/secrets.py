"""Secrets that stand in addresses, kept out of what people and logs get to see."""

from __future__ import annotations

import re

_HIDDEN = "***"
# Greedy: a password may hold what ends an address, an `@` too.
_IN_ADDRESS = re.compile(r"(\w://[^\s:@/'\"]*):[^\n]*@")
_NAMED = re.compile(r"(?i)\b(\w*(?:password|secret|token)\w*\s*[=:]\s*)(?!\*)[^\s&,;'\"}\])]+")


def hide_secrets(text: str) -> str:
    """The text without passwords of addresses, and without values that are called secret.

    Example:
        >>> hide_secrets("no answer from postgresql://me:pa@ss@host/db?sslpassword=x")
        'no answer from postgresql://me:***@host/db?sslpassword=***'
    """
    return _NAMED.sub(rf"\g<1>{_HIDDEN}", _IN_ADDRESS.sub(rf"\1:{_HIDDEN}@", text))
