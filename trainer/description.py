"""What is known of an experiment before it is run: sizes, exposure, schedule, and what to doubt.

In: an `Experiment` and the unique tokens of its training text. Out: a `Description`. Each remark is
a sentence about a number that makes a result hard to read afterwards: a learning rate that never
decays, fewer tokens than parameters, a model that is almost all embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.batches import batches_per_epoch
from trainer.experiment import Experiment
from trainer.flops import training_flops_per_token
from trainer.schedule import check_schedule, multiplier
from trainer.shapes import ModelShape, ParameterCounts, count_parameters

UNDECAYED = 0.5
"""Last multiple of the peak learning rate above which a run counts as not decayed."""

MANY_EPOCHS = 4.0
"""Epochs beyond which repeated tokens are worth visibly less than fresh ones (Muennighoff et al.
2023, arXiv 2305.16264, section 6)."""

MOSTLY = 0.5
"""Share of the embedding in all parameters above which a model's size says little of its body."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exposure:
    """How much of its training text a run sees, in tokens."""

    unique: int
    """Tokens of one pass over the training text."""
    seen: int
    """Tokens trained on, repeated ones counted each time."""

    @property
    def epochs(self) -> float:
        """Passes over the training text."""
        return self.seen / self.unique


@dataclass(frozen=True, kw_only=True, slots=True)
class Remark:
    """One thing to know before the run."""

    name: str
    """Short name of the rule."""
    message: str
    """What was found, with numbers, and what it means for the result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """An experiment in numbers."""

    title: str
    """The experiment's own line."""
    counts: ParameterCounts
    """Parameters by component."""
    flops: float
    """Training FLOPs of the whole run."""
    uniform_loss: float
    """ln V, nats per token: what the first loss must be."""
    last_rate: float
    """Learning rate of the last update as a multiple of the peak."""
    steps_per_epoch: int | None
    """Batches of one pass; None while the text is not at hand."""
    exposure: Exposure | None
    """Unique and seen tokens; None while the text is not at hand."""
    remarks: tuple[Remark, ...]
    """What to doubt."""

    def lines(self) -> list[str]:
        """The description as text for people."""
        counts = self.counts
        found = [
            self.title,
            f"parameters   {counts.total:,}; without embedding and head {counts.body:,} "
            f"({counts.body / counts.total:.2%}); active per token {counts.active:,}",
            f"first loss   ln V = {self.uniform_loss:.3f} nats per token",
            f"compute      {self.flops:.3g} FLOPs",
            f"schedule     ends at {self.last_rate:.1%} of the peak learning rate",
        ]
        if self.exposure is not None:
            seen, unique = self.exposure.seen, self.exposure.unique
            found += [
                f"tokens       {unique:,} unique, {seen:,} seen, {self.exposure.epochs:.4g} epochs "
                f"of {self.steps_per_epoch:,} batches",
                f"ratio        {unique / counts.total:.3g} unique and {seen / counts.total:.4g} "
                f"seen tokens per parameter; without embedding and head "
                f"{unique / counts.body:.3g} and {seen / counts.body:.4g}",
            ]
        return found + [f"remark       {remark.name}: {remark.message}" for remark in self.remarks]


def describe(experiment: Experiment, *, unique_tokens: int | None) -> Description:
    """Describe an experiment before it is run.

    Args:
        experiment: what would be run.
        unique_tokens: tokens of one pass over its training text; None while that is not at hand.

    Raises:
        ValueError: when the schedule does not fit into the run.
    """
    length, shape = experiment.length, experiment.shape
    check_schedule(length.steps, experiment.schedule)
    seen = length.steps * length.batch_sequences * shape.context
    exposure = None if unique_tokens is None else Exposure(unique=unique_tokens, seen=seen)
    counts = count_parameters(shape)
    last_rate = multiplier(length.steps - 1, length.steps, experiment.schedule)
    found = [
        _of_schedule(last_rate),
        _of_size(counts),
        _of_tokens(seen, counts),
        _of_repetition(exposure),
        _of_queries(shape),
        _of_router(shape),
    ]
    per_epoch = None
    if unique_tokens is not None:
        per_epoch = batches_per_epoch(
            unique_tokens, context=shape.context, batch_sequences=length.batch_sequences
        )
    return Description(
        title=experiment.title,
        counts=counts,
        flops=seen * training_flops_per_token(shape).total,
        uniform_loss=math.log(shape.vocab_size),
        last_rate=last_rate,
        steps_per_epoch=per_epoch,
        exposure=exposure,
        remarks=tuple(remark for remark in found if remark is not None),
    )


def _of_schedule(last_rate: float) -> Remark | None:
    if last_rate <= UNDECAYED:
        return None
    return Remark(
        name="no decay",
        message=f"the learning rate ends at {last_rate:.1%} of its peak, so the last loss is not "
        "that of a finished run; give the schedule a cooldown within the run",
    )


def _of_size(counts: ParameterCounts) -> Remark | None:
    share = 1.0 - counts.body / counts.total
    if share <= MOSTLY:
        return None
    return Remark(
        name="mostly embedding",
        message=f"{share:.1%} of the parameters are embedding and head; a statement about size "
        f"needs the other {counts.body:,}",
    )


def _of_tokens(seen: int, counts: ParameterCounts) -> Remark | None:
    if seen >= counts.total:
        return None
    return Remark(
        name="starved",
        message=f"{seen:,} tokens are {seen / counts.total:.2g} per parameter; below 1 the model "
        "cannot show what its size is good for",
    )


def _of_repetition(exposure: Exposure | None) -> Remark | None:
    if exposure is None or exposure.epochs <= MANY_EPOCHS:
        return None
    return Remark(
        name="repeated text",
        message=f"{exposure.epochs:.4g} epochs: compare training and held-out loss, a law for "
        "fresh tokens does not describe this run",
    )


def _of_queries(shape: ModelShape) -> Remark | None:
    latent = shape.latent
    if latent is None or latent.q_latent is None:
        return None
    size = latent.d_content + latent.d_rotary
    if latent.q_latent >= size:
        return None
    return Remark(
        name="narrow queries",
        message=f"the queries of all {shape.n_head} heads of size {size} come from a latent of "
        f"{latent.q_latent}: their rank is at most {latent.q_latent}",
    )


def _of_router(shape: ModelShape) -> Remark | None:
    experts = shape.experts
    if experts is None or experts.top_k < experts.n_routed:
        return None
    return Remark(
        name="nothing to route",
        message=f"top_k = n_routed = {experts.top_k}: every token meets every expert",
    )
