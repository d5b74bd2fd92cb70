"""Causal self-attention with several backends that compute the same function.

Shapes: B sequences, T positions, h query heads, g key/value heads, d_h head size, d width.

`sdpa` is torch's fused kernel, for GPUs. `block` computes the score matrix in blocks of query rows
and leaves out the blocks above the diagonal; with its own backward pass it is the fastest on CPUs
at the sizes of small models. `explicit` writes the score matrix out: it is the reference, and the
one that `torch.utils.flop_counter` counts.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import Attention
from trainer.model.norm import RMSNorm
from trainer.model.position import rotary_tables, rotate
from trainer.shapes import ModelShape

Backend = Attention

BLOCK_ROWS = 64
"""Query rows of a block; 32 to 128 were within 10 % of each other for T = 128 to 512."""


@dataclass(slots=True)
class _Blocks:
    rows: int = BLOCK_ROWS


_blocks = _Blocks()


def use_block_rows(rows: int) -> None:
    """Make this process compute attention in blocks of so many query rows."""
    _blocks.rows = rows


class LayerCache:
    """What one layer remembers of earlier positions while text is generated."""

    def __init__(self) -> None:
        self.parts: tuple[Tensor, ...] | None = None

    @property
    def length(self) -> int:
        """Positions remembered."""
        return 0 if self.parts is None else self.parts[0].shape[1]

    def extend(self, *new: Tensor) -> tuple[Tensor, ...]:
        """Append positions (dimension 1) and return everything remembered."""
        if self.parts is not None:
            new = tuple(torch.cat(pair, dim=1) for pair in zip(self.parts, new, strict=True))
        self.parts = new
        return new


class _Rotary(nn.Module):
    """A layer with a table of rotary angles, which is computed and not stored with the weights."""

    cos: Tensor
    sin: Tensor

    def register_tables(self, context: int, d_rotary: int) -> None:
        """Make the table for T positions and heads of some size."""
        cos, sin = rotary_tables(context, d_rotary)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @torch.no_grad()
    def reset_tables(self) -> None:
        """Compute the table again, after a loader has left it unset."""
        if "cos" in self._buffers:
            cos, sin = rotary_tables(self.cos.shape[0], 2 * self.cos.shape[1])
            self.cos.copy_(cos)
            self.sin.copy_(sin)


class CausalAttention(_Rotary):
    """Multi-head attention with grouped key/value heads (Ainslie et al. 2023, arXiv 2305.13245).

    One matrix makes queries, keys and values: rows [h d_h | g d_h | g d_h].
    """

    def __init__(self, shape: ModelShape, *, backend: Backend) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.d_head = shape.n_head, shape.n_kv_head, shape.d_head
        self.backend = backend
        heads = shape.n_head + 2 * shape.n_kv_head
        self.qkv = nn.Linear(shape.d_model, heads * shape.d_head, bias=shape.has_qkv_bias)
        self.out = nn.Linear(shape.d_attn, shape.d_model, bias=shape.bias)
        self.rotary = shape.position == "rotary"
        self.layout = shape.rotary_layout
        if self.rotary:
            self.register_tables(shape.context, shape.d_head)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """Map [B, T, d] to [B, T, d]; position t sees positions up to t.

        With a cache, `x` holds the positions that follow the remembered ones.
        """
        batch, length, _ = x.shape
        heads = self.qkv(x).view(batch, length, -1, self.d_head)  # [B, T, h + 2g, d_h]
        past = 0 if cache is None else cache.length
        if self.rotary:
            turned = self.n_head + self.n_kv_head
            angles = self.cos[past : past + length], self.sin[past : past + length]
            q_and_k = rotate(heads[:, :, :turned], *angles, layout=self.layout)
            heads = torch.cat((q_and_k, heads[:, :, turned:]), dim=2)
        q, k, v = heads.split((self.n_head, self.n_kv_head, self.n_kv_head), dim=2)
        if cache is not None:
            k, v = cache.extend(k, v)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        mixed = attend(q, k, v, backend=self.backend)  # [B, h, T, d_h]
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))


class LatentCausalAttention(_Rotary):
    """Multi-head latent attention (DeepSeek-AI 2024, arXiv 2405.04434, equations 9 to 19).

    Queries: x -> latent -> norm -> per head [content | rotary]. Keys and values: x -> latent ->
    norm -> per head [content | value]; the rotary key comes straight from x, one for all heads.
    A cache holds the normalised latent and the turned rotary key.
    """

    def __init__(self, shape: ModelShape, *, backend: Backend) -> None:
        super().__init__()
        latent = shape.latent
        assert latent is not None
        self.sizes, self.n_head, self.backend = latent, shape.n_head, backend
        d, h = shape.d_model, shape.n_head
        d_key = latent.d_content + latent.d_rotary
        if latent.q_latent is None:
            self.q_up = nn.Linear(d, h * d_key, bias=False)
        else:
            self.q_down = nn.Linear(d, latent.q_latent, bias=False)
            self.q_norm = RMSNorm(latent.q_latent)
            self.q_up = nn.Linear(latent.q_latent, h * d_key, bias=False)
        self.kv_down = nn.Linear(d, latent.kv_latent + latent.d_rotary, bias=False)
        self.kv_norm = RMSNorm(latent.kv_latent)
        self.kv_up = nn.Linear(
            latent.kv_latent, h * (latent.d_content + latent.d_value), bias=False
        )
        self.out = nn.Linear(h * latent.d_value, d, bias=False)
        self.layout = shape.rotary_layout
        self.register_tables(shape.context, latent.d_rotary)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """Map [B, T, d] to [B, T, d], as `CausalAttention.forward`."""
        batch, length, _ = x.shape
        sizes, h = self.sizes, self.n_head
        past = 0 if cache is None else cache.length
        angles = self.cos[past : past + length], self.sin[past : past + length]
        query = x if sizes.q_latent is None else self.q_norm(self.q_down(x))
        query = self.q_up(query).view(batch, length, h, -1)
        q_content, q_rotary = query.split((sizes.d_content, sizes.d_rotary), dim=-1)
        q_rotary = rotate(q_rotary, *angles, layout=self.layout)
        latent, k_rotary = self.kv_down(x).split((sizes.kv_latent, sizes.d_rotary), dim=-1)
        latent = self.kv_norm(latent)
        k_rotary = rotate(k_rotary[:, :, None], *angles, layout=self.layout)[:, :, 0]
        if cache is not None:
            latent, k_rotary = cache.extend(latent, k_rotary)
        kv = self.kv_up(latent).view(batch, latent.shape[1], h, -1)
        k_content, v = kv.split((sizes.d_content, sizes.d_value), dim=-1)
        k = torch.cat((k_content, k_rotary[:, :, None].expand(-1, -1, h, -1)), dim=-1)
        q = torch.cat((q_content, q_rotary), dim=-1)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        mixed = attend(q, k, v, backend=self.backend)  # [B, h, T, d_v]
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))


def make_attention(
    shape: ModelShape, *, backend: Backend
) -> CausalAttention | LatentCausalAttention:
    """Build the attention that a shape names."""
    kind = CausalAttention if shape.latent is None else LatentCausalAttention
    return kind(shape, backend=backend)


def attend(q: Tensor, k: Tensor, v: Tensor, *, backend: Backend) -> Tensor:
    """Causal softmax(q k^T / sqrt(d_h)) v.

    Args:
        q: [B, h, T, d_h]; with fewer positions than `k` it holds the last ones.
        k: [B, g, S, d_h], g dividing h; a key head serves h / g neighbouring query heads.
        v: [B, g, S, d_v].
        backend: which implementation; all agree to rounding.

    Returns:
        [B, h, T, d_v].
    """
    scale = 1.0 / math.sqrt(q.shape[-1])
    square = q.shape[2] == k.shape[2]
    if backend == "sdpa" and square:
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=grouped
        )
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    batch, heads, length, _ = q.shape
    q, k, v = (x.reshape(batch * heads, x.shape[2], x.shape[3]) for x in (q, k, v))
    # Autocast would widen the softmax and narrow it again; these products take what they are given.
    with torch.autocast(q.device.type, enabled=False):
        if backend == "explicit" or not square:
            mixed = _explicit(q, k, v, scale)
        else:
            mixed = _BlockCausal.apply(q, k, v, scale)
    return mixed.view(batch, heads, length, -1)


def _explicit(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    scores = torch.bmm(q, k.transpose(1, 2)) * scale
    mask = _causal_mask(k.shape[1] - q.shape[1], k.shape[1], q.dtype, q.device)
    weights = (scores + mask).softmax(-1)
    return torch.bmm(weights, v)


@functools.lru_cache(maxsize=128)
def _causal_mask(start: int, end: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """0 where key <= query and -inf elsewhere, for query rows [start, end) and keys [0, end)."""
    mask = torch.full((end - start, end), -math.inf, dtype=dtype, device=device)
    return mask.triu_(1 + start)


class _BlockCausal(torch.autograd.Function):
    """Causal attention of [B h, T, d_h] in blocks of query rows.

    The block of rows [s, e) needs only keys [0, e), which saves almost half of the products and of
    the softmax. Its weights are kept for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        length = q.shape[1]
        out = q.new_empty(q.shape[0], length, v.shape[-1])
        keys = k.transpose(1, 2)
        saved = []
        rows = _blocks.rows
        for start in range(0, length, rows):
            end = min(start + rows, length)
            mask = _causal_mask(start, end, q.dtype, q.device)
            scores = torch.baddbmm(mask, q[:, start:end], keys[:, :, :end], alpha=scale)
            weights = torch.softmax(scores, -1)
            out[:, start:end] = torch.bmm(weights, v[:, :end])
            saved.append(weights)
        ctx.save_for_backward(q, k, v, *saved)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        grad = grads[0]
        length = q.shape[1]
        grad_q = torch.empty_like(q)
        values = v.transpose(1, 2)
        # The last block sees every key: it makes the gradients to which the others add.
        for weights in reversed(saved):
            end = weights.shape[2]
            start = end - weights.shape[1]
            grad_rows = grad[:, start:end]
            grad_weights = torch.bmm(grad_rows, values[:, :, :end])
            # d softmax: w * (g - sum(g w)); the masked entries have w = 0.
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_q[:, start:end] = torch.bmm(grad_scores, k[:, :end])
            grad_keys = torch.bmm(grad_scores.transpose(1, 2), q[:, start:end])
            grad_values = torch.bmm(weights.transpose(1, 2), grad_rows)
            if end == length:
                grad_k, grad_v = grad_keys, grad_values
            else:
                grad_k[:, :end] += grad_keys
                grad_v[:, :end] += grad_values
        return grad_q.mul_(ctx.scale), grad_k.mul_(ctx.scale), grad_v, None
