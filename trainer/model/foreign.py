"""A model of other code behind the interface of ours: its own forward pass, our loss.

Shapes: B sequences, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.foreign import ForeignShape
from trainer.model.attention import LayerCache
from trainer.model.language_model import LanguageModel
from trainer.model.loss import chunk_rows
from trainer.model.module import build_module


class ForeignModel(LanguageModel):
    """A `transformers` model or a module of the user's.

    Args:
        shape: what to build.
        seed: of the initial weights, which the module draws itself.

    Raises:
        ValueError: when it cannot be built.
    """

    shape: ForeignShape

    def __init__(self, shape: ForeignShape, *, seed: int) -> None:
        super().__init__()
        self.shape = shape
        # The module draws from torch's global generator, which is put back afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = build_module(shape).float()
        self._auxiliary: Tensor | None = None

    def hidden(self, tokens: Tensor, caches: Sequence[LayerCache] | None = None) -> Tensor:
        """The logits [B, T, V] themselves: nothing before them is known of other code.

        Raises:
            ValueError: when the module returns something else.
        """
        output = self.module(tokens)
        logits = getattr(output, "logits", output)
        expected = (*tokens.shape, self.shape.vocab_size)
        if not isinstance(logits, Tensor) or logits.shape != expected:
            found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"{self.shape.family} must return logits [B, T, V] = {list(expected)} for tokens "
                f"{list(tokens.shape)}, or an object that has them as .logits; got {found}"
            )
        self._auxiliary = _weighted_auxiliary_loss(self.module, output)
        return logits

    def logits(self, hidden: Tensor) -> Tensor:
        """What `hidden` returned."""
        return hidden

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean next-token cross-entropy, nats per token; statistics in fp32, in chunks of rows."""
        logits, labels = self.hidden(tokens).flatten(0, 1), targets.flatten()
        rows = chunk_rows(self.shape.vocab_size, device_type=logits.device.type)
        wide = torch.promote_types(logits.dtype, torch.float32)
        sums = [
            F.cross_entropy(part.to(wide), of_part, reduction="sum")
            for part, of_part in zip(logits.split(rows), labels.split(rows), strict=True)
        ]
        return torch.stack(sums).sum() / labels.numel()

    def auxiliary_loss(self) -> Tensor | None:
        """The module's `aux_loss`, weighted by its `router_aux_loss_coef`, if it gives one."""
        return self._auxiliary

    @property
    def look_ups(self) -> frozenset[str]:
        """Names of the weights of all `torch.nn.Embedding` modules."""
        tables = {
            id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)
        }
        return frozenset(name for name, p in self.named_parameters() if id(p) in tables)


def _weighted_auxiliary_loss(module: nn.Module, output: Any) -> Tensor | None:
    auxiliary = getattr(output, "aux_loss", None)
    if not isinstance(auxiliary, Tensor):
        return None
    weight = getattr(getattr(module, "config", None), "router_aux_loss_coef", 1.0)
    return float(weight) * auxiliary
