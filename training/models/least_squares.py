"""One side of implicit matrix factorisation: all its rows solved at once by conjugate gradients.

With the factors Y of the other side held fixed, every row x has its own small linear system

    (a YᵀY + Σ w y yᵀ + r I) x = Σ w y,

where the sums go over the row's observations, `a` is the weight of everything unobserved and `r`
the row's ridge. In the eigenbasis of YᵀY the first and the last term are diagonal. So both sides
are rotated into it, which changes no score, and then

- a step of the method costs one multiplication per observation and factor, with no dense product;
- the diagonal is a preconditioner, and what remains has the rank of the row's few observations:
  two steps from the last sweep's solution reach the loss that three of the plain method reach.

Rows are treated in chunks whose gathered factors fit into the cache. Shapes: `R` rows of this side,
`O` rows of the other, `N` observations, `F` factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Factors = NDArray[np.float32]

_CHUNK_OBSERVATIONS = 1 << 14
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Consecutive rows and their observations.

    Attributes:
        rows: the place of the rows in the side.
        weights: one per observation.
        of_row: the row of each observation, counted from the start of the chunk.
        pattern: a matrix of the chunk's shape; its data are overwritten at every product.
    """

    rows: slice
    weights: Factors
    of_row: NDArray[np.intp]
    pattern: sp.csr_matrix


class Side:
    """The systems of all rows of one side, for a fixed matrix of weights."""

    def __init__(self, weights: sp.csr_matrix, *, unobserved_weight: float, ridge: Factors) -> None:
        """Cut the rows into chunks.

        Args:
            weights: (R, O) float32; every row has at least one observation.
            unobserved_weight: `a`.
            ridge: (R,), `r` of each row, above 0.
        """
        self._unobserved_weight = unobserved_weight
        self._ridge = ridge
        self._chunks = list(_chunks(weights))

    def solve(self, x: Factors, y: Factors, *, steps: int) -> tuple[Factors, Factors]:
        """Improve `x` (R, F) for fixed `y` (O, F); returns both in the same new basis.

        Args:
            x: where to start, usually the last sweep's solution.
            y: the other side.
            steps: of the conjugate gradients; with as many as the longest row has observations
                (F at most) the solution is exact but for rounding.
        """
        diagonal, rotation = self._eigenbasis(y)
        y = y @ rotation
        return self._solved(x @ rotation, y, diagonal, steps), y

    def fold_in(self, y: Factors) -> Factors:
        """The exact solution (R, F) for fixed `y` (O, F), in the basis that `y` is in."""
        diagonal, rotation = self._eigenbasis(y)
        longest = max(int(np.diff(chunk.pattern.indptr).max()) for chunk in self._chunks)
        nothing = np.zeros((len(self._ridge), y.shape[1]), dtype=np.float32)
        steps = min(longest, y.shape[1])
        return self._solved(nothing, y @ rotation, diagonal, steps) @ rotation.T

    def _eigenbasis(self, y: Factors) -> tuple[Factors, Factors]:
        """What is on the diagonal of every system there, (F,), and the way there, (F, F)."""
        spectrum, basis = np.linalg.eigh((y.T @ y).astype(np.float64))
        diagonal = (self._unobserved_weight * spectrum.clip(min=0)).astype(np.float32)
        return diagonal, basis.astype(np.float32)

    def _solved(self, x: Factors, y: Factors, diagonal: Factors, steps: int) -> Factors:
        solved = np.empty_like(x)
        for chunk in self._chunks:
            own = diagonal + self._ridge[chunk.rows, None]
            solved[chunk.rows] = _solve_chunk(chunk, own, x[chunk.rows], y, steps)
        return solved


def _chunks(weights: sp.csr_matrix) -> Iterator[_Chunk]:
    first, ends = 0, weights.indptr
    while first < weights.shape[0]:
        reach = int(np.searchsorted(ends, ends[first] + _CHUNK_OBSERVATIONS, side="right")) - 1
        rows = slice(first, max(reach, first + 1))
        pattern = weights[rows]
        yield _Chunk(
            rows=rows,
            weights=pattern.data.copy(),
            of_row=np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr)),
            pattern=pattern,
        )
        first = rows.stop


def _solve_chunk(chunk: _Chunk, diagonal: Factors, x: Factors, y: Factors, steps: int) -> Factors:
    """Preconditioned conjugate gradients from `x`, every row with its own step lengths."""
    observed = y[chunk.pattern.indices]
    inverse = np.reciprocal(diagonal)
    residual = _spread(chunk, y, 1 - _predict(chunk, x, observed)) - diagonal * x
    direction = residual * inverse
    size = _dot(residual, direction)
    for _ in range(steps):
        image = _spread(chunk, y, _predict(chunk, direction, observed)) + diagonal * direction
        length = _ratio(size, _dot(direction, image))
        x = x + length[:, None] * direction
        residual = residual - length[:, None] * image
        scaled = residual * inverse
        last, size = size, _dot(residual, scaled)
        direction = scaled + _ratio(size, last)[:, None] * direction
    return x


def _predict(chunk: _Chunk, x: Factors, observed: Factors) -> Factors:
    """The score of every observation of the chunk, given its rows' factors."""
    return _dot(x[chunk.of_row], observed)


def _spread(chunk: _Chunk, y: Factors, values: Factors) -> Factors:
    """For every row of the chunk, the sum of weight times value times `y` over its observations."""
    chunk.pattern.data = values * chunk.weights
    spread: Factors = chunk.pattern @ y
    return spread


def _dot(left: Factors, right: Factors) -> Factors:
    products: Factors = np.einsum("nf,nf->n", left, right)
    return products


def _ratio(above: Factors, below: Factors) -> Factors:
    """`above / below`; a row that is solved already has zero above and below, and takes no step."""
    quotient: Factors = np.divide(above, np.maximum(below, _TINY))
    return quotient
