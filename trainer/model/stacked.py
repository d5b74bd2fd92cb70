"""Several models of one shape computed as one: weights with a leading member axis.

Shapes: K members, B sequences each, T positions, N = B T rows, d width, V vocabulary. A model of
width 16 spends most of a step on starting some hundred operations; K of them start no more. The
members share no number: row k of everything is what member k alone would compute, to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model.attention import Backend, attend
from trainer.model.feedforward import make_activation
from trainer.model.loss import chunk_rows
from trainer.model.norm import EPS
from trainer.model.position import rotary_tables, rotate, sinusoids
from trainer.shapes import ModelShape, Shape


def why_not(shape: Shape) -> str | None:
    """Why models of a shape cannot be stacked; None when they can."""
    if not isinstance(shape, ModelShape):
        return f"{shape.family} is a model of other code"
    if shape.experts is not None:
        return "each member routes its tokens to other experts"
    if shape.latent is not None:
        return "latent attention has no stacked form"
    return None


class StackedTransformer:
    """The function of K `Transformer`s of one shape.

    Args:
        shape: of every member; `why_not` must have nothing against it.
        weights: [K, ...] under the names of `Transformer.named_parameters`.
        backend: how attention is computed.
    """

    def __init__(
        self, shape: ModelShape, weights: Mapping[str, Tensor], *, backend: Backend
    ) -> None:
        self.shape, self.weights, self.backend = shape, weights, backend
        device = weights["embedding"].device
        self.members = len(weights["embedding"])
        # Row k V + v of the members' embeddings, one under the other, is token v of member k.
        first = torch.arange(self.members, device=device) * shape.vocab_size
        self._first_row = first[:, None, None]
        self._activation = None
        if shape.activation != "learned_gelu":
            self._activation = make_activation(shape.activation)
        if shape.position == "sinusoidal":
            self._sinusoids = sinusoids(shape.context, shape.d_model).to(device)
        if shape.position == "rotary":
            cos, sin = rotary_tables(shape.context, shape.d_head)
            self._cos, self._sin = cos.to(device), sin.to(device)

    def losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean next-token cross-entropy of every member, nats per token.

        Args:
            tokens: [K, B, T].
            targets: [K, B, T]; the token that follows each of `tokens`.

        Returns:
            [K].
        """
        hidden = self.hidden(tokens)
        head = self.weights["embedding" if self.shape.tied_head else "head"]
        bias = self.weights.get("head_bias")
        return _StackedHeadLoss.apply(hidden, head, bias, targets.flatten(1))

    def hidden(self, tokens: Tensor) -> Tensor:
        """Final normalised states [K, N, d] of token ids [K, B, T]."""
        members, sequences, length = tokens.shape
        table = self.weights["embedding"].reshape(-1, self.shape.d_model)
        x = F.embedding(tokens + self._first_row, table)  # [K, B, T, d]
        if self.shape.position == "learned":
            x = x + self.weights["positions"][:, None, :length]
        elif self.shape.position == "sinusoidal":
            x = x + self._sinusoids[:length]
        x = x.reshape(members, sequences * length, -1)
        for layer in range(self.shape.n_layer):
            x = self._block(f"blocks.{layer}.", x, sequences)
        return self._norm("norm.", x)

    def _block(self, at: str, x: Tensor, sequences: int) -> Tensor:
        from_normed = self.shape.residual == "normed"
        normed = self._norm(f"{at}attention_norm.", x)
        x = (normed if from_normed else x) + self._attention(f"{at}attention.", normed, sequences)
        normed = self._norm(f"{at}feed_forward_norm.", x)
        return (normed if from_normed else x) + self._feed_forward(f"{at}feed_forward.", normed)

    def _attention(self, at: str, x: Tensor, sequences: int) -> Tensor:
        """Attention among the positions of each sequence, [K, N, d] to [K, N, d]."""
        shape = self.shape
        members, rows, _ = x.shape
        length = rows // sequences
        heads = self._linear(f"{at}qkv.", x).view(members * sequences, length, -1, shape.d_head)
        if shape.position == "rotary":
            turned = shape.n_head + shape.n_kv_head
            angles = self._cos[:length], self._sin[:length]
            q_and_k = rotate(heads[:, :, :turned], *angles, layout=shape.rotary_layout)
            heads = torch.cat((q_and_k, heads[:, :, turned:]), dim=2)
        parts = heads.split((shape.n_head, shape.n_kv_head, shape.n_kv_head), dim=2)
        q, k, v = (part.transpose(1, 2) for part in parts)
        mixed = attend(q, k, v, backend=self.backend)  # [K B, h, T, d_h]
        return self._linear(f"{at}out.", mixed.transpose(1, 2).reshape(members, rows, -1))

    def _feed_forward(self, at: str, x: Tensor) -> Tensor:
        hidden = self._linear(f"{at}up.", x)
        if self._activation is not None:
            hidden = self._activation(hidden)
        else:
            mean, scale = (
                self.weights[f"{at}activation.{name}"].view(-1, 1, 1) for name in ("mean", "scale")
            )
            hidden = F.gelu((hidden - mean) * scale)
        return self._linear(f"{at}down.", hidden)

    def _linear(self, at: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{at}weight"], self.weights.get(f"{at}bias")
        return _StackedLinear.apply(x, weight, bias)

    def _norm(self, at: str, x: Tensor) -> Tensor:
        weight = self.weights[f"{at}weight"]
        if self.shape.norm == "layernorm":
            return _StackedLayerNorm.apply(x, weight, self.weights[f"{at}bias"])
        return _StackedRMSNorm.apply(x, weight)


class _StackedLinear(torch.autograd.Function):
    """x [K, N, i], weight [K, o, i], bias [K, o] or None to [K, N, o]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        if bias is None:
            return torch.bmm(x, weight.transpose(1, 2))
        return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0]
        grad_weight = torch.bmm(grad.transpose(1, 2), x)
        return torch.bmm(grad, weight), grad_weight, grad.sum(1) if ctx.has_bias else None


class _StackedLayerNorm(torch.autograd.Function):
    """Layer norm of x [K, N, d] with gain and bias [K, d]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        width = [x.shape[-1]]
        normal, mean, scale = torch.native_layer_norm(x, width, None, None, EPS)
        ctx.save_for_backward(x, normal, mean, scale, weight)
        return torch.addcmul(bias[:, None], normal, weight[:, None])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, normal, mean, scale, weight = ctx.saved_tensors
        grad = grads[0]
        grad_x, _, _ = torch.ops.aten.native_layer_norm_backward(
            grad * weight[:, None], x, [x.shape[-1]], mean, scale, None, None, [True, False, False]
        )
        return grad_x, (grad * normal).sum(1), grad.sum(1)


class _StackedRMSNorm(torch.autograd.Function):
    """`trainer.model.norm.RMSNorm` of x [K, N, d] with gain [K, d]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True).add_(EPS))
        normal = x * scale
        ctx.save_for_backward(normal, scale, weight)
        return normal * weight[:, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        normal, scale, weight = ctx.saved_tensors
        grad = grads[0]
        inner = grad * weight[:, None]
        along = (inner * normal).mean(-1, keepdim=True)
        grad_x = torch.addcmul(inner, normal, along, value=-1.0).mul_(scale)
        return grad_x, (grad * normal).sum(1)


class _StackedHeadLoss(torch.autograd.Function):
    """`trainer.model.loss.head_loss` of every member, [K], in chunks of rows.

    hidden [K, N, d], weight [K, V, d], bias [K, V] or None, targets [K, N].
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> Tensor:
        members, count, _ = hidden.shape
        rows = max(1, chunk_rows(weight.shape[1], device_type=hidden.device.type) // members)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, memory_format=torch.contiguous_format)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        total = hidden.new_zeros(members)
        minus_one = hidden.new_full((1, 1, 1), -1.0)
        for start in range(0, count, rows):
            chunk = hidden[:, start : start + rows]
            labels = targets[:, start : start + rows, None]
            logits = torch.bmm(chunk, weight.transpose(1, 2))
            if bias is not None:
                logits += bias[:, None]
            total += (logits.amax(-1) - logits.gather(2, labels)[..., 0]).sum(1)
            grad = torch.softmax(logits, -1, out=logits)
            total -= grad.amax(-1).log_().sum(1)
            grad.scatter_add_(2, labels, minus_one.expand(labels.shape))
            grad.mul_(1.0 / count)
            if grad_bias is not None:
                grad_bias += grad.sum(1)
            grad_hidden[:, start : start + rows] = torch.bmm(grad, weight)
            grad_weight += torch.bmm(grad.transpose(1, 2), chunk)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        scale = grads[0][:, None, None]
        scaled_bias = None if grad_bias is None else grad_bias * scale[:, 0]
        return grad_hidden * scale, grad_weight * scale, scaled_bias, None
