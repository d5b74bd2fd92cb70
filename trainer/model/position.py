"""How positions enter the model: rotary tables and rotation, and fixed sinusoids.

Shapes: T positions, d_h head size, d width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.shapes import RotaryLayout

ROTARY_BASE = 10_000.0
"""Base of the rotary wavelengths (Su et al. 2021, arXiv 2104.09864, section 3.2.2)."""


def rotary_tables(
    context: int, d_head: int, *, base: float = ROTARY_BASE, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position's angles.

    Channel pair i turns by position * base^(-2 i / d_head) (Su et al. 2021, equation 15).

    Returns:
        Two tensors [T, d_h / 2] of the asked type.
    """
    pair = torch.arange(0, d_head, 2, dtype=dtype)
    frequency = 1.0 / base ** (pair / d_head)
    angle = torch.arange(context, dtype=dtype)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, layout: RotaryLayout) -> Tensor:
    """Turn pairs of channels by their position's angles.

    Args:
        x: [..., T, heads, d_h].
        cos: [T, d_h / 2].
        sin: [T, d_h / 2].
        layout: which channels are a pair: i and i + d_h / 2 (`half`), or 2 i and 2 i + 1
            (`interleaved`).

    Returns:
        As `x`; at least fp32 inside, then back to the type of `x`.
    """
    return _Rotate.apply(x, cos[:, None, :], sin[:, None, :], layout)


class _Rotate(torch.autograd.Function):
    """The rotation in four operations; its backward pass is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, layout: RotaryLayout) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.layout = layout
        return _turned(x, cos, sin, layout, sign=1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, sin, ctx.layout, sign=-1.0), None, None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, layout: RotaryLayout, *, sign: float) -> Tensor:
    if torch.compiler.is_compiling():
        return _turned_in_one(x, cos, sin, layout, sign=sign)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    out = torch.empty_like(wide, memory_format=torch.contiguous_format)
    first, second = _pairs(wide, layout)
    turned_first, turned_second = _pairs(out, layout)
    torch.mul(first, cos, out=turned_first).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=turned_second).addcmul_(first, sin, value=sign)
    return out.to(x.dtype)


def _turned_in_one(
    x: Tensor, cos: Tensor, sin: Tensor, layout: RotaryLayout, *, sign: float
) -> Tensor:
    """The same for a compiler, which fuses operations itself and refuses to write into views."""
    first, second = _pairs(x.to(torch.promote_types(x.dtype, torch.float32)), layout)
    turned = first * cos - sign * second * sin, second * cos + sign * first * sin
    if layout == "interleaved":
        return torch.stack(turned, dim=-1).flatten(-2).to(x.dtype)
    return torch.cat(turned, dim=-1).to(x.dtype)


def _pairs(x: Tensor, layout: RotaryLayout) -> tuple[Tensor, Tensor]:
    if layout == "interleaved":
        return x[..., 0::2], x[..., 1::2]
    first, second = x.chunk(2, dim=-1)
    return first, second


def sinusoids(context: int, d_model: int, *, base: float = ROTARY_BASE) -> Tensor:
    """Fixed positions of Vaswani et al. 2017 (arXiv 1706.03762, section 3.5), amplitude 1.

    Returns:
        [T, d], sines in the even channels and cosines in the odd ones.
    """
    cos, sin = rotary_tables(context, d_model, base=base)
    return torch.stack((sin, cos), dim=-1).reshape(context, d_model)
