"""The optimiser steps of one run, and the state that lets them go on elsewhere.

Nothing here knows files: `run.py` decides when to log, save, evaluate and stop.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor

from trainer.batches import TokenBatches, inputs_and_targets
from trainer.config import TrainConfig
from trainer.foreign import ForeignShape
from trainer.memory import is_exhausted
from trainer.model.attention import Backend
from trainer.model.build import build_model
from trainer.optim import Optimizer
from trainer.parallel import Group
from trainer.schedule import multiplier


class Diverged(Exception):
    """A loss or a gradient became non-finite."""

    def __init__(self, step: int, what: str, value: float) -> None:
        super().__init__(f"the {what} was {value} at step {step}")
        self.step = step


COMPILE: dict[str, Any] = {"mode": "reduce-overhead", "dynamic": False}
"""How a step is compiled: into CUDA graphs, anew for another size of a micro-batch."""


class Training:
    """A run in progress: model, optimiser, step, and the loss of every step so far.

    Args:
        config: what to train.
        batches: the tokens of each step.
        device: where.
        backend: how attention is computed.
        compiled: whether forward and backward pass are compiled.
        micro_batch_sequences: most sequences of one pass; 0: the whole batch. Halved when memory
            does not suffice.
        group: the processes that share each batch; None: this one alone.

    Raises:
        AssertionError: when the built model has another size than was counted.
    """

    def __init__(
        self,
        config: TrainConfig,
        batches: TokenBatches,
        *,
        device: torch.device,
        backend: Backend,
        compiled: bool = False,
        micro_batch_sequences: int = 0,
        group: Group | None = None,
    ) -> None:
        self.config = config
        self.device = device
        self.step = 0
        self.batches = batches
        self._group = group or Group()
        self.model = build_model(config, backend=backend).to(device)
        self._loss = torch.compile(self.model.loss, **COMPILE) if compiled else self.model.loss
        self._optimizer = Optimizer(self.model, config.optimizer)
        self.micro_batch = micro_batch_sequences or config.batch_sequences
        self.halvings = 0
        self._mixtures = self.model.mixtures
        self._load: Tensor | None = None
        gumbel = any(mixture.sizes.gumbel > 0 for mixture in self._mixtures)
        # Models of other code may draw noise of their own.
        foreign = isinstance(config.shape, ForeignShape)
        self.is_noisy = config.dropout > 0 or gumbel or foreign
        self.losses: list[float] = []
        self.grad_norms: list[float] = []
        self._pending: list[tuple[Tensor, Tensor]] = []

    def advance(self) -> None:
        """Do one optimiser step.

        When the device runs out of memory the step is done again in micro-batches of half the
        size; the batch stays what it was.

        Raises:
            torch.OutOfMemoryError: when not even one sequence fits; on a CPU the error that torch
                raises there.
        """
        config = self.config
        batch = torch.from_numpy(self.batches.at(self.step))
        ids = self._group.share(batch).to(self.device)
        while True:
            try:
                loss = self._accumulate(ids)
                break
            except (RuntimeError, MemoryError) as error:
                if self.micro_batch == 1 or not is_exhausted(error):
                    raise
            # Outside of the handler: the traceback holds on to the activations that did not fit.
            self._make_room(len(ids))
        self._group.mean_(loss)
        self._group.mean_(self._optimizer.flat_grad)
        rate = config.optimizer.learning_rate * multiplier(self.step, config.steps, config.schedule)
        norm = self._optimizer.step(rate)
        for mixture in self._mixtures:
            self._group.mean_(mixture.load)
            self._load = mixture.load.clone() if self._load is None else self._load + mixture.load
            mixture.balance()
        self._pending.append((loss, norm))
        self.step += 1

    def _make_room(self, sequences: int) -> None:
        """Forget a half-done step and halve the micro-batch."""
        self._optimizer.flat_grad.zero_()
        for mixture in self._mixtures:
            mixture.load.zero_()
        self.micro_batch = -(-min(self.micro_batch, sequences) // 2)
        self.halvings += 1
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _accumulate(self, ids: Tensor) -> Tensor:
        """Add the gradients of a batch [B, T + 1], part by part; its mean loss."""
        parts = ids.split(self.micro_batch)
        total = None
        for number, part in enumerate(parts):
            if self.is_noisy:
                # Noise is a function of (seed, step, part), so that no generator's state matters.
                place = number * self._group.size + self._group.rank
                torch.manual_seed(_noise_seed(self.config.seed, self.step, place))
            with self._precision():
                loss = self._loss(*inputs_and_targets(part))
            auxiliary = self.model.auxiliary_loss()
            objective = loss if auxiliary is None else loss + auxiliary
            if len(parts) > 1:
                share = len(part) / len(ids)
                loss, objective = loss * share, objective * share
            objective.backward()
            # A copy: the next run of a CUDA graph overwrites what this one returned.
            total = loss.detach().clone() if total is None else total + loss.detach()
        assert total is not None
        return total

    def read_losses(self) -> None:
        """Bring the losses and gradient norms of the latest steps to `losses` and `grad_norms`.

        Raises:
            Diverged: when one of them is not finite.
        """
        if not self._pending:
            return
        first = len(self.losses)
        losses, norms = (
            torch.stack(column).tolist() for column in zip(*self._pending, strict=True)
        )
        self._pending.clear()
        self.losses += losses
        self.grad_norms += norms
        for number, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=first + 1):
            if not math.isfinite(loss):
                raise Diverged(number, "training loss", loss)
            if not math.isfinite(norm):
                raise Diverged(number, "gradient norm", norm)

    def mean_loss(self, start: int, end: int) -> float:
        """Mean loss of steps start + 1 to end, nats per token.

        Summed step by step in fp64, so it does not depend on where a run was interrupted.
        """
        return sum(self.losses[start:end]) / (end - start)

    def take_expert_load(self) -> list[float] | None:
        """Each expert's share of the routed tokens since the last call, all layers together.

        None for a dense model.
        """
        if self._load is None:
            return None
        shares = (self._load / self._load.sum()).tolist()
        self._load = None
        return shares

    def state(self) -> dict[str, Any]:
        """Everything that the next steps and the record of the earlier ones depend on.

        Raises:
            Diverged: when a loss is not finite.
        """
        self.read_losses()
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "grad_norms": torch.tensor(self.grad_norms, dtype=torch.float64),
            "load": self._load,
            "micro_batch": self.micro_batch,
            "halvings": self.halvings,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was called."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.losses, self.grad_norms = state["losses"].tolist(), state["grad_norms"].tolist()
        # Checkpoints are read to the CPU.
        self._load = None if state["load"] is None else state["load"].to(self.device)
        # The order of sums is part of the last bits: go on with the parts that were in use.
        self.micro_batch = state.get("micro_batch", self.micro_batch)
        self.halvings = state.get("halvings", 0)
        self._pending.clear()

    def restore_weights(self, state: dict[str, Any]) -> None:
        """Take the weights of a state and nothing else: for the result of an earlier step."""
        self.model.load_state_dict(state["model"])

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()


def _noise_seed(seed: int, step: int, part: int) -> int:
    # Distinct for any two steps of a run and any two of its first 4,096 parts.
    return (seed * 1_000_000_007 + step * 4096 + part) % 2**63
