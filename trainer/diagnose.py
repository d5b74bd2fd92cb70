"""Checks of an architecture before a sweep spends anything on it, in seconds.

Each check is one sentence about what must hold, and each is there for a mistake that cost
somebody days: a mask that is off, targets that are shifted wrongly, a softmax over the wrong axis,
a residual cut off from the gradient, embeddings drawn with variance one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.batches import TokenBatches, inputs_and_targets
from trainer.config import OptimizerConfig, TrainConfig
from trainer.flops import training_flops_per_token
from trainer.foreign import ForeignShape
from trainer.generate import generate
from trainer.model.build import build_model
from trainer.model.language_model import LanguageModel
from trainer.optim import Optimizer
from trainer.shapes import ModelShape, Shape, preset

FIRST_LOSS_TOLERANCE = 0.5
"""Nats that the first loss may lie away from ln V."""

OVERFIT_TOKENS = 3072
"""Tokens of the batch that must be learnt by heart."""

OVERFIT_LOSS = 0.1
"""Nats per token at which they count as learnt."""

OVERFIT_STEPS = 600
"""Steps after which learning them has failed."""

LEAST_STEPS = 150
"""Steps in which most sound architectures have learnt them (70 to 110); fewer prove nothing."""

RECITED = 0.75
"""Least share of what was learnt that greedy decoding must say: a model that decodes otherwise than
it learns says hardly a token right, and one wrong token leads a sound one astray for a row."""

_DERIVATIVE_TOLERANCE = 1e-4
_CONTINUATION = 16

Build = Callable[[Shape], LanguageModel]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One sentence about a model and whether it holds."""

    name: str
    """Short name of the check."""
    passed: bool
    """Whether it holds."""
    message: str
    """What was found, with numbers."""
    flops: float = 0.0
    """Compute that it cost where that counts: the training of the overfitting check, FLOPs."""


def diagnose(
    config: TrainConfig,
    tokens: NDArray[Any],
    *,
    build: Build | None = None,
    allowed_flops: float = math.inf,
) -> tuple[Check, ...]:
    """Check the architecture and the data of a planned run.

    Args:
        config: the run; loss, gradient and causality are checked at its own shape, learning by
            heart at a width where any sound architecture can do it.
        tokens: training tokens.
        build: makes the model of a shape; for models of your own.
        allowed_flops: most that learning by heart may cost; where that is less than it takes, it
            is left out.

    Returns:
        The checks: first loss, targets, causality; and gradient, overfitting, recital, except for
        models of other code, which may know no fp64 and of which no small sibling is known. Where
        learning by heart costs too much the last two are left out.
    """
    make = build or (lambda shape: build_model(dataclasses.replace(config, shape=shape)))
    batches = TokenBatches(
        tokens,
        context=config.shape.context,
        batch_sequences=min(config.batch_sequences, 8),
        seed=config.seed,
        order=config.order,
    )
    ids = torch.from_numpy(batches.at(0))
    model = make(config.shape).eval()
    found = [check_first_loss(model, ids), check_targets(ids), check_causality(model, ids)]
    if isinstance(config.shape, ForeignShape):
        return tuple(found)
    found.append(check_gradient(make(config.shape), ids))
    small = reference_shape(config.shape)
    step_flops = training_flops_per_token(small).total * OVERFIT_TOKENS
    steps = int(min(OVERFIT_STEPS, allowed_flops / step_flops))
    if steps < LEAST_STEPS:
        return tuple(found)
    rows = TokenBatches(
        tokens,
        context=small.context,
        batch_sequences=max(1, OVERFIT_TOKENS // small.context),
        seed=config.seed,
        order=config.order,
    )
    return (*found, *check_overfitting(make(small), torch.from_numpy(rows.at(0)), steps=steps))


def reference_shape(shape: ModelShape) -> ModelShape:
    """The same parts at width 64, two layers, four heads and at most 32 tokens of context."""
    family = "deepseek" if shape.latent is not None else "llama"
    sizes = {
        "d_model": 64,
        "n_layer": 2,
        "n_head": 4,
        "vocab_size": shape.vocab_size,
        "context": min(shape.context, 32),
    }
    parts = {
        name: getattr(shape, name)
        for name in (
            *("position", "norm", "activation", "tied_head", "bias", "qkv_bias", "head_bias"),
            *("residual", "rotary_layout"),
        )
    }
    gated = shape.activation == "swiglu"
    small = preset(family, **sizes, **parts, d_ff=168 if gated else 256, experts=None)
    if shape.experts is not None:
        experts = dataclasses.replace(shape.experts, d_expert=84 if gated else 128)
        small = dataclasses.replace(small, experts=experts)
    if shape.latent is None and shape.n_kv_head < shape.n_head:
        small = dataclasses.replace(small, n_kv_head=1 if shape.n_kv_head == 1 else 2)
    return small


@torch.no_grad()
def check_first_loss(model: LanguageModel, ids: Tensor) -> Check:
    """An untrained model must guess uniformly: its loss is ln V."""
    loss = float(model.loss(*inputs_and_targets(ids)))
    uniform = math.log(model.shape.vocab_size)
    return Check(
        name="first loss",
        passed=abs(loss - uniform) < FIRST_LOSS_TOLERANCE,
        message=f"loss before training {loss:.3f}, ln V = {uniform:.3f}; they must agree to "
        f"{FIRST_LOSS_TOLERANCE}",
    )


def check_targets(ids: Tensor) -> Check:
    """The target of a position must be the token after it."""
    inputs, targets = inputs_and_targets(ids)
    shifted = inputs.shape == targets.shape and torch.equal(inputs[:, 1:], targets[:, :-1])
    ends = torch.equal(inputs[:, 0], ids[:, 0]) and torch.equal(targets[:, -1], ids[:, -1])
    return Check(
        name="targets",
        passed=shifted and ends,
        message="targets are the inputs shifted by one"
        if shifted and ends
        else f"targets {targets[0, :8].tolist()} are not what follows {inputs[0, :8].tolist()}",
    )


@torch.no_grad()
def check_causality(model: LanguageModel, ids: Tensor) -> Check:
    """Changing a token must move no logit before it, and must move its own."""
    inputs, _ = inputs_and_targets(ids[:1])
    length = inputs.shape[1]
    before = model(inputs)
    for place in sorted({1, length // 2, length - 1}):
        changed = inputs.clone()
        changed[:, place:] = (changed[:, place:] + 1) % model.shape.vocab_size
        moved = (model(changed) - before).abs()[0].amax(-1)
        # Rounding may differ where other rows of a product do.
        limit = 1e-4 * float(before.abs().max())
        if moved[:place].max() > limit:
            earlier = int((moved[:place] > limit).nonzero()[0])
            message = f"changing token {place} moved the logits at position {earlier} before it"
            return Check(name="causality", passed=False, message=message)
        if not moved[place] > 0:
            message = f"changing token {place} did not move its own logits"
            return Check(name="causality", passed=False, message=message)
    return Check(name="causality", passed=True, message="no logit depends on a later token")


def check_gradient(model: LanguageModel, ids: Tensor) -> Check:
    """The gradient must be the slope of the loss along a random direction (in fp64)."""
    model = model.double().eval()
    inputs, targets = inputs_and_targets(ids[:1])
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(0)
    direction = [
        torch.randn(p.shape, generator=generator, dtype=torch.float64) * (p.detach().std() + 1e-3)
        if p.numel() > 1
        else torch.full(p.shape, 1e-3, dtype=torch.float64)
        for p in parameters
    ]
    loss = model.loss(inputs, targets)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    slope = sum(
        float((g * d).sum()) for g, d in zip(gradients, direction, strict=True) if g is not None
    )
    measured = _slope(model, parameters, direction, inputs, targets)
    error = abs(slope - measured) / max(abs(measured), 1e-12)
    return Check(
        name="gradient",
        passed=error < _DERIVATIVE_TOLERANCE,
        message=f"slope by gradient {slope:.6g}, by differences {measured:.6g}: relative error "
        f"{error:.1e}, must be below {_DERIVATIVE_TOLERANCE}",
    )


@torch.no_grad()
def _slope(
    model: LanguageModel,
    parameters: list[torch.nn.Parameter],
    direction: list[Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    size: float = 1e-5,
) -> float:
    losses = []
    for shift in (size, -2.0 * size):
        for parameter, along in zip(parameters, direction, strict=True):
            parameter.add_(along, alpha=shift)
        losses.append(float(model.loss(inputs, targets)))
    return (losses[0] - losses[1]) / (2.0 * size)


def check_overfitting(
    model: LanguageModel, ids: Tensor, *, steps: int | None = None
) -> tuple[Check, Check]:
    """A small batch must be learnt by heart in a bounded number of steps, and recited."""
    limit = OVERFIT_STEPS if steps is None else steps
    optimizer = Optimizer(model.train(), OptimizerConfig(learning_rate=4e-3, weight_decay=0.0))
    inputs, targets = inputs_and_targets(ids)
    value, done = math.inf, 0
    while done < limit and not value < OVERFIT_LOSS:
        loss = model.loss(inputs, targets)
        loss.backward()
        done += 1
        optimizer.step(4e-3 * min(1.0, done / 20))
        value = float(loss.detach())
    learnt = Check(
        name="overfitting",
        passed=value < OVERFIT_LOSS,
        message=f"loss {value:.4f} on {inputs.numel()} tokens after {done} steps; it must "
        f"fall below {OVERFIT_LOSS} within {limit}",
        flops=training_flops_per_token(model.shape).total * inputs.numel() * done,
    )
    return learnt, _check_recital(model.eval(), ids)


def _check_recital(model: LanguageModel, ids: Tensor) -> Check:
    right = total = 0
    half = ids.shape[1] // 2
    for row in ids[:8].tolist():
        expected = row[half : half + _CONTINUATION]
        said = generate(model, row[:half], count=len(expected))
        right += sum(a == b for a, b in zip(said, expected, strict=True))
        total += len(expected)
    return Check(
        name="recital",
        passed=right >= RECITED * total,
        message=f"greedy decoding recited {right} of {total} learnt tokens; "
        f"{RECITED:.0%} are needed",
    )
