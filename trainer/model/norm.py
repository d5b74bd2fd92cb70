"""Normalisation layers; statistics are accumulated in fp32 whatever the input's type."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.shapes import Norm

EPS = 1e-5
"""Added to the mean square (inside the root)."""


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int, *, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension; the result has the type of `x`."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight.to(x.dtype) * (wide * scale).to(x.dtype)


def make_norm(kind: Norm, width: int) -> nn.Module:
    """Build the norm that a shape names."""
    return nn.LayerNorm(width, eps=EPS) if kind == "layernorm" else RMSNorm(width)
