"""What one trial says and leaves behind.

`Progress` while it runs, `RunResult` (stored as `result.json` in the trial's folder) when it has
ended, `Interrupted` when it was stopped on the way.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from trainer.conversions import perplexity

SAMPLES_NAME = "samples.txt"
PREDICTIONS_NAME = "predictions.json"
LOGITS_NAME = "logits.json"
FIRST_BATCH_NAME = "first_batch.txt"
OBSERVATION_NAMES = (FIRST_BATCH_NAME, SAMPLES_NAME, PREDICTIONS_NAME, LOGITS_NAME)
"""Files of a trial that show what its model is taught and what it says (`trainer.observations`)."""


class RunStatus(StrEnum):
    """How a trial ended."""

    COMPLETED = "completed"
    """Every planned token was seen and the final loss is finite."""
    DIVERGED = "diverged"
    """The loss became non-finite; the trial is over and its loss is no datum."""
    FAILED = "failed"
    """An error that a retry cannot cure; `message` says which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """The record of one finished trial."""

    trial_id: str
    """Hash of everything that can change the loss (`TrainConfig.trial_id`)."""
    status: RunStatus
    """How the trial ended."""
    message: str = ""
    """Why, when the status is not `completed`."""
    loss: float | None = None
    """Held-out cross-entropy after the last step, nats per token; None unless completed."""
    loss_se: float | None = None
    """Standard error of `loss` over the held-out sequences, nats per token."""
    bpb: float | None = None
    """Held-out bits per byte of the same text."""
    train_loss: float | None = None
    """Mean training loss over the last tenth of the run, nats per token."""
    tokens: int = 0
    """Training tokens seen by the finished model (replayed tokens count once)."""
    train_loss_without_noise: float | None = None
    """Loss on training tokens as evaluation computes it, where training itself has dropout or
    other noise, nats per token; without noise `train_loss` is that."""
    steps: int = 0
    """Optimiser steps that were trained."""
    planned_steps: int = 0
    """Optimiser steps that were planned; a run that stopped early has fewer."""
    best_step: int = 0
    """Step whose weights `loss` is of: the best evaluation's with early stopping, else the last."""
    steps_executed: int = 0
    """Optimiser steps really executed over all attempts, replayed ones included."""
    prefix_steps: int = 0
    """Steps of the finished model that another run of its trajectory had paid for."""
    flops: float = 0.0
    """Training FLOPs of the finished model: tokens times exact FLOPs per token."""
    wall_s: float = 0.0
    """Seconds spent training and evaluating, summed over attempts (monotonic clock)."""
    tokens_per_s: float = 0.0
    """Training throughput of the last attempt, tokens per second."""
    peak_memory_bytes: int = 0
    """Peak memory of the process (CPU: resident set; GPU: allocated)."""
    device: str = ""
    """Hardware name."""
    devices: float = 1.0
    """How many of it were occupied: GPUs, or cores where none was used; a part for a shared GPU."""
    threads: int = 0
    """CPU threads used: they change the last bits of a result."""
    attempts: int = 1
    """How many times the trial was started."""
    versions: dict[str, str] = field(default_factory=dict)
    """What can change the last bits: library versions, device, threads, kernels."""
    micro_batch_sequences: int = 0
    """Most sequences of one forward pass at the end of the run."""
    micro_batch_halvings: int = 0
    """How often that was halved because memory did not suffice."""
    grad_norm: float | None = None
    """Mean global gradient norm before clipping over the last tenth of the run."""
    router_load: float | None = None
    """Load of the busiest expert over the mean one since the last logged point but one; None for
    dense models."""
    repetition: float | None = None
    """Share of the 4-grams of greedy text that occurred in it before; None without samples."""
    notes: tuple[str, ...] = ()
    """What a reader of the result must know, each as `label: sentence`: what the curves say,
    checkpoints passed over, environments changed."""

    def to_json(self) -> str:
        """Serialise; floats round-trip exactly and non-finite ones are refused."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> RunResult:
        """Inverse of `to_json`.

        Raises:
            ValueError: when the text is not a result of this version.
        """
        record: dict[str, Any] = json.loads(text)
        fields = dataclasses.fields(cls)
        names = {f.name for f in fields}
        # A field that has a default may be missing: records are older than fields.
        absent = dataclasses.MISSING
        required = {f.name for f in fields if f.default is absent and f.default_factory is absent}
        missing, unknown = sorted(required - set(record)), sorted(set(record) - names)
        if missing or unknown:
            raise ValueError(f"not a run result: missing {missing}, unknown {unknown}")
        status, notes = RunStatus(record["status"]), tuple(record.get("notes", ()))
        return cls(**{**record, "status": status, "notes": notes})

    @property
    def perplexity(self) -> float | None:
        """Held-out perplexity per token, exp(loss); None where there is no loss."""
        return None if self.loss is None else perplexity(self.loss)

    @property
    def step_ms(self) -> float | None:
        """Milliseconds of one optimiser step at the last attempt's throughput; None if unknown."""
        if not (self.steps and self.tokens_per_s):
            return None
        return 1000.0 * self.tokens / self.steps / self.tokens_per_s

    @property
    def is_datum(self) -> bool:
        """Whether the loss may enter a fit."""
        return (
            self.status is RunStatus.COMPLETED
            and self.loss is not None
            and math.isfinite(self.loss)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A running trial at a logged point."""

    trial_id: str
    """Which trial."""
    step: int
    """Optimiser steps done."""
    steps: int
    """Optimiser steps planned."""
    tokens: int
    """Training tokens seen by the model so far."""
    loss: float
    """Mean training loss since the previous point, nats per token."""
    tokens_per_s: float
    """Training throughput since the previous point, tokens per second."""


class Interrupted(Exception):
    """A trial stopped because it was asked to; it goes on from the checkpoint it wrote."""

    def __init__(self, step: int) -> None:
        super().__init__(f"interrupted after step {step}; run again to go on from there")
        self.step = step
