"""The optimiser steps of one run, and the state that lets them go on elsewhere.

Nothing here knows files: `run.py` decides when to log, save, evaluate and stop.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor

from trainer.batches import TokenBatches
from trainer.config import TrainConfig
from trainer.model.attention import Backend
from trainer.model.transformer import Transformer
from trainer.optim import Optimizer
from trainer.schedule import multiplier
from trainer.shapes import count_parameters


class Diverged(Exception):
    """The training loss became non-finite."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"the training loss was {loss} at or before step {step}")
        self.step = step


class Training:
    """A run in progress: model, optimiser, step, and the losses since the last logged point.

    Args:
        config: what to train.
        batches: the tokens of each step.
        device: where.
        backend: how attention is computed.

    Raises:
        AssertionError: when the built model has another size than `count_parameters` says.
    """

    def __init__(
        self,
        config: TrainConfig,
        batches: TokenBatches,
        *,
        device: torch.device,
        backend: Backend,
    ) -> None:
        self.config = config
        self.device = device
        self.step = 0
        self.learning_rate = 0.0
        self._batches = batches
        self.model = Transformer(config.shape, seed=config.seed, backend=backend).to(device)
        built = sum(p.numel() for p in self.model.parameters())
        assert built == count_parameters(config.shape).total, f"built {built} parameters"
        self._optimizer = Optimizer(self.model, config.optimizer)
        self._norm: Tensor | None = None
        self._pending: list[Tensor] = []
        self._loss_sum, self._loss_count = 0.0, 0

    def advance(self) -> None:
        """Do one optimiser step."""
        config = self.config
        ids = torch.from_numpy(self._batches.at(self.step)).to(self.device)
        with self._precision():
            loss = self.model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        rate = config.optimizer.learning_rate * multiplier(self.step, config.steps, config.schedule)
        self._norm = self._optimizer.step(rate)
        self.learning_rate = rate
        self._pending.append(loss.detach())
        self.step += 1

    def take_mean_loss(self) -> float:
        """Mean loss per step since the last call, nats per token.

        Raises:
            Diverged: when it is not finite.
        """
        self.check_finite()
        mean = self._loss_sum / self._loss_count
        self._loss_sum, self._loss_count = 0.0, 0
        return mean

    def check_finite(self) -> None:
        """Fold the pending losses into the sum.

        The sum is taken step by step, so it does not depend on where a run was interrupted.

        Raises:
            Diverged: when it is not finite.
        """
        if self._pending:
            for loss in torch.stack(self._pending).tolist():
                self._loss_sum += loss
                self._loss_count += 1
            self._pending.clear()
        if not math.isfinite(self._loss_sum):
            raise Diverged(self.step, self._loss_sum)

    def last_grad_norm(self) -> float | None:
        """Global gradient norm of the last step before clipping; None when clipping is off."""
        return None if self._norm is None else float(self._norm)

    def state(self) -> dict[str, Any]:
        """Everything that the next steps depend on.

        Raises:
            Diverged: when a pending loss is not finite.
        """
        self.check_finite()
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "loss_sum": self._loss_sum,
            "loss_count": self._loss_count,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was called."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self._loss_sum, self._loss_count = state["loss_sum"], state["loss_count"]
        self._pending.clear()

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()
