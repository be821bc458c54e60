"""Lists in parts, newest first."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

PER_PAGE = 50
_NUMBER = re.compile(r"[1-9][0-9]{0,6}")

Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class Part(Generic[Record]):
    """One part of a list.

    Attributes:
        records: at most `PER_PAGE`.
        number: of the part, from 1 on.
        older: whether another comes after it.
    """

    records: Sequence[Record]
    number: int
    older: bool

    @classmethod
    def of(cls, text: str, ask: Callable[[int, int], Sequence[Record]]) -> Part[Record] | None:
        """The part that a query names; None where there is no such part.

        Args:
            text: the number, as it was asked for.
            ask: gives at most so many records, after so many others.
        """
        if not _NUMBER.fullmatch(text):
            return None
        number = int(text)
        found = ask(PER_PAGE + 1, PER_PAGE * (number - 1))
        if not found and number > 1:
            return None
        return cls(records=found[:PER_PAGE], number=number, older=len(found) > PER_PAGE)
