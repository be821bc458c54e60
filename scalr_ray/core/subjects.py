"""Users who were erased, known by a keyed hash: recognised when they come again, and by no other.

A subject is HMAC-SHA256 of the text of a user id, as the repository types it, under a key that lies
beside the data and is readable by its owner alone. Without the key nobody can try ids against the
subjects; without the ids nobody can be named from them.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from scalr_ray.core.duck import quote_text
from scalr_ray.core.errors import ConfigError, UsageError
from scalr_ray.core.events import IdType
from scalr_ray.core.layout import Layout
from scalr_ray.core.private import secret_in

_BLOCK_BYTES = 64  # of SHA-256, to which HMAC fills up its key
_INNER, _OUTER = 0x36, 0x5C
_LARGEST = 2**63
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,18}")  # as it is printed, so that no two texts mean one user


@dataclass(frozen=True, kw_only=True)
class SubjectKey:
    """The key of a repository.

    Attributes:
        secret: at most 64 bytes.
    """

    secret: bytes

    @classmethod
    def of(cls, layout: Layout) -> Self:
        """The key of a repository, made on the first call."""
        return cls(secret=bytes.fromhex(secret_in(layout.erasure_key)))

    def subject(self, user_id: str | int) -> str:
        """The keyed hash of a user id, in hex."""
        return hmac.digest(self.secret, str(user_id).encode(), "sha256").hex()

    def subject_sql(self, text: str) -> str:
        """The same of a text expression in DuckDB's SQL."""
        filled = self.secret.ljust(_BLOCK_BYTES, b"\0")
        inner, outer = (bytes(byte ^ pad for byte in filled).hex() for pad in (_INNER, _OUTER))
        return (
            f"sha256(from_hex('{outer}') || "
            f"from_hex(sha256(from_hex('{inner}') || encode({text}))))"
        )


@dataclass(frozen=True, kw_only=True)
class ErasedUsers:
    """The users who were erased and must not come again.

    Attributes:
        subjects: their keyed hashes.
        key: of the repository; None where nobody was erased, and none was ever needed.
    """

    subjects: frozenset[str] = frozenset()
    key: SubjectKey | None = None

    @classmethod
    def of(cls, layout: Layout, subjects: frozenset[str]) -> Self:
        """Those of a repository, by what its ledger says.

        Raises:
            ConfigError: users were erased, and the key by which they are known is gone.
        """
        if not subjects:
            return cls()
        if not layout.erasure_key.exists():
            raise ConfigError(
                f"{layout.erasure_key} is gone, by which users who were erased are recognised; "
                "restore it from a backup"
            )
        return cls(subjects=subjects, key=SubjectKey.of(layout))

    def __bool__(self) -> bool:
        return bool(self.subjects)

    def marks(self, user_ids: pa.Array | pa.ChunkedArray) -> pa.Array:
        """(N,) whether each id, in the type of the repository or as its text, is of one of them."""
        if self.key is None:
            return pa.array([False] * len(user_ids), pa.bool_())
        distinct = pc.unique(user_ids)
        among = [
            user_id
            for user_id in distinct.to_pylist()
            if user_id is not None and self.key.subject(user_id) in self.subjects
        ]
        marked = pc.is_in(user_ids, value_set=pa.array(among, distinct.type))
        return marked.combine_chunks() if isinstance(marked, pa.ChunkedArray) else marked

    def without(self, rows: pa.Table) -> pa.Table:
        """The rows of others; the table has a column `user_id`."""
        return rows.filter(pc.invert(self.marks(rows["user_id"]))) if self else rows

    def others_sql(self, rows: str, kind: IdType) -> str:
        """A DuckDB statement that gives the rows of others.

        Args:
            rows: a statement that gives rows with a column `user_id`.
            kind: the type of user ids in the repository.
        """
        if self.key is None:
            return rows
        user = "user_id" if kind == "string" else "CAST(user_id AS BIGINT)"
        subject = self.key.subject_sql(f"CAST({user} AS VARCHAR)")
        names = ", ".join(map(quote_text, sorted(self.subjects)))
        # Hashed once for each user rather than for each of their rows.
        erased = f"SELECT user_id FROM (SELECT DISTINCT user_id FROM all_rows) WHERE {subject} IN "
        return (
            f"WITH all_rows AS NOT MATERIALIZED ({rows}) SELECT * FROM all_rows "
            f"ANTI JOIN ({erased}({names})) USING (user_id)"
        )


def typed_ids(texts: Sequence[str], kind: IdType) -> list[str] | list[int]:
    """User ids as somebody wrote them, each once, in the type of the repository.

    Raises:
        UsageError: one is empty, or no whole number where the repository's are.
    """
    if not all(texts):
        raise UsageError("a user id is empty; name the users to erase")
    if kind == "string":
        return list(dict.fromkeys(texts))
    return list(dict.fromkeys(_whole_number(text) for text in texts))


def _whole_number(text: str) -> int:
    if not _WHOLE.fullmatch(text) or not -_LARGEST <= int(text) < _LARGEST:
        # The id itself stays out of the message, which logs may keep.
        raise UsageError("a user id is no whole number of 64 bits, as ids.user_id says it is")
    return int(text)
