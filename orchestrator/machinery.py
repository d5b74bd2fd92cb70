"""What the trainer can do for a person besides a sweep: measure this machine, hand out a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import BadInput, Fault
from orchestrator.plan import Plan
from orchestrator.state import Purpose, SweepState, TrialState, TrialStatus
from orchestrator.throughput import StepTime
from orchestrator.trial import Trial
from trainer.checkpoint import load_newest
from trainer.export import export
from trainer.model.build import build_model
from trainer.probe import measure

MEASURED_SIZES = 5
"""Sizes that `sweep bench` measures: enough for the overhead and the rate of a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The speed of one planned size on this machine."""

    trial: Trial
    """The trial whose model was measured."""
    seconds_per_step: float
    """Median time of an optimiser step."""
    flops_per_s: float
    """Exact training FLOPs per second."""
    tokens_per_s: float
    """Training tokens per second."""
    devices: float
    """Cores that it was measured on, or one GPU."""

    @property
    def step_time(self) -> StepTime:
        """As the throughput model takes it."""
        return StepTime(
            n_layer=self.trial.config.shape.n_layer,
            flops_per_step=self.flops_per_s * self.seconds_per_step,
            seconds=self.seconds_per_step,
            devices=self.devices,
        )


def bench(plan: Plan, *, device: str, threads: int, seconds: float) -> list[Measured]:
    """Train models of a plan's sizes for a moment each, smallest first.

    Args:
        plan: whose sizes are measured.
        device: `cpu` or `cuda`.
        threads: CPU threads, as the trials will have.
        seconds: how long each size is measured.
    """
    measured = []
    for trial in _spread(plan.trials, MEASURED_SIZES):
        speed = measure(trial.config, device=device, threads=threads, seconds=seconds)
        measured.append(
            Measured(
                trial=trial,
                seconds_per_step=speed.seconds_per_step,
                flops_per_s=speed.flops_per_s,
                tokens_per_s=speed.tokens_per_s,
                devices=1.0 if device == "cuda" else float(threads),
            )
        )
    return measured


def export_trial(sweep_dir: Path, trial: TrialState, folder: Path, *, data_dir: Path) -> str:
    """Write a trial's trained model as a `transformers` folder, its tokenizer beside it.

    Args:
        sweep_dir: the sweep.
        trial: a finished trial.
        folder: where to; created when missing.
        data_dir: the prepared corpus, for the tokenizer.

    Returns:
        Name of the `transformers` class that loads it.

    Raises:
        BadInput: when the trial is not finished, its checkpoints were removed, or its family is
            a module that `transformers` has no class for.
    """
    loaded = load_newest(
        sweep_dir / "trials" / trial.trial_id / "checkpoints", owner=trial.trial_id
    )
    if loaded is None or loaded.state["step"] != trial.config.steps:
        raise BadInput(
            Fault(
                code="SWP-1315",
                rule=f"a model is exported from a trial's last checkpoint; {trial.label} is "
                f"{trial.status.value} and has none",
                place=trial.trial_id,
                remedy="finish it with `sweep resume`; `sweep clean` removes checkpoints for good",
            )
        )
    model = build_model(trial.config)
    model.load_state_dict(loaded.state["model"])
    tokenizer = data_dir / "tokenizer"
    try:
        return export(model, folder, tokenizer_dir=tokenizer if tokenizer.is_dir() else None)
    except ValueError as error:
        raise BadInput(
            Fault(
                code="SWP-1318",
                rule=str(error),
                place=trial.label,
                remedy="write the module as a `PreTrainedModel`, or take the weights from the "
                "trial's `checkpoints/`",
            )
        ) from None


def best_trial(state: SweepState) -> TrialState:
    """The finished run of the design with the lowest held-out loss: the model worth keeping.

    Raises:
        BadInput: when no run of the design has finished.
    """
    losses = {
        trial.trial_id: trial.result.loss
        for trial in state.trials.values()
        if trial.purpose is Purpose.DESIGN
        and trial.status is TrialStatus.COMPLETED
        and trial.result is not None
        and trial.result.loss is not None
    }
    if not losses:
        raise BadInput(
            Fault(
                code="SWP-1317",
                rule="the best run is the finished run of the design with the lowest held-out "
                "loss; none has finished",
                place=state.opened["name"] if state.opened else "",
                remedy="finish one with `sweep resume`",
            )
        )
    return state.trials[min(losses, key=lambda trial_id: (losses[trial_id], trial_id))]


def _spread(trials: Sequence[Trial], count: int) -> list[Trial]:
    """At most `count` trials of different shapes, evenly over the sizes."""
    by_shape = {trial.config.shape: trial for trial in trials}
    ordered = sorted(by_shape.values(), key=lambda trial: trial.counts.matmul)
    if len(ordered) <= count:
        return ordered
    last = len(ordered) - 1
    return [ordered[round(k * last / (count - 1))] for k in range(count)]
