"""Held-out loss: the same tokens, in the same order, in fp32, for every trial of a sweep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from trainer.model.language_model import LanguageModel
from trainer.model.loss import chunk_rows

_BATCH_TOKENS = 4096
"""Tokens per forward pass: small enough for a CPU's cache, fixed so that sums never differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Held-out cross-entropy of a model."""

    loss: float
    """Mean over all evaluated tokens, nats per token."""
    loss_se: float
    """Standard error of `loss` over sequences, nats per token; nan for a single sequence."""
    tokens: int
    """Tokens evaluated."""


def held_out_sequences(available: int, *, count: int, context: int) -> int:
    """Whole sequences in the first `count` of the available held-out tokens.

    Raises:
        ValueError: when there are not so many tokens, or not one sequence of them.
    """
    if not context <= count <= available - 1:
        raise ValueError(
            f"validation_tokens must lie between one sequence ({context}) and the held-out "
            f"tokens less one ({available - 1}), got {count}"
        )
    return count // context


@torch.no_grad()
def evaluate(model: LanguageModel, tokens: NDArray[Any], *, count: int) -> Evaluation:
    """Mean next-token loss on the first `count` held-out tokens.

    The tokens are cut into windows of the model's context that overlap by one, so each counted
    token is predicted once, from at most `context` tokens before it.

    Args:
        model: in fp32; dropout is off here whatever its mode.
        tokens: [n] held-out token ids.
        count: tokens to predict; rounded down to whole sequences.

    Raises:
        ValueError: when fewer than `count` tokens can be predicted, or `count` is below one
            sequence.
    """
    context = model.shape.context
    sequences = held_out_sequences(len(tokens), count=count, context=context)
    was_training = model.training
    model.eval()
    device = model.device
    batch = max(1, _BATCH_TOKENS // context)
    windows = np.arange(sequences)[:, None] * context + np.arange(context + 1)
    sums = []
    for start in range(0, sequences, batch):
        ids = torch.from_numpy(tokens[windows[start : start + batch]].astype(np.int64)).to(device)
        sums.append(_sequence_losses(model, ids).double().sum(1).cpu())
    model.train(was_training)
    per_sequence = torch.cat(sums) / context
    spread = float(per_sequence.std()) / math.sqrt(sequences) if sequences > 1 else math.nan
    return Evaluation(loss=float(per_sequence.mean()), loss_se=spread, tokens=sequences * context)


def _sequence_losses(model: LanguageModel, ids: Tensor) -> Tensor:
    """Loss of each token [B, T] of windows [B, T + 1]."""
    hidden = model.hidden(ids[:, :-1]).flatten(0, 1)
    targets = ids[:, 1:].flatten()
    vocabulary = model.shape.vocab_size
    rows = chunk_rows(vocabulary, device_type=hidden.device.type)
    losses = [
        F.cross_entropy(model.logits(part).float(), labels, reduction="none")
        for part, labels in zip(hidden.split(rows), targets.split(rows), strict=True)
    ]
    return torch.cat(losses).view(ids.shape[0], -1)
