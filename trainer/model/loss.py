"""Cross-entropy of the head, fused over chunks of rows.

Shapes: N tokens, d width, V vocabulary. At V = 50,257 the logits of 4,096 tokens are 0.8 GB and
their gradient as much again; here no more than one chunk of them ever exists. At V = 256 the
gain is speed: logits become probabilities and then their own gradient in place, in one array.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_CACHED_BYTES = 2**20
"""Logits of a chunk (fp32 bytes) on a CPU, where they fit into its cache in `_LEAST_ROWS` rows."""

_LEAST_ROWS = 256
"""Rows of a chunk at a large vocabulary: of 16 to 4,096 the fastest on a CPU at V = 50,257."""

_GPU_BYTES = 2**28
"""Logits of a chunk (fp32 bytes) on a GPU."""


@dataclass(slots=True)
class _Chunks:
    scale: float = 1.0


_chunks = _Chunks()


def use_chunk_scale(scale: float) -> None:
    """Make this process compute so many times the rule's rows of logits at once."""
    _chunks.scale = scale


def chunk_rows(vocabulary: int, *, device_type: str) -> int:
    """Rows of logits that are computed at once."""
    budget = _CACHED_BYTES if device_type == "cpu" else _GPU_BYTES
    return round(_chunks.scale * max(_LEAST_ROWS, budget // (4 * vocabulary)))


def head_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Mean cross-entropy of softmax(hidden weight^T + bias) against the targets, nats.

    Products are in the type of autocast where that is on; the softmax and its sums are fp32.

    Args:
        hidden: [N, d].
        weight: [V, d].
        bias: [V] or None.
        targets: [N], token ids.

    Returns:
        A scalar, at least fp32.
    """
    device_type = hidden.device.type
    dtype = weight.dtype
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    rows = chunk_rows(weight.shape[0], device_type=device_type)
    with torch.autocast(device_type, enabled=False):
        return _ChunkedHeadLoss.apply(
            hidden, weight, bias, targets, rows, dtype, torch.is_grad_enabled()
        )


class _ChunkedHeadLoss(torch.autograd.Function):
    """Head and cross-entropy; the gradients are made in the forward pass, the backward scales.

    With z the logits of a row, m their maximum and t the target, the loss is
    log sum exp(z) - z_t = m - log(max softmax(z)) - z_t, in which nothing underflows; the
    gradient is softmax(z) less one at t.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        rows: int,
        dtype: torch.dtype,
        needs_grad: bool,
    ) -> Tensor:
        count = hidden.shape[0]
        narrow_hidden, narrow_weight = hidden.to(dtype), weight.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        grad_hidden = torch.empty_like(narrow_hidden)
        grad_weight = torch.empty(0)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        minus_one = hidden.new_full((1, 1), -1.0, dtype=wide)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        for start in range(0, count, rows):
            chunk, labels = narrow_hidden[start : start + rows], targets[start : start + rows, None]
            logits = (chunk @ narrow_weight.t()).to(wide)
            if bias is not None:
                logits += bias
            total += (logits.amax(-1) - logits.gather(1, labels)[:, 0]).sum()
            grad = torch.softmax(logits, -1, out=logits)
            total -= grad.amax(-1).log_().sum()
            if not needs_grad:
                continue
            grad.scatter_add_(1, labels, minus_one.expand(labels.shape))
            grad.mul_(1.0 / count)
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            narrow = grad.to(dtype)
            torch.mm(narrow, narrow_weight, out=grad_hidden[start : start + rows])
            of_chunk = (narrow.t() @ chunk).to(weight.dtype)
            grad_weight = of_chunk if start == 0 else grad_weight.add_(of_chunk)
        if needs_grad:
            ctx.save_for_backward(grad_hidden.to(hidden.dtype), grad_weight, grad_bias)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        scale = grads[0]
        scaled_bias = None if grad_bias is None else grad_bias * scale
        return grad_hidden * scale, grad_weight * scale, scaled_bias, None, None, None, None
