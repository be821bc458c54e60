"""A small causal transformer, pre-norm (Xiong et al. 2020), with gated feed-forward (Shazeer 2020).

Rows are padded on the right and attention looks to the left only, so that no token sees padding or
anything later than itself.

Legend: R rows, L tokens, D width, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that PyTorch gives it


class CausalAttention(nn.Module):
    """Every token attends to itself and to those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(R, L, D) to (R, L, D)."""
        rows, length, width = x.shape
        qkv = self.qkv(x).view(rows, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        return out


class GatedFeedForward(nn.Module):
    """SwiGLU with 8/3 of the width inside, rounded up to a multiple of 16."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = -(-width * 8 // 3 // 16) * 16
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        gate, value = self.up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * value)
        return out


class Block(nn.Module):
    """Attention and feed-forward, each on a residual branch."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width)
        self.attention = CausalAttention(width, heads)
        self.feed_norm = nn.RMSNorm(width)
        self.feed = GatedFeedForward(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(R, L, D) to (R, L, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        out: Tensor = x + self.dropout(self.feed(self.feed_norm(x)))
        return out


class Encoder(nn.Module):
    """Token vectors to states: what the row's events up to each token say together.

    The mean of the tokens so far is always part of a state: with little data it is nearly all that
    can be learned, and with `layers` 0 it is all there is.
    """

    def __init__(self, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(R, L, D) to (R, L, D)."""
        so_far = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=torch.float32)
        state = x.float().cumsum(dim=1) / so_far[:, None]
        if len(self.blocks):
            for block in self.blocks:
                x = block(x)
            state = state + x
        out: Tensor = self.norm(state)
        return out
