"""Keyed randomness: every draw is a function of what it is for, never of the order of drawing.

A retry, another partitioning or another number of workers therefore gives the same events. Streams
are named by a seed and a label; within a stream, a draw is addressed by up to two integer keys
(say, user and slot). The mixer is splitmix64 (Steele, Lea and Flood 2014), vectorised over numpy.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def stream_seed(*parts: object) -> int:
    """A 64-bit seed from the text of `parts`; equal parts give equal seeds on any machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def keyed_bits(seed: int, *keys: ArrayLike) -> NDArray[np.uint64]:
    """64 random bits per element for the broadcast integer `keys` in the stream `seed`."""
    with np.errstate(over="ignore"):
        state = np.asarray(seed, dtype=np.uint64)
        for key in keys:
            state = _mix(state + _GAMMA * (np.asarray(key).astype(np.uint64) + np.uint64(1)))
        return _mix(state + _GAMMA)


def keyed_uniform(seed: int, *keys: ArrayLike) -> NDArray[np.float64]:
    """Uniform draws in the open interval (0, 1), one per element of the broadcast `keys`."""
    # 52 bits, not 53: the half that keeps 0 out must itself fit into a double, or 1 comes in.
    mantissa = keyed_bits(seed, *keys) >> np.uint64(12)
    return (mantissa.astype(np.float64) + 0.5) * 2.0**-52


def keyed_gumbel(seed: int, *keys: ArrayLike) -> NDArray[np.float64]:
    """Standard Gumbel draws, one per element of the broadcast `keys`."""
    return np.asarray(-np.log(-np.log(keyed_uniform(seed, *keys))))


def id_keys(ids: pa.Array) -> NDArray[np.uint64]:
    """A 64-bit key per id (text or integer), the same wherever and beside whomever it stands."""
    if pa.types.is_integer(ids.type):
        return keyed_bits(stream_seed("integer id"), np.asarray(ids, dtype=np.int64))
    digests = b"".join(
        hashlib.blake2b(text.encode(), digest_size=8).digest() for text in ids.to_pylist()
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return np.asarray(state ^ (state >> np.uint64(31)))
