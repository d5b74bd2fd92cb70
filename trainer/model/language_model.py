"""What a run needs of a model, whoever wrote it.

Shapes: B sequences, T positions, V vocabulary; h whatever `hidden` returns in its last place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.model.attention import LayerCache
from trainer.model.feedforward import MixtureOfExperts
from trainer.shapes import Shape


class LanguageModel(nn.Module, ABC):
    """A model of the next token, in fp32 master weights."""

    shape: Shape
    """What was built."""

    @abstractmethod
    def hidden(self, tokens: Tensor, caches: Sequence[LayerCache] | None = None) -> Tensor:
        """What `logits` takes [B, T, h], of token ids [B, T].

        Args:
            tokens: [B, T].
            caches: of `new_caches`, when generating; `tokens` follow the remembered positions.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of [..., h]."""

    @abstractmethod
    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean next-token cross-entropy, nats per token.

        Args:
            tokens: [B, T].
            targets: [B, T]; targets[:, t] is the token that follows tokens[:, t].
        """

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, T, V] of token ids [B, T]."""
        return self.logits(self.hidden(tokens))

    def auxiliary_loss(self) -> Tensor | None:
        """What the last training pass adds to the loss, already weighted; None if nothing."""
        return None

    def new_caches(self) -> list[LayerCache]:
        """Empty memories for `hidden`, one per layer; none where a model keeps none."""
        return []

    @property
    def mixtures(self) -> list[MixtureOfExperts]:
        """Layers with routed experts whose balance the training loop looks after."""
        return []

    @property
    @abstractmethod
    def look_ups(self) -> frozenset[str]:
        """Names of the parameters that are tables of vectors: they are never decayed."""

    @property
    def trained(self) -> int:
        """Scalars that are trained, each counted once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device
