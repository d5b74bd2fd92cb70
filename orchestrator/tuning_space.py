"""What a search for a recipe may try: sizes that its money pays for, batches, and single runs.

Pure: the same budget, data, hardware and request give the same sizes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.budget import Budget
from orchestrator.designs.base import Centre, Point, Round
from orchestrator.errors import BadInput, Fault
from orchestrator.lattice import size_ladder
from orchestrator.plan import Plan
from orchestrator.search import Suggestion
from orchestrator.trial import Hardware, Notes, Trial, plan_trial
from orchestrator.units import format_count, format_flops
from trainer.shapes import Shape, count_parameters, shape_from_record

if TYPE_CHECKING:
    from trainer.data.facts import DataFacts

DEFAULT_SHARE = 0.1
"""Share of the budget that a search may spend when nothing is said."""
SIZE_FACTORS = (4.0, 2.5, 1.6)
"""Ratios between neighbouring sizes, the first that the money pays for: the wider, the better the
runs tell how the best rate moves with N."""
BATCH_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Batches that are tried, as multiples of the budget's."""
_SMALLEST = 0.9
"""The smallest size of a search may be this far below the smallest shape that there is."""
LEAST_TRIALS = 4
"""Runs per size under which no parabola has its minimum inside."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TunedSize:
    """One size of a search."""

    shape: Shape
    """The model."""
    params: int
    """N, matmul parameters."""
    tokens: float
    """D, tokens of each run."""
    learning_rate: float
    """What the budget's own rule says here: where the search starts."""
    batches: tuple[int, ...]
    """Tokens per step that are tried, small to large."""
    centre_batch: int
    """Which of them the budget's own rule says."""

    def to_record(self) -> dict[str, Any]:
        """As plain values, for the journal."""
        return {**dataclasses.asdict(self), "batches": list(self.batches)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TunedSize:
        """Inverse of `to_record`."""
        shape = shape_from_record(dict(record["shape"]))
        return cls(**{**record, "shape": shape, "batches": tuple(record["batches"])})


def tuned_sizes(
    budget: Budget,
    facts: DataFacts,
    hardware: Hardware,
    plan: Plan,
    *,
    sizes: int,
    trials: int,
    flops: float,
    with_batch: bool,
) -> tuple[TunedSize, ...]:
    """The largest sizes, as far apart as the money allows, all of whose runs it pays for.

    Every run has the tokens per parameter that the plan's first level is centred on.

    Args:
        budget: what was asked for; its own rules are where the search starts.
        facts: counts of the data.
        hardware: what runs are trained on.
        plan: of the main sweep: no size above its middle one is tuned.
        sizes: how many.
        trials: runs per size.
        flops: compute that the search may charge.
        with_batch: whether the batch is searched too.

    Raises:
        BadInput: when the money does not pay for the smallest sizes; the least amount is named.
    """
    ratio = plan.levels[0].centre.tokens_per_parameter
    planned = sorted(trial.counts.matmul for trial in plan.trials)
    largest = planned[len(planned) // 2]
    least = math.inf
    for factor in SIZE_FACTORS:
        chosen: list[Trial] = []
        for probes in _ladders(budget, facts, hardware, ratio, sizes, factor):
            cost = trials * sum(probe.cost_flops for probe in probes)
            least = min(least, cost)
            if cost > flops or (chosen and probes[-1].counts.matmul > largest):
                break
            chosen = probes
        if chosen:
            return tuple(_size(budget, probe, ratio, with_batch) for probe in chosen)
    enough = (
        "no size has training.min_steps steps"
        if math.isinf(least)
        else (f"{trials} runs at each of {sizes} sizes cost at least {format_flops(least)} FLOPs")
    )
    raise BadInput(
        Fault(
            code="SWP-1350",
            rule=f"a search needs the compute of its runs; {enough}, it has {format_flops(flops)}",
            place="--flops",
            remedy="give it more with --flops, or ask for fewer --trials or --sizes, or lower "
            "training.min_steps or training.batch_tokens",
        )
    )


def _ladders(
    budget: Budget,
    facts: DataFacts,
    hardware: Hardware,
    ratio: float,
    sizes: int,
    factor: float,
) -> Iterator[list[Trial]]:
    """Sizes a factor apart that have enough steps, as runs by the budget's own rules, ascending."""
    ladder = size_ladder(budget.model, facts.vocab_size)
    for top, _ in ladder:
        wanted = [top / factor**k for k in reversed(range(sizes))]
        shapes = [_nearest(ladder, params) for params in wanted]
        if len(set(shapes)) < sizes or wanted[0] < _SMALLEST * ladder[0][0]:
            continue
        probes = [_probe(budget, facts, hardware, shape, ratio) for shape in shapes]
        trained = [probe for probe in probes if probe is not None]
        if len(trained) == sizes:
            yield trained


def _nearest(ladder: Sequence[tuple[int, Shape]], params: float) -> Shape:
    return min(ladder, key=lambda item: abs(item[0] - params))[1]


def run_of(
    budget: Budget, facts: DataFacts, hardware: Hardware, size: TunedSize, asked: Suggestion
) -> Trial:
    """One run of a search, ready to be trained.

    Args:
        budget: what was asked for.
        facts: counts of the data.
        hardware: what it is trained on.
        size: model and tokens.
        asked: learning rate and batch.
    """
    batch = size.batches[asked.batch]
    trial = _planned(
        budget, facts, hardware, size.shape, size.tokens, asked.learning_rate, float(batch)
    )
    assert trial is not None, "a batch that leaves too few steps is not in the space"
    label = f"tune · {format_count(size.params)} · rate {asked.learning_rate:.3g}"
    if len(size.batches) > 1:
        label += f" · batch {format_count(batch)}"
    return dataclasses.replace(trial, label=label)


def _probe(
    budget: Budget, facts: DataFacts, hardware: Hardware, shape: Shape, ratio: float
) -> Trial | None:
    tokens = ratio * count_parameters(shape).matmul
    return _planned(budget, facts, hardware, shape, tokens, None, None)


def _size(budget: Budget, probe: Trial, ratio: float, with_batch: bool) -> TunedSize:
    own, context = probe.config.batch_sequences, probe.config.shape.context
    tokens = ratio * probe.counts.matmul
    factors = BATCH_FACTORS if with_batch else (1.0,)
    sequences = sorted({max(1, round(own * factor)) for factor in factors})
    batches = tuple(
        count * context
        for count in sequences
        if tokens // (count * context) >= budget.training.min_steps
    )
    return TunedSize(
        shape=probe.config.shape,
        params=probe.counts.matmul,
        tokens=tokens,
        learning_rate=probe.config.optimizer.learning_rate,
        batches=batches,
        centre_batch=batches.index(own * context),
    )


def _planned(
    budget: Budget,
    facts: DataFacts,
    hardware: Hardware,
    shape: Shape,
    tokens: float,
    rate: float | None,
    batch: float | None,
) -> Trial | None:
    """A run by the budget's rules, or by the numbers given; None when it has too few steps."""
    changes: dict[str, Any] = {}
    if rate is not None:
        changes |= {"learning_rate": rate, "batch_tokens": batch, "recipe": None}
    training = budget.training.model_copy(update=changes)
    params = count_parameters(shape).matmul
    asked = Round(
        number=0,
        flops=0.0,
        centre=Centre(tokens_per_parameter=tokens / params, reason="a search"),
        even=False,
        points=(),
    )
    return plan_trial(
        budget.model_copy(update={"training": training}),
        facts,
        hardware,
        asked,
        Point(params=params, shape=shape, tokens=tokens),
        shape,
        training.seeds[0],
        Notes(),
    )
