"""Cross-entropy of the head, plain for small vocabularies and in chunks for large ones.

Shapes: N tokens, d width, V vocabulary. At V = 50,257 the logits of 4,096 tokens are 0.8 GB and
their gradient as much again; the chunked form never holds more than one chunk of them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PLAIN_LOGITS_BYTES = 64 * 2**20
"""Largest logits matrix (fp32 bytes) that is simply written out."""

CHUNK_BYTES = 48 * 2**20
"""Logits bytes of a chunk: 256 rows at V = 50,257, the fastest of 16 to 4,096 rows on a CPU."""


def head_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Mean cross-entropy of softmax(hidden weight^T + bias) against the targets, nats.

    Args:
        hidden: [N, d].
        weight: [V, d].
        bias: [V] or None.
        targets: [N], token ids.

    Returns:
        A scalar, fp32; the softmax's statistics are fp32 whatever the type of `hidden`.
    """
    if hidden.shape[0] * weight.shape[0] * 4 <= PLAIN_LOGITS_BYTES:
        return F.cross_entropy(F.linear(hidden, weight, bias).float(), targets)
    rows = max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    else:
        dtype = hidden.dtype
    return _ChunkedHeadLoss.apply(hidden, weight, bias, targets, rows, dtype)


class _ChunkedHeadLoss(torch.autograd.Function):
    """Head and cross-entropy over chunks of rows; gradients are made in the forward pass.

    A chunk's logits become its probabilities, then its gradient, in place; so nothing of size
    N x V is kept, and the backward pass only scales.
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
    ) -> Tensor:
        count = hidden.shape[0]
        narrow_hidden, narrow_weight = hidden.to(dtype), weight.to(dtype)
        # Without gradients (evaluation) only the loss is computed.
        needs_grad = any(ctx.needs_input_grad)
        grad_hidden = torch.empty_like(narrow_hidden) if needs_grad else None
        grad_weight = torch.zeros_like(weight) if needs_grad else None
        grad_bias = torch.zeros_like(bias) if needs_grad and bias is not None else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, count, rows):
            end = min(start + rows, count)
            chunk, labels = narrow_hidden[start:end], targets[start:end, None]
            logits = (chunk @ narrow_weight.t()).float()
            if bias is not None:
                logits += bias
            log_probs = torch.log_softmax(logits, -1, out=logits)
            total -= log_probs.gather(1, labels).sum()
            if grad_hidden is None or grad_weight is None:
                continue
            grad = log_probs.exp_()
            grad.scatter_add_(1, labels, grad.new_full(labels.shape, -1.0))
            grad.mul_(1.0 / count)
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            narrow = grad.to(dtype)
            torch.mm(narrow, narrow_weight, out=grad_hidden[start:end])
            if dtype == weight.dtype:
                grad_weight.addmm_(narrow.t(), chunk)
            else:
                grad_weight += narrow.t() @ chunk
        if grad_hidden is not None and grad_weight is not None:
            ctx.save_for_backward(grad_hidden.to(hidden.dtype), grad_weight, grad_bias)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        scale = grads[0]
        scaled_bias = None if grad_bias is None else grad_bias * scale
        return grad_hidden * scale, grad_weight * scale, scaled_bias, None, None, None
