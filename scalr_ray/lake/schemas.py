"""Does what lies in a file or a table have the schema of a synthetic event?

`large_string` and `string` hold the same values and are written by turns by the engines, so they
count as one type. Column order does not matter, because Iceberg finds columns by name. Everything
else must agree, nullability included: Iceberg refuses a file that leaves a required column optional
and does not notice a dictionary column, which then breaks every reader of the table.
"""

from __future__ import annotations

import pyarrow as pa


def schema_problem(found: pa.Schema, expected: pa.Schema) -> str | None:
    """The first difference between two schemas in words, or None where they agree."""
    if duplicated := sorted({name for name in found.names if found.names.count(name) > 1}):
        return f"column {duplicated[0]!r} is there twice"
    if missing := [name for name in expected.names if name not in found.names]:
        return f"column {missing[0]!r} is missing"
    if surplus := [name for name in found.names if name not in expected.names]:
        return f"column {surplus[0]!r} does not belong there"
    for want in expected:
        have = found.field(want.name)
        if _plain_type(have.type) != want.type:
            return f"column {want.name!r} is {have.type}, not {want.type}"
        if have.nullable and not want.nullable:
            return f"column {want.name!r} allows nulls; write it as not null"
    return None


def to_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with the columns of `schema`, in its order and exactly its types."""
    return table.select(schema.names).cast(schema)


def _plain_type(found: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_large_string(found) else found
