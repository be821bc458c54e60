"""What the files of a warehouse say, unpacked: to look for what must be in none of them."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

import pyarrow.parquet as pq
from pyarrow import fs

from scalr_ray.core.layout import Layout
from scalr_ray.core.s3 import S3_SCHEME, s3_filesystem

_SYNC_BYTES = 16


def warehouse_bytes(layout: Layout) -> Iterator[tuple[str, bytes]]:
    """Each file below the warehouse, as it lies there and then unpacked, under its name."""
    in_s3 = layout.warehouse.startswith(S3_SCHEME)
    system = s3_filesystem() if in_s3 else fs.LocalFileSystem()
    root = layout.warehouse.removeprefix(S3_SCHEME)
    for info in system.get_file_info(fs.FileSelector(root, recursive=True)):
        if not info.is_file:
            continue
        with system.open_input_file(info.path) as stream:
            raw = bytes(stream.read())
        name = info.path.removeprefix(f"{root}/")
        yield name, raw
        yield name, unpacked(name, raw)


def unpacked(name: str, raw: bytes) -> bytes:
    """All values of a Parquet file and all that its footer says; the blocks of an Avro file."""
    if name.endswith(".parquet"):
        file = pq.ParquetFile(io.BytesIO(raw))
        told = [str(file.metadata.to_dict()), str(file.metadata.metadata)]
        told += [str(column.to_pylist()) for column in file.read().columns]
        return "\n".join(told).encode()
    if name.endswith(".avro"):
        return b"\n".join(_avro_blocks(raw))
    assert name.endswith(".json"), f"nobody knows how to read {name}"
    return raw


def _avro_blocks(raw: bytes) -> Iterator[bytes]:
    stream = io.BytesIO(raw)
    assert stream.read(4) == b"Obj\x01"
    header = {}
    while count := _long(stream):
        for _ in range(abs(count)):
            key = stream.read(_long(stream))
            header[key] = stream.read(_long(stream))
    stream.read(_SYNC_BYTES)
    deflated = header[b"avro.codec"] == b"deflate"
    yield from header.values()
    while stream.tell() < len(raw):
        _long(stream)
        block = stream.read(_long(stream))
        yield zlib.decompress(block, wbits=-zlib.MAX_WBITS) if deflated else block
        stream.read(_SYNC_BYTES)


def _long(stream: io.BytesIO) -> int:
    shift = number = 0
    while True:
        byte = stream.read(1)[0]
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1)
