"""The decoder-only transformer, built from a `ModelShape`.

Shapes: B sequences, T positions, d width, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.attention import Backend, CausalAttention
from trainer.model.feedforward import FeedForward
from trainer.model.loss import head_loss
from trainer.model.norm import make_norm
from trainer.model.position import sinusoids
from trainer.shapes import ModelShape

INIT_STD = 0.02
"""Standard deviation of embeddings and of the head (Radford et al. 2019)."""


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)) (pre-norm, Radford et al. 2019)."""

    def __init__(self, shape: ModelShape, *, backend: Backend) -> None:
        super().__init__()
        self.attention_norm = make_norm(shape.norm, shape.d_model)
        self.attention = CausalAttention(shape, backend=backend)
        self.feed_forward_norm = make_norm(shape.norm, shape.d_model)
        self.feed_forward = FeedForward(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, T, d] to [B, T, d]."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class Transformer(nn.Module):
    """A decoder-only language model.

    Args:
        shape: what to build.
        seed: of the initial weights, which depend on nothing else.
        backend: how attention is computed; it changes no more than the last bits.
    """

    sinusoids: Tensor

    def __init__(self, shape: ModelShape, *, seed: int, backend: Backend = "sdpa") -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.empty(shape.vocab_size, shape.d_model))
        if shape.position == "learned":
            self.positions = nn.Parameter(torch.empty(shape.context, shape.d_model))
        if shape.position == "sinusoidal":
            table = sinusoids(shape.context, shape.d_model)
            self.register_buffer("sinusoids", table, persistent=False)
        self.blocks = nn.ModuleList(Block(shape, backend=backend) for _ in range(shape.n_layer))
        self.norm = make_norm(shape.norm, shape.d_model)
        if not shape.tied_head:
            self.head = nn.Parameter(torch.empty(shape.vocab_size, shape.d_model))
        initialise(self, seed=seed)

    @property
    def head_weight(self) -> Tensor:
        """The head's matrix [V, d]: the embedding's own when tied."""
        return self.embedding if self.shape.tied_head else self.head

    def hidden(self, tokens: Tensor) -> Tensor:
        """Final normalised states [B, T, d] of token ids [B, T]."""
        x = F.embedding(tokens, self.embedding)
        if self.shape.position == "learned":
            x = x + self.positions[: tokens.shape[1]]
        elif self.shape.position == "sinusoidal":
            x = x + self.sinusoids[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of final states [..., d]."""
        return F.linear(hidden, self.head_weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, T, V] of token ids [B, T]."""
        return self.logits(self.hidden(tokens))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean next-token cross-entropy, nats per token.

        Args:
            tokens: [B, T].
            targets: [B, T]; targets[:, t] is the token that follows tokens[:, t].
        """
        hidden = self.hidden(tokens).flatten(0, 1)
        return head_loss(hidden, self.head_weight, None, targets.flatten())


def initialise(model: Transformer, *, seed: int) -> None:
    """Draw the initial weights from one seeded generator, in the order of the parameters.

    Embeddings and head are normal with `INIT_STD`, so the first logits are small and the first
    loss is close to ln V. Linear weights are normal with 1 / sqrt(fan_in), which equals 0.02 at
    width 2,500 and keeps narrow models trainable; the two that write into the residual stream are
    smaller by sqrt(2 L), so that its variance does not grow with depth (Radford et al. 2019).
    Biases are 0, norm gains 1.
    """
    generator = torch.Generator().manual_seed(seed)
    residual = 1.0 / math.sqrt(2.0 * model.shape.n_layer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim < 2:
                parameter.fill_(1.0)
            elif name in ("embedding", "positions", "head"):
                parameter.normal_(0.0, INIT_STD, generator=generator)
            else:
                std = 1.0 / math.sqrt(parameter.shape[1])
                if name.endswith(("attention.out.weight", "feed_forward.down.weight")):
                    std *= residual
                parameter.normal_(0.0, std, generator=generator)
