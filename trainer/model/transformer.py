"""The decoder-only transformer, built from a `ModelShape`.

Shapes: B sequences, T positions, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import Init
from trainer.model.attention import Backend, LayerCache, make_attention
from trainer.model.feedforward import MixtureOfExperts, make_feed_forward
from trainer.model.initial import initialise
from trainer.model.language_model import LanguageModel
from trainer.model.loss import head_loss
from trainer.model.norm import make_norm
from trainer.model.position import sinusoids
from trainer.shapes import ModelShape


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)) (pre-norm, Radford et al. 2019).

    With `residual = normed` both sums continue from norm(x) instead of x.
    """

    def __init__(self, shape: ModelShape, *, backend: Backend, dropout: float) -> None:
        super().__init__()
        self.attention_norm = make_norm(shape.norm, shape.d_model)
        self.attention = make_attention(shape, backend=backend)
        self.feed_forward_norm = make_norm(shape.norm, shape.d_model)
        self.feed_forward = make_feed_forward(shape, dropout=dropout)
        self.from_normed = shape.residual == "normed"
        self.dropout = dropout

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """Map [B, T, d] to [B, T, d]."""
        normed = self.attention_norm(x)
        x = (normed if self.from_normed else x) + self.dropped(self.attention(normed, cache))
        normed = self.feed_forward_norm(x)
        return (normed if self.from_normed else x) + self.dropped(self.feed_forward(normed))

    def dropped(self, x: Tensor) -> Tensor:
        """Dropout in training, where there is any."""
        return F.dropout(x, self.dropout, self.training) if self.dropout > 0 else x


class Transformer(LanguageModel):
    """A decoder-only language model.

    Args:
        shape: what to build.
        seed: of the initial weights, which depend on nothing else but `init`.
        backend: how attention is computed; it changes no more than the last bits.
        init: scheme of the initial weights.
        dropout: of both sub-layers' outputs and of the dense feed-forward's hidden layer.
    """

    shape: ModelShape
    sinusoids: Tensor

    def __init__(
        self,
        shape: ModelShape,
        *,
        seed: int,
        backend: Backend = "sdpa",
        init: Init = "scaled",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.empty(shape.vocab_size, shape.d_model))
        if shape.position == "learned":
            self.positions = nn.Parameter(torch.empty(shape.context, shape.d_model))
        if shape.position == "sinusoidal":
            table = sinusoids(shape.context, shape.d_model)
            self.register_buffer("sinusoids", table, persistent=False)
        self.blocks = nn.ModuleList(
            Block(shape, backend=backend, dropout=dropout) for _ in range(shape.n_layer)
        )
        self.norm = make_norm(shape.norm, shape.d_model)
        if not shape.tied_head:
            self.head = nn.Parameter(torch.empty(shape.vocab_size, shape.d_model))
        self.head_bias = None
        if shape.head_bias:
            self.head_bias = nn.Parameter(torch.empty(shape.vocab_size))
        initialise(self, n_layer=shape.n_layer, seed=seed, scheme=init)

    @torch.no_grad()
    def reset_tables(self) -> None:
        """Compute the fixed positions again, after a loader has left them unset."""
        if self.shape.position == "sinusoidal":
            self.sinusoids.copy_(sinusoids(self.shape.context, self.shape.d_model))

    @property
    def head_weight(self) -> Tensor:
        """The head's matrix [V, d]: the embedding's own when tied."""
        return self.embedding if self.shape.tied_head else self.head

    @property
    def mixtures(self) -> list[MixtureOfExperts]:
        """The layers with routed experts; empty for a dense model."""
        layers = [block.feed_forward for block in self.blocks]
        return [layer for layer in layers if isinstance(layer, MixtureOfExperts)]

    @property
    def look_ups(self) -> frozenset[str]:
        """Names of the token embedding and the learned positions."""
        return frozenset(("embedding", "positions"))

    def new_caches(self) -> list[LayerCache]:
        """One empty memory per layer."""
        return [LayerCache() for _ in self.blocks]

    def hidden(self, tokens: Tensor, caches: Sequence[LayerCache] | None = None) -> Tensor:
        """Final normalised states [B, T, d] of token ids [B, T].

        Args:
            tokens: [B, T].
            caches: one per layer when generating; `tokens` follow the remembered positions.
        """
        past = 0 if caches is None else caches[0].length
        places = slice(past, past + tokens.shape[1])
        x = F.embedding(tokens, self.embedding)
        if self.shape.position == "learned":
            x = x + self.positions[places]
        elif self.shape.position == "sinusoidal":
            x = x + self.sinusoids[places]
        for layer, block in enumerate(self.blocks):
            x = block(x, None if caches is None else caches[layer])
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of final states [..., d]."""
        return F.linear(hidden, self.head_weight, self.head_bias)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean next-token cross-entropy, nats per token.

        Args:
            tokens: [B, T].
            targets: [B, T]; targets[:, t] is the token that follows tokens[:, t].
        """
        hidden = self.hidden(tokens).flatten(0, 1)
        return head_loss(hidden, self.head_weight, self.head_bias, targets.flatten())

    def auxiliary_loss(self) -> Tensor | None:
        """Weighted auxiliary losses of the last training pass, mean over layers; None if none."""
        mixtures = [m for m in self.mixtures if m.sizes.balance == "auxiliary"]
        if not mixtures:
            return None
        rate = mixtures[0].sizes.balance_rate
        return rate * torch.stack([m.auxiliary_loss for m in mixtures]).mean()
