"""How positions enter the model: rotary tables and rotation, and fixed sinusoids.

Shapes: T positions, d_h head size, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROTARY_BASE = 10_000.0
"""Base of the rotary wavelengths (Su et al. 2021, arXiv 2104.09864, section 3.2.2)."""


def rotary_tables(context: int, d_head: int, *, base: float = ROTARY_BASE) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position's angles.

    Channel pair i turns by position * base^(-2 i / d_head) (Su et al. 2021, equation 15).

    Returns:
        Two tensors [T, d_h / 2], fp32.
    """
    pair = torch.arange(0, d_head, 2, dtype=torch.float32)
    frequency = 1.0 / base ** (pair / d_head)
    angle = torch.arange(context, dtype=torch.float32)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel i together with channel i + d_h / 2 (the half-split layout of Llama).

    Args:
        x: [..., T, heads, d_h].
        cos: [T, d_h / 2].
        sin: [T, d_h / 2].

    Returns:
        As `x`; at least fp32 inside, then back to the type of `x`.
    """
    cos, sin = cos[:, None, :], sin[:, None, :]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    first, second = wide.chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)


def sinusoids(context: int, d_model: int, *, base: float = ROTARY_BASE) -> Tensor:
    """Fixed positions of Vaswani et al. 2017 (arXiv 1706.03762, section 3.5), amplitude 1.

    Returns:
        [T, d], sines in the even channels and cosines in the odd ones.
    """
    cos, sin = rotary_tables(context, d_model, base=base)
    return torch.stack((sin, cos), dim=-1).reshape(context, d_model)
