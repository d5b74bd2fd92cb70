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

from orchestrator.budget import (
    AdaptiveDesign,
    Budget,
    FileDesign,
    GridDesign,
    IsoflopDesign,
    LadderDesign,
)
from orchestrator.designs.base import (
    Centre,
    Designer,
    Ground,
    Measurement,
    Opened,
    Point,
    Progress,
    Round,
    Size,
)
from orchestrator.designs.fixed import LEAST_SPAN, narrow_span, points_of
from orchestrator.designs.isoflop import level_flops
from orchestrator.designs.kinds import designer
from orchestrator.errors import BadInput, Fault
from orchestrator.lattice import lattice, nearest_shape, real_shape, size_ladder
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
MIN_TRIALS = 6
"""Fewer runs than this leave nothing over after a law of five parameters."""
_RATE_CORRECTIONS = 6
"""Rounds of turning hours into FLOPs by the plan that they pay for; the rate settles in three."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """The trials of one round: of a compute level, or of a batch of points."""

    level: int
    """Level, from 1."""
    flops: float
    """Compute of each trial, of the dearest one in a round that is not even, FLOPs."""
    centre: Centre
    """Where its sizes are centred."""
    provisional: bool
    """Whether it will move when the rounds before it have been measured."""
    trials: tuple[Trial, ...]
    """Its trials, longest first."""
    even: bool = True
    """Whether it is a level: all of its trials of equal compute."""


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
                    **({} if level.even else {"even": False}),
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


def design_of(budget: Budget, facts: DataFacts, *, budget_flops: float) -> Designer:
    """The budget's design, ready to be asked for its rounds; arguments as of `ground_of`."""
    ground = ground_of(budget, facts, budget_flops=budget_flops)
    return designer(budget.design, ground, points=_known_points(budget, facts))


def ground_of(budget: Budget, facts: DataFacts, *, budget_flops: float) -> Ground:
    """What a budget's designs may ask for.

    Args:
        budget: what was asked for.
        facts: counts of the data.
        budget_flops: compute that may be charged, FLOPs.
    """
    context = budget.model.context
    asked = budget.training.batch_tokens
    sequences = 1 if asked == "auto" else max(1, round(asked / context))

    def sizes() -> tuple[Size, ...]:
        return tuple(
            Size(
                shape=shape,
                params=params,
                flops_per_token=training_flops_per_token(shape).total,
            )
            for params, shape in size_ladder(budget.model, facts.vocab_size)
        )

    return Ground(
        spendable=budget_flops * (1 - budget.budget.reserve),
        target_flops=budget.target.flops,
        seeds=len(budget.training.seeds),
        flops_per_token=lambda params: _flops_per_token_near(budget, facts, params),
        sizes=sizes,
        min_tokens=budget.training.min_steps * sequences * context,
        evaluation_tokens=_validation_tokens(budget, facts),
    )


def plan_round(
    budget: Budget, facts: DataFacts, hardware: Hardware, asked: Round
) -> tuple[tuple[Trial, ...], tuple[str, ...]]:
    """Trials of one round, longest first, and the warnings they raise."""
    notes = _Notes()
    shapes = _shapes(budget, facts, asked, notes)
    found: dict[tuple[ModelShape, int, int], Trial] = {}
    for point in asked.points:
        shape = point.shape or shapes.get(point.params)
        if shape is None:
            continue
        for seed in _seeds(budget, point):
            trial = _trial(budget, facts, hardware, asked, point, shape, seed, notes)
            if trial is None:
                continue
            if found.setdefault((shape, trial.config.steps, seed), trial) is not trial:
                notes.add("points that come to the same shape and tokens are trained once")
    trials = list(found.values())
    trials.sort(key=lambda trial: (-trial.estimated_s, trial.counts.matmul, trial.config.seed))
    return tuple(trials), tuple(notes.lines)


def _known_points(budget: Budget, facts: DataFacts) -> tuple[Point, ...]:
    """Points of a design that knows all of them beforehand."""
    design = budget.design
    if isinstance(design, GridDesign | LadderDesign):
        return points_of(design)
    if not isinstance(design, FileDesign):
        return ()
    points = []
    for number, listed in enumerate(design.points or (), start=1):
        shape = None
        if listed.shape is not None:
            s = listed.shape
            shape = real_shape(
                budget.model,
                facts.vocab_size,
                d_model=s.d_model,
                n_layer=s.n_layer,
                n_head=s.n_head,
            )
        params = listed.params if shape is None else count_parameters(shape).matmul
        points.append(
            Point(
                params=float(params or 0.0),
                shape=shape,
                tokens=listed.tokens,
                reason=f"point {number} of the list",
            )
        )
    return tuple(points)


def _shapes(
    budget: Budget, facts: DataFacts, asked: Round, notes: _Notes
) -> dict[float, ModelShape]:
    """A shape for every different size that a round asks for; in a level, one of its own."""
    shapes: dict[float, ModelShape] = {}
    for params in dict.fromkeys(point.params for point in asked.points if point.shape is None):
        taken = frozenset(shapes.values()) if asked.even else frozenset()
        shape = nearest_shape(budget.model, facts.vocab_size, params, taken=taken)
        if shape is None:
            notes.add(
                f"level {asked.number}: no shape near N = {format_count(params)}; that size is "
                "left out"
            )
        else:
            shapes[params] = shape
    return shapes


def _seeds(budget: Budget, point: Point) -> tuple[int, ...]:
    seeds = budget.training.seeds
    return (max(seeds) + point.replicate,) if point.replicate else seeds


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
    _refuse_narrow(budget, facts, notes)
    _warn(budget, facts, levels, ceiling, notes)
    hours = _slot_s(levels) / 3600
    price = budget.budget.price_per_hour
    return Plan(
        name=budget.name,
        budget_flops=ceiling,
        target_flops=budget.target.flops or 10 * max(level.flops for level in levels),
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
    """Every round, asked for as if the losses at hand were all that will be known."""
    done = max((item.level for item in measurements), default=0)
    design = design_of(budget, facts, budget_flops=ceiling)
    levels: list[Level] = []
    opened: list[Opened] = []
    barren = False
    while True:
        number = len(levels) + 1
        progress = Progress(
            rounds=len(levels),
            opened=opened,
            measurements=[item for item in measurements if item.level < number],
            settled=min(done, number - 1),
        )
        asked = design.propose(progress)
        if asked is None or barren:
            return tuple(levels)
        trials, lines = plan_round(budget, facts, hardware, asked)
        for line in lines:
            notes.add(line)
        levels.append(
            Level(
                level=number,
                flops=asked.flops,
                centre=asked.centre,
                provisional=design.learns and number > done + 1,
                trials=trials,
                even=asked.even,
            )
        )
        opened += [_opened(trial) for trial in trials]
        # A batch of which nothing can be trained would be asked for again and again.
        barren = not trials and not asked.even


def _opened(trial: Trial) -> Opened:
    return Opened(
        level=trial.level,
        params=trial.counts.matmul,
        tokens=trial.config.tokens,
        cost_flops=trial.cost_flops,
    )


def _slot_s(levels: Sequence[Level]) -> float:
    return sum(trial.estimated_s for level in levels for trial in level.trials)


def _duration_s(levels: Sequence[Level], slots: int) -> float:
    """Wall-clock of the levels one after the other, seconds."""
    return sum(makespan_s([trial.estimated_s for trial in level.trials], slots) for level in levels)


def _trial(
    budget: Budget,
    facts: DataFacts,
    hardware: Hardware,
    asked: Round,
    point: Point,
    shape: ModelShape,
    seed: int,
    notes: _Notes,
) -> Trial | None:
    training = budget.training
    counts = count_parameters(shape)
    per_token = training_flops_per_token(shape)
    if point.flops is not None:
        wanted_tokens, flops_target = point.flops / per_token.total, point.flops
    else:
        scale = counts.matmul / point.params if point.keep_ratio else 1.0
        wanted_tokens = float(point.tokens or 0.0) * scale
        flops_target = wanted_tokens * per_token.total
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
    warmup = training.warmup_steps
    if warmup is None:
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
        estimated_s=steps * step_s + evaluation_tokens / step_tokens * step_s / 3,
        memory_bytes=_memory_bytes(shape, counts, sequences),
        epochs=epochs,
        notes=tuple(remarks),
        why=point.reason,
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

    def time_of(levels: Sequence[Level]) -> float:
        if spending.wall_clock is not None:
            return _duration_s(levels, hardware.slots)
        return _slot_s(levels)

    def planned(ceiling: float) -> tuple[Level, ...]:
        return _levels(budget, facts, hardware, (), ceiling, _Notes())

    if not isinstance(budget.design, IsoflopDesign):
        # The mix of sizes, and so the rate, hardly moves with the money: a few corrections do.
        ceiling = seconds * hardware.throughput.flops_per_s
        for _ in range(_RATE_CORRECTIONS):
            levels = planned(ceiling)
            cost = sum(trial.cost_flops for level in levels for trial in level.trials)
            if not cost:
                return ceiling
            ceiling = seconds * cost / time_of(levels)
        return ceiling

    # A plan's time grows with its compute up to the largest shape of the lattice; bisect in ln C.
    low, high = 1e6, _largest_ceiling(budget, facts)
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if time_of(planned(middle)) <= seconds else (low, middle)
    return low


def _largest_ceiling(budget: Budget, facts: DataFacts) -> float:
    """The budget whose top level is centred on the largest shape there is."""
    design = budget.design
    assert isinstance(design, IsoflopDesign | AdaptiveDesign)
    params, shape = lattice(budget.model, facts.vocab_size)[-1]
    top = params * design.tokens_per_parameter * training_flops_per_token(shape).total
    if isinstance(design, AdaptiveDesign):
        return top / design.dearest
    spendable = 1 - budget.budget.reserve
    return top / level_flops(design, spendable, len(budget.training.seeds))[-1]


def _refuse_hopeless(
    budget: Budget, facts: DataFacts, hardware: Hardware, ceiling: float, levels: Sequence[Level]
) -> None:
    """A level without three sizes cannot show a minimum: say the least that would do."""
    if not isinstance(budget.design, IsoflopDesign | AdaptiveDesign):
        _refuse_few(budget, levels)
        return
    poor = next((level for level in levels if level.even and _sizes(level) < MIN_SIZES), None)
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


def _refuse_few(budget: Budget, levels: Sequence[Level]) -> None:
    """Points that leave no law to fit."""
    trials = [trial for level in levels for trial in level.trials]
    sizes = len({trial.config.shape for trial in trials})
    if sizes >= MIN_SIZES and len(trials) >= MIN_TRIALS:
        return
    raise BadInput(
        Fault(
            code="SWP-1203",
            rule=f"a law needs at least {MIN_TRIALS} trials of {MIN_SIZES} sizes, of "
            f"{budget.training.min_steps} steps or more; the design has {len(trials)} of {sizes}",
            place="design",
            remedy="add points, or lower training.batch_tokens, model.context or "
            "training.min_steps",
        )
    )


def _refuse_narrow(budget: Budget, facts: DataFacts, notes: _Notes) -> None:
    """A grid of small span buys nearly nothing: say what it would know."""
    design = budget.design
    if not isinstance(design, GridDesign):
        return
    points = _known_points(budget, facts)
    spans = narrow_span(points)
    if spans is None:
        return
    # Imported here: only a doubtful grid needs the law's Jacobian.
    from orchestrator.designs.preview import expected_sd

    per_token = [_flops_per_token_near(budget, facts, point.params) for point in points]
    sd = expected_sd(points, per_token, target_flops=budget.target.flops)
    line = (
        f"the grid spans {spans[0]:.3g}x in N and {spans[1]:.3g}x in D, under {LEAST_SPAN:g}x: the "
        f"95 % range of D/N it can give is expected to be {math.exp(min(3.92 * sd, 99)):.3g}-fold "
        f"(sd of ln(D/N) {sd:.2g})"
    )
    if design.allow_narrow:
        notes.add(line)
        return
    raise BadInput(
        Fault(
            code="SWP-1204",
            rule=line,
            place="design",
            remedy="widen design.sizes and design.tokens_per_parameter, use `kind: adaptive` or "
            "`isoflop`, or say `allow_narrow: true`",
        )
    )


def _least_ceiling(budget: Budget, facts: DataFacts, hardware: Hardware, ceiling: float) -> float:
    """The smallest budget, to 2 %, all of whose levels have enough sizes, FLOPs."""
    low, high = ceiling, _largest_ceiling(budget, facts)
    while high / low > 1.02:
        middle = math.sqrt(low * high)
        levels = _levels(budget, facts, hardware, (), middle, _Notes())
        enough = all(_sizes(level) >= MIN_SIZES for level in levels if level.even)
        low, high = (low, middle) if enough else (middle, high)
    return high * 1.02  # printed with three digits: never rounded below what works


def _sizes(level: Level) -> int:
    return len({trial.config.shape for trial in level.trials})


def _trunks_differ(trials: Sequence[Trial]) -> bool:
    """Whether `wsd` runs of one size and seed, of different length, have nothing in common."""
    sizes: dict[tuple[ModelShape, int], list[Trial]] = {}
    for trial in trials:
        if trial.config.schedule.name == "wsd":
            sizes.setdefault((trial.config.shape, trial.config.seed), []).append(trial)
    return any(
        len({trial.config.trajectory_id for trial in runs}) == len(runs) > 1
        for runs in sizes.values()
    )


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
    if _trunks_differ(trials):
        notes.add(
            "runs of one size share no trunk, because their warmup, batch or learning rate depends "
            "on D: give training.warmup_steps and a batch and rate that do not"
        )
    worst = max((trial.epochs for trial in trials), default=0.0)
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
    if isinstance(budget.design, IsoflopDesign) and len(levels) < 3:
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
        **({"why": trial.why} if trial.why else {}),
    }
