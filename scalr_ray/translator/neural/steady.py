"""Products of which each row comes out the same, bit by bit, whichever other rows stand beside it.

A matrix library takes another way through a product where there are few rows, or a number of them
that its vectors do not divide, and adds in another order there. What a user is then told differs in
the last bit with who else is asked about, and a draw that is decided by that bit with it. Rows that
come by the sixteen all take the same way on a CPU.

Legend: N rows, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_ROWS = 16


def padded_rows(rows: Tensor) -> Tensor:
    """The rows (N, D), and the last of them again up to a multiple of sixteen."""
    missing = -len(rows) % _ROWS
    return torch.cat((rows, rows[-1:].expand(missing, -1))) if missing else rows


class SteadyLinear(nn.Linear):
    """A linear map that treats each row alike whatever the others, except while training."""

    def forward(self, rows: Tensor) -> Tensor:
        """(..., D) to (..., D')."""
        if self.training:
            return super().forward(rows)
        flat = rows.reshape(-1, rows.shape[-1])
        out = super().forward(padded_rows(flat))[: len(flat)]
        return out.view(*rows.shape[:-1], -1)
