"""The feed-forward sub-layer: plain or gated.

Shapes: N tokens, d width, f feed-forward width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.shapes import ModelShape


class FeedForward(nn.Module):
    """act(x W_up) W_down, or (silu(x W_gate) * x W_up) W_down for `swiglu`.

    The gated form is Shazeer 2020 (arXiv 2002.05202); gate and up are one matrix here, so that one
    product serves both. `gelu` is the exact one (Hendrycks & Gimpel 2016, arXiv 1606.08415).
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.activation = shape.activation
        widths = 2 if shape.activation == "swiglu" else 1
        self.up = nn.Linear(shape.d_model, widths * shape.d_ff, bias=shape.bias)
        self.down = nn.Linear(shape.d_ff, shape.d_model, bias=shape.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., d] to [..., d]."""
        hidden = self.up(x)
        if self.activation == "swiglu":
            gate, up = hidden.chunk(2, dim=-1)
            return self.down(F.silu(gate) * up)
        if self.activation == "relu":
            return self.down(F.relu(hidden))
        if self.activation == "silu":
            return self.down(F.silu(hidden))
        return self.down(F.gelu(hidden))
