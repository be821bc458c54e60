"""Reading what others may have damaged or forged, said as one line of ours."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from scalr_ray.core.errors import DataError

# What Python, numpy, Arrow and torch raise of content that is not what it should be: nesting that
# is too deep and weights of another shape are RuntimeErrors, huge numbers ArithmeticErrors.
_DAMAGE: tuple[type[Exception], ...] = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pa.ArrowException,
)
_MOST = 300  # characters of a reason


@contextmanager
def refusing_damage(what: str, remedy: str, *more: type[BaseException]) -> Iterator[None]:
    """Turn what a block raises of unfit content into an error of ours, which others pass through.

    Args:
        what: is read, for the message.
        remedy: what to do.
        more: exceptions of libraries that the block uses.

    Raises:
        DataError: it is unreadable.
    """
    try:
        yield
    except (*_DAMAGE, *more) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_MOST]
        raise DataError(f"{what} is unreadable ({reason}); {remedy}") from error


def plain_name(name: object) -> str:
    """A name of a file that lies where it is looked for, and nowhere else.

    Raises:
        ValueError: it is none, or leads elsewhere.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise ValueError(f"{reprlib.repr(name)} names no file beside it")
    return name
