"""Several trainings of one shape that take their steps together.

Shapes: K members, P entries of a member's flat array of parameters. Row k of every array is member
k's alone: its weights, gradients, moments, learning rate and gradient norm. So a member may
diverge, end or leave, and the others do not notice, and each remains a `Training` that could go
on by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.config import OptimizerConfig, TrainConfig
from trainer.loop import Training
from trainer.model.attention import Backend
from trainer.model.stacked import StackedTransformer
from trainer.model.stacked import why_not as why_not_shape
from trainer.schedule import multiplier
from trainer.shapes import ModelShape


def why_not(configs: Sequence[TrainConfig]) -> str | None:
    """Why runs cannot be trained as one stack; None when they can."""
    first = configs[0]
    for config in configs:
        if (reason := why_not_shape(config.shape)) is not None:
            return reason
        if config.dropout > 0:
            return "dropout draws its noise from one generator per process"
        if config.precision != "fp32":
            return f"members equal runs trained alone in fp32 only, got {config.precision}"
        if config.early_stopping is not None:
            return "a member that stops early is evaluated on the way"
        if config.optimizer.name == "muon":
            return "muon orthogonalises matrix by matrix"
        for name, one, other in (
            ("shape", first.shape, config.shape),
            ("batch_sequences", first.batch_sequences, config.batch_sequences),
            ("optimizer.name", first.optimizer.name, config.optimizer.name),
            ("optimizer.decay_all", first.optimizer.decay_all, config.optimizer.decay_all),
        ):
            if one != other:
                return f"{name} must be the same in all members, got {one} and {other}"
    return None


class Member(Training):
    """A training whose weights and moments are rows of a stack."""

    def join(self, flat: Tensor, moments: tuple[Tensor, Tensor]) -> None:
        """Live in rows [P] of a stack's arrays from now on; they take over what is here."""
        held = (self._optimizer.flat, *self._optimizer.moments())
        for row, values in zip((flat, *moments), held, strict=True):
            row.copy_(values)
        self._updates = torch.tensor(float(self.step), device=self.device)
        self._optimizer.live_in(flat, moments, self._updates)

    @property
    def parameters(self) -> int:
        """Entries P of the flat array, padding included."""
        return self._optimizer.flat.numel()

    @property
    def decayed(self) -> int:
        """Entries of the flat array, its first ones, to which weight decay applies."""
        return self._optimizer.decayed

    def places(self) -> dict[str, tuple[slice, torch.Size]]:
        """Where in the flat array each named parameter lies, and its shape."""
        named = self.model.named_parameters()
        return {name: (self._optimizer.place(p), p.shape) for name, p in named}

    def tokens(self) -> Any:
        """Token ids [B, T + 1] of the next step."""
        return self.batches.at(self.step)

    def learning_rate(self) -> float:
        """Learning rate of the next update."""
        config = self.config
        scale = multiplier(self.step, config.steps, config.schedule)
        return config.optimizer.learning_rate * scale

    def stepped(self, loss: Tensor, norm: Tensor) -> None:
        """Take note that the stack has done a step."""
        self._pending.append((loss, norm))
        self.step += 1

    def state(self) -> dict[str, Any]:
        """As `Training.state`, in tensors of their own: a file holds one member, not the stack."""
        self._updates.fill_(self.step)
        return _own(super().state())


class Stack:
    """Members that take their steps together.

    Args:
        members: one or more, of configurations that `why_not` has nothing against. They may be
            at different steps.
        backend: how attention is computed.
    """

    def __init__(self, members: Sequence[Member], *, backend: Backend) -> None:
        self.members = list(members)
        first = self.members[0]
        self._device = first.device
        size = (len(self.members), first.parameters)
        self._flat, self._grad, self._first, self._second = (
            torch.zeros(size, device=self._device) for _ in range(4)
        )
        for k, member in enumerate(self.members):
            member.join(self._flat[k], (self._first[k], self._second[k]))
        places = first.places().values()
        self._weights = [_rows(self._flat, *place).requires_grad_() for place in places]
        self._weight_grads = [_rows(self._grad, *place) for place in places]
        weights = dict(zip(first.places(), self._weights, strict=True))
        shape = first.config.shape
        assert isinstance(shape, ModelShape)
        self._model = StackedTransformer(shape, weights, backend=backend)
        self._decayed = first.decayed
        self._numbers = _Numbers([m.config.optimizer for m in self.members], self._device)

    def advance(self) -> None:
        """Do one optimiser step of every member."""
        ids = torch.from_numpy(np.stack([m.tokens() for m in self.members])).to(self._device)
        losses = self._model.losses(ids[..., :-1], ids[..., 1:])
        # Not `backward`: it complains of gradients that, like these, are columns of an array.
        grads = torch.autograd.grad(losses.sum(), self._weights)
        for place, grad in zip(self._weight_grads, grads, strict=True):
            place.copy_(grad)
        norms = self._update()
        for member, loss, norm in zip(self.members, losses.detach(), norms, strict=True):
            member.stepped(loss, norm)

    @torch.no_grad()
    def _update(self) -> Tensor:
        """Clip and update as `Optimizer.step` does; the norms [K] before clipping."""
        numbers, grad = self._numbers, self._grad
        norms = torch.linalg.vector_norm(grad, dim=1)
        if numbers.clips:
            scale = (numbers.clip_norm / (norms[:, None] + 1e-6)).clamp_(max=1.0)
            grad.mul_(scale.masked_fill_(numbers.unclipped, 1.0))
        rates = [member.learning_rate() for member in self.members]
        decay, pace, root = numbers.of_step(rates, [m.step + 1 for m in self.members])
        decayed = self._flat[:, : self._decayed]
        if numbers.is_decoupled:
            decayed.mul_(decay)
        else:
            grad[:, : self._decayed].addcmul_(decayed, numbers.weight_decay)
        self._first.lerp_(grad, numbers.one_less_beta1)
        self._second.mul_(numbers.beta2).addcmul_(grad, grad * numbers.one_less_beta2)
        spread = self._second.sqrt().div_(root).add_(numbers.eps)
        self._flat.addcmul_(torch.div(self._first, spread, out=spread), pace, value=-1.0)
        return norms


class _Numbers:
    """The members' optimiser numbers as columns [K, 1], and those that change from step to step."""

    def __init__(self, configs: Sequence[OptimizerConfig], device: torch.device) -> None:
        self._configs, self._device = configs, device
        self.is_decoupled = configs[0].name == "adamw"
        self.clips = any(c.clip_norm > 0 for c in configs)
        self.clip_norm = self._column([c.clip_norm for c in configs])
        self.unclipped = self.clip_norm <= 0
        self.one_less_beta1 = self._column([1.0 - c.beta1 for c in configs])
        self.beta2 = self._column([c.beta2 for c in configs])
        self.one_less_beta2 = self._column([1.0 - c.beta2 for c in configs])
        self.eps = self._column([c.eps for c in configs])
        self.weight_decay = self._column([c.weight_decay for c in configs])

    def of_step(
        self, rates: Sequence[float], updates: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Factors of the decay and of the update, and the root of the second bias correction.

        Args:
            rates: learning rate of each member.
            updates: how many updates each has had, this one included.
        """
        rows = [
            (1.0 - rate * c.weight_decay, rate / (1.0 - c.beta1**n), (1.0 - c.beta2**n) ** 0.5)
            for c, rate, n in zip(self._configs, rates, updates, strict=True)
        ]
        decay, pace, root = torch.tensor(rows, device=self._device).T[..., None]
        return decay, pace, root

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=self._device)[:, None]


def _rows(flat: Tensor, place: slice, shape: torch.Size) -> Tensor:
    """A parameter of all members in their flat arrays [K, P]: a view, [K, ...]."""
    return flat[:, place].unflatten(1, shape or (1,))


def _own(value: Any) -> Any:
    """The same, each tensor in a storage of its own size."""
    if isinstance(value, Tensor):
        return value.clone(memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {key: _own(item) for key, item in value.items()}
    return value
