"""Encoded features of users or items to vectors.

Legend: N rows, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch gives it

from scalr_ray.translator.neural.features import FIRST_CODE, Column, FeatureSpec
from scalr_ray.translator.neural.steady import SteadyLinear


class FeatureNet(nn.Module):
    """Encoded features to one vector: a sum over columns, then one hidden layer beside it.

    Args:
        spec: of the columns.
        width: D.
    """

    def __init__(self, spec: FeatureSpec, width: int) -> None:
        super().__init__()
        self.names = [column.name for column in spec.columns]
        self.parts = nn.ModuleList(_part(column, width) for column in spec.columns)
        self.mix = SteadyLinear(width, width)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Encoded features of N rows to (N, D)."""
        total = torch.stack(
            [part(features[name]) for name, part in zip(self.names, self.parts, strict=True)]
        ).sum(dim=0)
        out: Tensor = total + self.mix(F.silu(total))
        return out


class _BagMean(nn.Module):
    """The mean of the embeddings of a bag's codes; 0 for an empty one."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(codes, width)

    def forward(self, codes: Tensor) -> Tensor:
        present = (codes >= FIRST_CODE).to(self.table.weight.dtype)[..., None]
        total: Tensor = (self.table(codes) * present).sum(dim=-2)
        return total / present.sum(dim=-2).clamp(min=1.0)


def _part(column: Column, width: int) -> nn.Module:
    match column.kind:
        case "number" | "boolean":
            return SteadyLinear(2, width, bias=False)
        case "category":
            return nn.Embedding(len(column.values) + FIRST_CODE, width)
        case "bag":
            return _BagMean(len(column.values) + FIRST_CODE, width)
        case "vector":
            return SteadyLinear(column.size + 1, width, bias=False)
