"""One planned training run: a point of a design as a real shape, whole steps, rules and cost."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.budget import Budget
from orchestrator.designs.base import Point, Round
from orchestrator.hyperparameters import (
    FEW_STEPS,
    batch_sequences,
    decay,
    peak_learning_rate,
    warmup_share,
)
from orchestrator.lattice import nearest_shape
from orchestrator.placement import Placement
from orchestrator.throughput import Throughput
from orchestrator.units import format_count, format_flops
from trainer.config import OptimizerConfig, Precision, ScheduleConfig, TrainConfig
from trainer.counts import ParameterCounts
from trainer.flops import training_flops_per_token
from trainer.footprint import training_bytes
from trainer.foreign import ForeignShape
from trainer.shapes import Shape, count_parameters

if TYPE_CHECKING:
    from trainer.data.facts import DataFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """What trials run on, as far as a plan needs it."""

    slots: int
    """Trials at a time."""
    throughput: Throughput
    """Speed of one device."""
    precision: Precision
    """Arithmetic that `precision: auto` means here."""
    placement: Placement = field(default_factory=Placement)
    """What one trial is given of the devices."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One planned training run."""

    level: int
    """Level, from 1."""
    label: str
    """Readable name; facts are never read from it."""
    flops_target: float
    """Compute of the level, FLOPs."""
    config: TrainConfig
    """What will be trained."""
    counts: ParameterCounts
    """Its parameters by component."""
    flops: float
    """Training FLOPs, exact count."""
    evaluation_flops: float
    """FLOPs of the held-out evaluation."""
    learning_rate_source: str
    """Where the learning rate comes from."""
    estimated_s: float
    """Expected duration, seconds."""
    devices: float
    """GPUs that it occupies for so long, or cores where it runs on none."""
    slots: int
    """Slots that these are: one, or more where smaller models have fewer GPUs."""
    memory_bytes: float
    """Expected memory of weights, gradients, optimiser and activations."""
    epochs: float
    """Passes over the training tokens."""
    notes: tuple[str, ...] = ()
    """What a person should know about this trial."""
    why: str = ""
    """Why the design asks for it; empty when the round's reason says it all."""

    @property
    def trial_id(self) -> str:
        """Identity: the hash of everything that can change the loss."""
        return self.config.trial_id

    @property
    def tokens_per_parameter(self) -> float:
        """D/N with N = matmul parameters."""
        return self.config.tokens / self.counts.matmul

    @property
    def cost_flops(self) -> float:
        """What the trial charges when nothing goes wrong: training and evaluation."""
        return self.flops + self.evaluation_flops


@dataclass(slots=True)
class Notes:
    """Warnings of a plan under construction, each once, in order."""

    lines: dict[str, None] = field(default_factory=dict)

    def add(self, line: str) -> None:
        """Keep a line, unless it is there already."""
        self.lines.setdefault(line)


def plan_trial(
    budget: Budget,
    facts: DataFacts,
    hardware: Hardware,
    asked: Round,
    point: Point,
    shape: Shape,
    seed: int,
    notes: Notes,
) -> Trial | None:
    """A point as a trial; None, with a note, when it would have too few steps."""
    training = budget.training
    counts = count_parameters(shape)
    per_token = training_flops_per_token(shape)
    if point.flops is not None:
        wanted_tokens, flops_target = point.flops / per_token.total, point.flops
    else:
        scale = counts.matmul / point.params if point.keep_ratio else 1.0
        wanted_tokens = float(point.tokens or 0.0) * scale
        flops_target = wanted_tokens * per_token.total
    sequences, batch_clamped = batch_sequences(
        budget, counts, tokens=wanted_tokens, flops=flops_target
    )
    step_tokens = sequences * shape.context
    # Rounded down: a level is a ceiling, and every trial of it stays within one step of it.
    steps = int(wanted_tokens * (1 + 1e-12) // step_tokens)
    size = f"N = {format_count(counts.matmul)} at {format_flops(flops_target)} FLOPs"
    if steps < training.min_steps:
        notes.add(
            f"{size} is left out: {steps} steps of {step_tokens} tokens, under "
            f"training.min_steps = {training.min_steps}"
        )
        return None
    tokens = steps * step_tokens
    flops = per_token.total * tokens
    rate = peak_learning_rate(budget, counts, tokens=tokens, step_tokens=step_tokens, flops=flops)
    weight_decay = decay(
        budget, counts, tokens=tokens, step_tokens=step_tokens, flops=flops, rate=rate.value
    )
    warming = warmup_share(budget, counts, tokens=tokens, step_tokens=step_tokens, flops=flops)
    warmup = training.warmup_steps
    if warmup is None:
        warmup = round(warming.value * steps)
    cooldown = round(training.cooldown_fraction * steps) if training.schedule == "wsd" else 0
    config = TrainConfig(
        shape=shape,
        data_digest=facts.digest or "",
        steps=steps,
        batch_sequences=sequences,
        validation_tokens=validation_tokens(budget, facts),
        seed=seed,
        optimizer=OptimizerConfig(
            learning_rate=rate.value,
            beta1=training.beta1,
            beta2=training.beta2,
            weight_decay=weight_decay.value,
            clip_norm=training.clip_norm,
        ),
        schedule=ScheduleConfig(
            name=training.schedule, warmup_steps=warmup, cooldown_steps=cooldown
        ),
        init="own" if isinstance(shape, ForeignShape) else "scaled",
        precision=hardware.precision if training.precision == "auto" else training.precision,
    )
    epochs = tokens / facts.train_tokens
    remarks = []
    if steps < FEW_STEPS:
        remarks.append(f"only {steps} steps")
    if epochs > 1:
        remarks.append(f"{epochs:.1f} epochs")
    clamped = {
        "learning rate": rate.clamped,
        "batch": batch_clamped,
        "weight decay": weight_decay.clamped,
        "warmup": warming.clamped and training.warmup_steps is None,
    }
    remarks += [f"{name} clamped" for name, is_clamped in clamped.items() if is_clamped]
    evaluation_tokens = config.validation_tokens
    devices = hardware.placement.devices_of(counts.matmul, batch_sequences=sequences)
    seed_mark = f" · seed {seed}" if len(training.seeds) > 1 or point.replicate else ""
    return Trial(
        level=asked.number,
        label=f"L{asked.number} · {format_count(counts.matmul)} · "
        f"{format_count(tokens / counts.matmul)} tok/param" + seed_mark,
        flops_target=flops_target,
        config=config,
        counts=counts,
        flops=flops,
        evaluation_flops=per_token.forward * evaluation_tokens,
        learning_rate_source=rate.source,
        estimated_s=_duration_s(
            shape,
            hardware,
            devices,
            steps=steps,
            step_tokens=step_tokens,
            validation=evaluation_tokens,
        ),
        devices=devices,
        slots=max(1, math.ceil(devices / hardware.placement.least - 1e-9)),
        memory_bytes=training_bytes(shape, sequences=sequences),
        epochs=epochs,
        notes=tuple(remarks),
        why=point.reason,
    )


def validation_tokens(budget: Budget, facts: DataFacts) -> int:
    """Held-out tokens of every trial: what was asked, or all there are, in whole sequences."""
    context = budget.model.context
    available = min(int(budget.data.validation_tokens), facts.validation_tokens - 1)
    return max(context, available // context * context)


def duration_near(
    budget: Budget, facts: DataFacts, hardware: Hardware, *, params: float, tokens: float
) -> float:
    """Expected duration of a run with about `params` matmul parameters, seconds."""
    shape = nearest_shape(budget.model, facts.vocab_size, params)
    if shape is None:
        return 6.0 * params * tokens / hardware.throughput.flops_per_s
    flops = training_flops_per_token(shape).total * tokens
    counts = count_parameters(shape)
    sequences, _ = batch_sequences(budget, counts, tokens=tokens, flops=flops)
    step_tokens = sequences * shape.context
    return _duration_s(
        shape,
        hardware,
        hardware.placement.devices_of(counts.matmul, batch_sequences=sequences),
        steps=round(tokens / step_tokens),
        step_tokens=step_tokens,
        validation=validation_tokens(budget, facts),
    )


def _duration_s(
    shape: Shape,
    hardware: Hardware,
    devices: float,
    *,
    steps: int,
    step_tokens: int,
    validation: int,
) -> float:
    """Seconds of training and of the held-out evaluation, whose steps cost a third."""
    step_s = hardware.throughput.step_s(
        n_layer=shape.n_layer,
        flops_per_step=training_flops_per_token(shape).total * step_tokens,
        devices=devices,
    )
    return steps * step_s + validation / step_tokens * step_s / 3


def flops_per_token_near(budget: Budget, facts: DataFacts, params: float) -> float:
    """Training FLOPs per token of a model with about `params` matmul parameters."""
    shape = nearest_shape(budget.model, facts.vocab_size, params)
    if shape is None:
        return 6.0 * params
    per_token = training_flops_per_token(shape).total
    return per_token * params / count_parameters(shape).matmul


def trial_record(trial: Trial) -> Mapping[str, Any]:
    """A trial as plain values, for `plan.json`."""
    return {
        "trial_id": trial.trial_id if trial.config.data_digest else None,
        "label": trial.label,
        "params": {
            name: getattr(trial.counts, name)
            for name in ("total", "body", "embedding", "head", "matmul", "active")
        },
        "shape": dataclasses.asdict(trial.config.shape),
        "tokens": trial.config.tokens,
        "tokens_per_parameter": trial.tokens_per_parameter,
        "flops": trial.flops,
        "learning_rate": trial.config.optimizer.learning_rate,
        "learning_rate_source": trial.learning_rate_source,
        "batch_tokens": trial.config.batch_tokens,
        "steps": trial.config.steps,
        "seed": trial.config.seed,
        "epochs": trial.epochs,
        "estimated_s": trial.estimated_s,
        "memory_bytes": trial.memory_bytes,
        "notes": list(trial.notes),
        **({"why": trial.why} if trial.why else {}),
    }


def added_record(trial: Trial) -> dict[str, Any]:
    """A trial as the journal keeps one that no round asked for."""
    return {
        "trial_id": trial.trial_id,
        "label": trial.label,
        "flops_target": trial.flops_target,
        "config": json.loads(trial.config.to_json()),
    }
