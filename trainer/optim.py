"""The optimiser: AdamW in one fused kernel, with and without weight decay by group."""

from __future__ import annotations

import torch
from torch import nn

from trainer.config import OptimizerConfig


def decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: matrices yes; embeddings, positions, norms and biases no.

    A tied head is the embedding and has none.
    """
    return parameter.ndim >= 2 and name not in ("embedding", "positions")


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) over the model's parameters.

    Decay is decoupled and multiplied by the learning rate of the step, as in torch.

    Returns:
        The optimiser; group 0 is decayed, group 1 is not, and either may be empty.
    """
    named = list(model.named_parameters())
    groups = [
        {
            "params": [p for n, p in named if decayed(n, p)],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for n, p in named if not decayed(n, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )
