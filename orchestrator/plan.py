"""Budget + table so far -> Plan: every trial with its size, tokens, rules, price and memory.

Pure: the same budget, data facts, throughput and measurements give the same plan, so that the
plan can be printed before anything runs and rebuilt after a crash.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.budget import Budget
from orchestrator.designs import isoflop
from orchestrator.designs.isoflop import Centre, Measurement
from orchestrator.errors import BadInput, Fault
from orchestrator.lattice import lattice, nearest_shape
from orchestrator.throughput import Throughput, makespan_s
from orchestrator.units import format_count, format_flops
from trainer.config import OptimizerConfig, Precision, ScheduleConfig, TrainConfig
from trainer.flops import training_flops_per_token
from trainer.recipe import RuleValue, batch_tokens, learning_rate
from trainer.shapes import ModelShape, ParameterCounts, count_parameters

if TYPE_CHECKING:
    from trainer.data.facts import DataFacts

FEW_STEPS = 1000
"""Fewer steps than this are flagged: warmup and schedule are then a visible part of the loss."""
MANY_EPOCHS = 4.0
"""More epochs than this and repeated tokens are worth visibly less than fresh ones (Muennighoff et
al. 2023, arXiv 2305.16264, section 6): a single-epoch law no longer describes the runs."""
MIN_SIZES = 3
"""A level of fewer sizes has no minimum to look for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """What trials run on, as far as a plan needs it."""

    slots: int
    """Trials at a time."""
    throughput: Throughput
    """Speed of one slot."""
    precision: Precision
    """Arithmetic that `precision: auto` means here."""


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
    memory_bytes: float
    """Expected memory of weights, gradients, optimiser and activations."""
    epochs: float
    """Passes over the training tokens."""
    notes: tuple[str, ...] = ()
    """What a person should know about this trial."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """The trials of one compute level."""

    level: int
    """Level, from 1."""
    flops: float
    """Compute of each trial, FLOPs."""
    centre: Centre
    """Where its sizes are centred."""
    provisional: bool
    """Whether the centre will move when the levels below have been measured."""
    trials: tuple[Trial, ...]
    """Its trials, longest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything a budget will be spent on."""

    name: str
    """Name of the sweep."""
    budget_flops: float
    """Compute that may be charged, FLOPs."""
    target_flops: float
    """Compute of the run that the answer is for, FLOPs."""
    levels: tuple[Level, ...]
    """Levels, cheapest first."""
    slots: int
    """Trials at a time."""
    estimated_s: float
    """Expected duration of the sweep, seconds."""
    slot_hours: float
    """Expected GPU-hours (core-hours on CPUs)."""
    price: float | None
    """Expected price, when the budget names one."""
    data_exact: bool
    """Whether the data's counts are exact (prepared or byte data) or estimated."""
    warnings: tuple[str, ...] = ()
    """What a person should know before saying yes."""

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All trials, level by level."""
        return tuple(trial for level in self.levels for trial in level.trials)

    @property
    def cost_flops(self) -> float:
        """Compute of all trials with their evaluation, FLOPs."""
        return sum(trial.cost_flops for trial in self.trials)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, schema `sweep.plan/1`."""
        return {
            "schema": "sweep.plan/1",
            "name": self.name,
            "budget_flops": self.budget_flops,
            "planned_flops": self.cost_flops,
            "target_flops": self.target_flops,
            "slots": self.slots,
            "estimated_s": self.estimated_s,
            "slot_hours": self.slot_hours,
            "price": self.price,
            "data_exact": self.data_exact,
            "warnings": list(self.warnings),
            "levels": [
                {
                    "level": level.level,
                    "flops": level.flops,
                    "centre": dataclasses.asdict(level.centre),
                    "provisional": level.provisional,
                    "trials": [_trial_record(trial) for trial in level.trials],
                }
                for level in self.levels
            ],
        }


@dataclass(slots=True)
class _Notes:
    """Warnings of a plan under construction, each once, in order."""

    lines: dict[str, None] = field(default_factory=dict)

    def add(self, line: str) -> None:
        self.lines.setdefault(line)


def make_plan(
    budget: Budget,
    facts: DataFacts,
    hardware: Hardware,
    *,
    measurements: Sequence[Measurement] = (),
    budget_flops: float | None = None,
) -> Plan:
    """Plan the whole sweep as far as it can be known now.

    Args:
        budget: what was asked for.
        facts: counts of the data.
        hardware: what trials run on.
        measurements: finished trials; levels up to the highest of them keep the centre they had.
        budget_flops: the ceiling fixed when the sweep began; None: derived from the budget.

    Raises:
        BadInput: when the budget cannot pay for a plan that could have an answer.
    """
    ceiling = budget_flops if budget_flops is not None else _ceiling(budget, facts, hardware)
    return _plan(budget, facts, hardware, measurements, ceiling)


def plan_level(
    budget: Budget,
    facts: DataFacts,
    hardware: Hardware,
    *,
    level: int,
    flops: float,
    centre: Centre,
) -> tuple[tuple[Trial, ...], tuple[str, ...]]:
    """Trials of one level, longest first, and the warnings they raise."""
    notes = _Notes()
    wanted = isoflop.sizes(
        budget.design,
        flops,
        centre.tokens_per_parameter,
        lambda params: _flops_per_token_near(budget, facts, params),
    )
    shapes: list[ModelShape] = []
    for params in wanted:
        shape = nearest_shape(budget.model, facts.vocab_size, params, taken=frozenset(shapes))
        if shape is None:
            notes.add(
                f"level {level}: no shape near N = {format_count(params)}; that size is left out"
            )
        else:
            shapes.append(shape)
    trials = [
        trial
        for shape in shapes
        for seed in budget.training.seeds
        if (trial := _trial(budget, facts, hardware, level, flops, shape, seed, notes))
    ]
    trials.sort(key=lambda trial: (-trial.estimated_s, trial.counts.matmul, trial.config.seed))
    return tuple(trials), tuple(notes.lines)


def levels_of(budget: Budget, budget_flops: float) -> tuple[float, ...]:
    """Compute of one trial in each level, ascending, FLOPs."""
    spendable = budget_flops * (1 - budget.budget.reserve)
    return isoflop.level_flops(budget.design, spendable, len(budget.training.seeds))


def _plan(
    budget: Budget,
    facts: DataFacts,
    hardware: Hardware,
    measurements: Sequence[Measurement],
    ceiling: float,
) -> Plan:
    notes = _Notes()
    levels = _levels(budget, facts, hardware, measurements, ceiling, notes)
    _refuse_hopeless(budget, facts, hardware, ceiling, levels)
    _warn(budget, facts, levels, ceiling, notes)
    hours = _slot_s(levels) / 3600
    price = budget.budget.price_per_hour
    return Plan(
        name=budget.name,
        budget_flops=ceiling,
        target_flops=budget.target.flops or 10 * levels[-1].flops,
        levels=levels,
        slots=hardware.slots,
        estimated_s=_duration_s(levels, hardware.slots),
        slot_hours=hours,
        price=None if price is None else price * hours,
        data_exact=facts.exact,
        warnings=tuple(notes.lines),
    )


def _levels(
    budget: Budget,
    facts: DataFacts,
    hardware: Hardware,
    measurements: Sequence[Measurement],
    ceiling: float,
    notes: _Notes,
) -> tuple[Level, ...]:
    done = max((item.level for item in measurements), default=0)
    levels = []
    for number, flops in enumerate(levels_of(budget, ceiling), start=1):
        below = [item for item in measurements if item.level < number]
        centre = isoflop.centre(budget.design, below)
        trials, lines = plan_level(
            budget, facts, hardware, level=number, flops=flops, centre=centre
        )
        for line in lines:
            notes.add(line)
        levels.append(
            Level(
                level=number,
                flops=flops,
                centre=centre,
                provisional=number > done + 1,
                trials=trials,
            )
        )
    return tuple(levels)


def _slot_s(levels: Sequence[Level]) -> float:
    return sum(trial.estimated_s for level in levels for trial in level.trials)


def _duration_s(levels: Sequence[Level], slots: int) -> float:
    """Wall-clock of the levels one after the other, seconds."""
    return sum(makespan_s([trial.estimated_s for trial in level.trials], slots) for level in levels)


def _trial(
    budget: Budget,
    facts: DataFacts,
    hardware: Hardware,
    level: int,
    flops_target: float,
    shape: ModelShape,
    seed: int,
    notes: _Notes,
) -> Trial | None:
    training = budget.training
    counts = count_parameters(shape)
    per_token = training_flops_per_token(shape)
    wanted_tokens = flops_target / per_token.total
    sequences = _batch_sequences(budget, counts, wanted_tokens, flops_target)
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
    rate = _learning_rate(budget, counts, tokens, step_tokens, flops)
    warmup = round(training.warmup_fraction * steps)
    cooldown = round(training.cooldown_fraction * steps) if training.schedule == "wsd" else 0
    config = TrainConfig(
        shape=shape,
        data_digest=facts.digest or "",
        steps=steps,
        batch_sequences=sequences,
        validation_tokens=_validation_tokens(budget, facts),
        seed=seed,
        optimizer=OptimizerConfig(
            learning_rate=rate.value,
            beta1=training.beta1,
            beta2=training.beta2,
            weight_decay=training.weight_decay,
            clip_norm=training.clip_norm,
        ),
        schedule=ScheduleConfig(
            name=training.schedule, warmup_steps=warmup, cooldown_steps=cooldown
        ),
        precision=hardware.precision if training.precision == "auto" else training.precision,
    )
    epochs = tokens / facts.train_tokens
    remarks = []
    if steps < FEW_STEPS:
        remarks.append(f"only {steps} steps")
    if epochs > 1:
        remarks.append(f"{epochs:.1f} epochs")
    if rate.clamped:
        remarks.append("learning rate clamped")
    step_s = hardware.throughput.step_s(
        n_layer=shape.n_layer, flops_per_step=per_token.total * step_tokens
    )
    evaluation_tokens = config.validation_tokens
    seed_mark = f" · seed {seed}" if len(training.seeds) > 1 else ""
    return Trial(
        level=level,
        label=f"L{level} · {format_count(counts.matmul)} · {tokens / counts.matmul:.3g} tok/param"
        + seed_mark,
        flops_target=flops_target,
        config=config,
        counts=counts,
        flops=flops,
        evaluation_flops=per_token.forward * evaluation_tokens,
        learning_rate_source=rate.source,
        estimated_s=steps * step_s + evaluation_tokens / step_tokens * step_s / 3,
        memory_bytes=_memory_bytes(shape, counts, sequences),
        epochs=epochs,
        notes=tuple(remarks),
    )


def _batch_sequences(budget: Budget, counts: ParameterCounts, tokens: float, flops: float) -> int:
    context = budget.model.context
    asked = budget.training.batch_tokens
    if asked != "auto":
        return max(1, round(asked / context))
    rule = batch_tokens("steplaw", params=counts.body, tokens=tokens, flops=flops, context=context)
    return max(1, round(min(rule.value, tokens / (2 * FEW_STEPS)) / context))


def _learning_rate(
    budget: Budget, counts: ParameterCounts, tokens: int, step_tokens: int, flops: float
) -> RuleValue:
    asked = budget.training.learning_rate
    if not isinstance(asked, str):
        return RuleValue(value=asked, clamped=False, source="the budget's number")
    params = counts.body if asked == "steplaw" else counts.matmul
    return learning_rate(asked, params=params, tokens=tokens, batch_tokens=step_tokens, flops=flops)


def _validation_tokens(budget: Budget, facts: DataFacts) -> int:
    """Held-out tokens of every trial: what was asked, or all there are, in whole sequences."""
    context = budget.model.context
    available = min(int(budget.data.validation_tokens), facts.validation_tokens - 1)
    return max(context, available // context * context)


def _memory_bytes(shape: ModelShape, counts: ParameterCounts, sequences: int) -> float:
    """Weights, gradients and two moments in fp32, and the activations one backward pass keeps.

    A rough upper estimate: per token and layer about 16 widths and 3 feed-forward widths, one
    score per head and position, and one row of logits.
    """
    tokens = sequences * shape.context
    per_layer = 16 * shape.d_model + 3 * shape.d_ff + shape.n_head * shape.context
    return 16.0 * counts.total + 4.0 * tokens * (shape.n_layer * per_layer + 2 * shape.vocab_size)


def _flops_per_token_near(budget: Budget, facts: DataFacts, params: float) -> float:
    shape = nearest_shape(budget.model, facts.vocab_size, params)
    if shape is None:
        return 6.0 * params
    per_token = training_flops_per_token(shape).total
    return per_token * params / count_parameters(shape).matmul


def _ceiling(budget: Budget, facts: DataFacts, hardware: Hardware) -> float:
    """The budget in FLOPs; time is converted by what the plan that it pays for takes here."""
    spending = budget.budget
    if spending.flops is not None:
        return spending.flops
    if spending.wall_clock is not None:
        seconds = spending.wall_clock * (1 - spending.reserve)
    else:
        seconds = (spending.gpu_hours or spending.cpu_hours or 0.0) * 3600

    def time_of(ceiling: float) -> float:
        levels = _levels(budget, facts, hardware, (), ceiling, _Notes())
        if spending.wall_clock is not None:
            return _duration_s(levels, hardware.slots)
        return _slot_s(levels)

    # A plan's time grows with its compute up to the largest shape of the lattice; bisect in ln C.
    low, high = 1e6, _largest_ceiling(budget, facts)
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if time_of(middle) <= seconds else (low, middle)
    return low


def _largest_ceiling(budget: Budget, facts: DataFacts) -> float:
    """The budget whose top level is centred on the largest shape there is."""
    params, shape = lattice(budget.model, facts.vocab_size)[-1]
    ratio = budget.design.tokens_per_parameter
    top = params * ratio * training_flops_per_token(shape).total
    return top / levels_of(budget, 1.0)[-1]


def _refuse_hopeless(
    budget: Budget, facts: DataFacts, hardware: Hardware, ceiling: float, levels: Sequence[Level]
) -> None:
    """A level without three sizes cannot show a minimum: say the least that would do."""
    poor = next((level for level in levels if _sizes(level) < MIN_SIZES), None)
    if poor is None:
        return
    if isinstance(budget.design.levels, tuple):
        remedy = "raise design.levels"
    else:
        least = _least_ceiling(budget, facts, hardware, ceiling)
        remedy = f"raise the budget to about {format_flops(least)} FLOPs"
    raise BadInput(
        Fault(
            code="SWP-1201",
            rule=f"every level needs at least {MIN_SIZES} sizes of {budget.training.min_steps} "
            f"steps or more; level {poor.level} of {format_flops(poor.flops)} FLOPs has "
            f"{_sizes(poor)}",
            place="budget",
            remedy=f"{remedy}, or lower training.batch_tokens, model.context or "
            "training.min_steps, or use fewer levels",
        )
    )


def _least_ceiling(budget: Budget, facts: DataFacts, hardware: Hardware, ceiling: float) -> float:
    """The smallest budget, to 2 %, all of whose levels have enough sizes, FLOPs."""
    low, high = ceiling, _largest_ceiling(budget, facts)
    while high / low > 1.02:
        middle = math.sqrt(low * high)
        levels = _levels(budget, facts, hardware, (), middle, _Notes())
        enough = all(_sizes(level) >= MIN_SIZES for level in levels)
        low, high = (low, middle) if enough else (middle, high)
    return high * 1.02  # printed with three digits: never rounded below what works


def _sizes(level: Level) -> int:
    return len({trial.config.shape for trial in level.trials})


def _warn(
    budget: Budget,
    facts: DataFacts,
    levels: Sequence[Level],
    ceiling: float,
    notes: _Notes,
) -> None:
    trials = [trial for level in levels for trial in level.trials]
    few = sum(trial.config.steps < FEW_STEPS for trial in trials)
    if few:
        notes.add(
            f"{few} of {len(trials)} trials have fewer than {FEW_STEPS} steps: smaller "
            "training.batch_tokens give more"
        )
    worst = max(trial.epochs for trial in trials)
    if worst > 1:
        repeated = sum(trial.epochs > 1 for trial in trials)
        serious = " More than 4 epochs bend the law." if worst > MANY_EPOCHS else ""
        notes.add(
            f"the corpus has {format_count(facts.train_tokens)} training tokens; "
            f"{repeated} of {len(trials)} trials read it more than once (at most {worst:.1f} "
            f"epochs).{serious}"
        )
    clamped = sum("learning rate clamped" in trial.notes for trial in trials)
    if clamped:
        notes.add(f"the learning-rate rule is clamped at its bounds in {clamped} trials")
    if len(levels) < 3:
        notes.add(
            f"{len(levels)} level(s) cannot show how the ratio changes with compute: use 3 or more"
        )
    cost = sum(trial.cost_flops for trial in trials)
    if cost > ceiling:
        notes.add(
            f"the plan costs {format_flops(cost)} FLOPs, more than the budget of "
            f"{format_flops(ceiling)}: the last trials will not be started"
        )
    asked = int(budget.data.validation_tokens)
    if asked > facts.validation_tokens:
        notes.add(
            f"only {format_count(facts.validation_tokens)} held-out tokens exist of the "
            f"{format_count(asked)} asked for"
        )


def _trial_record(trial: Trial) -> Mapping[str, Any]:
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
    }
