"""The optimiser: all parameters in one array, AdamW in one fused kernel per group.

A model of 30 small tensors spends more time on the bookkeeping of 30 updates, 30 norms and 30
zeroings than on the arithmetic. So the parameters become views of one flat array, their gradients
views of another, and clipping, updating and clearing are one operation each (d = 16, two layers:
0.5 ms of a 3.8 ms step before, 0.1 ms after).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import OptimizerConfig

_ALIGNMENT = 16
"""Each tensor starts at a multiple of this many floats (64 bytes), as torch's own would."""


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: matrices yes; embeddings, positions, norms and biases no.

    A tied head is the embedding and has none.
    """
    return parameter.ndim >= 2 and name not in ("embedding", "positions")


class Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) with clipping over a model's parameters.

    Decay is decoupled and multiplied by the learning rate of the step, as in torch. The model's
    parameters are moved into the flat array, so it must be on its device before.

    Args:
        model: its parameters must be fp32.
        config: the optimiser's numbers.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        self._clip_norm = config.clip_norm
        named = list(model.named_parameters())
        decayed = [p for n, p in named if is_decayed(n, p)]
        plain = [p for n, p in named if not is_decayed(n, p)]
        border = sum(map(_padded, decayed))
        size = border + sum(map(_padded, plain))
        self.flat = torch.zeros(size, device=named[0][1].device)
        self.flat_grad = torch.zeros_like(self.flat)
        place = 0
        for parameter in (*decayed, *plain):
            _move(parameter, self.flat, self.flat_grad, place)
            place += _padded(parameter)
        groups: list[dict[str, Any]] = [
            {"params": [_leaf(self.flat[:border], self.flat_grad[:border])]},
            {
                "params": [_leaf(self.flat[border:], self.flat_grad[border:])],
                "weight_decay": 0.0,
            },
        ]
        self._adamw = torch.optim.AdamW(
            groups,
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def step(self, learning_rate: float) -> Tensor | None:
        """Clip the gradients, update the parameters, clear the gradients.

        Args:
            learning_rate: of this update.

        Returns:
            The global gradient norm before clipping, a scalar; None when clipping is off.
        """
        norm = None
        if self._clip_norm > 0:
            norm = torch.linalg.vector_norm(self.flat_grad)
            # The same 1e-6 as torch's clip_grad_norm_, so that a zero gradient stays zero.
            self.flat_grad.mul_((self._clip_norm / (norm + 1e-6)).clamp_(max=1.0))
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self.flat_grad.zero_()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Moments and step counts."""
        return self._adamw.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to an earlier state; gradients are cleared."""
        self._adamw.load_state_dict(state)
        self.flat_grad.zero_()


def _padded(parameter: nn.Parameter) -> int:
    return -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT


def _move(parameter: nn.Parameter, flat: Tensor, flat_grad: Tensor, place: int) -> None:
    end = place + parameter.numel()
    view = flat[place:end].view(parameter.shape)
    view.copy_(parameter.data)
    parameter.data = view
    parameter.grad = flat_grad[place:end].view(parameter.shape)


def _leaf(values: Tensor, grad: Tensor) -> nn.Parameter:
    leaf = nn.Parameter(values)
    leaf.grad = grad
    return leaf
