"""The whole description of one training run, and its identity.

`TrainConfig` holds what can change the loss and nothing else; its hash is the trial's identity.
`RunOptions` holds where and how the run executes: folders, device, threads, intervals.

Identities outlive the program: a field that joins one of these records later has a default and
the mark `ADDED` (`trainer.identity`), and a stored configuration that lacks it reads as before.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainer.identity import ADDED, identity_record
from trainer.shapes import Shape, shape_from_record

TRAINER_VERSION = 1
"""Raised whenever a change to the trainer changes losses beyond the last bits."""

Schedule = Literal["cosine", "wsd", "linear", "points"]
Cooldown = Literal["sqrt", "linear"]
Precision = Literal["fp32", "bf16"]
OptimizerName = Literal["adamw", "adam", "muon"]
Init = Literal["scaled", "gpt2", "truncated", "femto", "own"]
Order = Literal["epochs", "random"]
Attention = Literal["explicit", "block", "sdpa"]
Products = Literal["mkl", "onednn"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """The optimiser and its numbers, resolved for this run."""

    name: OptimizerName = "adamw"
    """Optimiser; losses of different optimisers never share a fit. `adam` decays through the
    gradient; `muon` updates the body's matrices and leaves the rest to AdamW."""
    learning_rate: float
    """Peak learning rate."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices; norms, biases and embeddings have none."""
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    decay_all: bool = False
    """Whether norms, biases and embeddings are decayed too."""
    momentum: float = 0.95
    """`muon` only: decay of its momentum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """Learning rate over the run, as a multiple of the peak."""

    name: Schedule = "cosine"
    """`cosine`: warmup, then half a cosine to the floor. `wsd`: warmup, stable, cooldown.
    `linear`: warmup, then a straight line to the floor. `points`: straight lines between knots."""
    warmup_steps: int = 0
    """Linear warmup, steps."""
    cooldown_steps: int = 0
    """`wsd` only: length of the cooldown, steps."""
    cooldown: Cooldown = "sqrt"
    """`wsd` only: shape of the cooldown, 1 - sqrt(x) or 1 - x."""
    decay_steps: int = 0
    """`linear` only: length of the decay, steps, after which the floor holds; 0: to the end."""
    points: tuple[tuple[int, float], ...] = ()
    """`points` only: (step, multiple of the peak) at the knots, steps ascending."""
    floor: float = 0.0
    """Last multiple of the peak."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyStopping:
    """When a run ends before its last step; its result is then that of its best evaluation.

    Raises:
        ValueError: when a value is out of its range.
    """

    every_steps: int
    """Steps between two evaluations on the held-out tokens."""
    patience: int
    """Evaluations in a row without a new best after which the run ends."""
    min_delta: float = 0.0
    """Nats by which an evaluation must beat the best before it to count as a new best."""

    def __post_init__(self) -> None:
        for name in ("every_steps", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"early_stopping.{name} must be at least 1, got {getattr(self, name)}"
                )
        if not self.min_delta >= 0:
            raise ValueError(f"early_stopping.min_delta must not be negative, got {self.min_delta}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One planned run: what can change its loss, with every rule already evaluated."""

    shape: Shape
    """The model."""
    data_digest: str
    """SHA-256 of the token files and tokenizer (`trainer.data` manifest)."""
    steps: int
    """Optimiser steps."""
    batch_sequences: int
    """Sequences of `shape.context` tokens per step, over all devices."""
    validation_tokens: int
    """Held-out tokens evaluated at the end: the same for every trial of a sweep."""
    seed: int
    """Seeds initialisation, data order and dropout."""
    optimizer: OptimizerConfig
    """Optimiser and its numbers."""
    schedule: ScheduleConfig
    """Learning-rate schedule."""
    init: Init = "scaled"
    """Scheme of the initial weights; `own`: as a model of other code draws them itself."""
    dropout: float = 0.0
    """Share of activations dropped in training."""
    precision: Precision = "fp32"
    """Arithmetic of the forward and backward pass; evaluation is always fp32."""
    order: Order = field(default="epochs", metadata=ADDED)
    """Which windows a batch holds. `epochs`: every window once per epoch, permuted. `random`: each
    begins anywhere, with wrap-around at the end of the text."""
    early_stopping: EarlyStopping | None = field(default=None, metadata=ADDED)
    """When the run ends before its last step; None, as in every sweep: never."""
    trainer_version: int = TRAINER_VERSION
    """Semantic version of the trainer."""

    @property
    def batch_tokens(self) -> int:
        """Tokens per optimiser step."""
        return self.batch_sequences * self.shape.context

    @property
    def tokens(self) -> int:
        """Training tokens D of the whole run."""
        return self.steps * self.batch_tokens

    @property
    def trial_id(self) -> str:
        """Identity of the run: the first 16 hex digits of the SHA-256 of its canonical JSON."""
        return _digest(identity_record(self))

    @property
    def shares_trajectory(self) -> bool:
        """Whether a run of another length can begin as this one does."""
        return self.schedule.name == "wsd" and self.early_stopping is None

    @property
    def trajectory_id(self) -> str:
        """Identity of what two runs of different length can share before any cooldown.

        Runs with one trajectory share initialisation, data order, batch, peak learning rate and
        warmup; with a `wsd` schedule they share their weights up to the earlier cooldown. A
        `cosine` run depends on its own length from the first step, so its trajectory is its own.
        """
        if not self.shares_trajectory:
            return self.trial_id
        record = identity_record(self)
        del record["steps"], record["validation_tokens"]
        for name in ("cooldown_steps", "cooldown", "floor"):
            del record["schedule"][name]
        return _digest(record)

    def to_json(self) -> str:
        """Canonical, readable JSON of the configuration."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Inverse of `to_json`.

        Raises:
            TypeError: when a field is missing or unknown.
        """
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> TrainConfig:
        """A configuration from plain values, as `dataclasses.asdict` gives them.

        A field that has a default may be missing: records are older than fields.

        Raises:
            TypeError: when a field without a default is missing, or one is unknown.
        """
        stopping = record.get("early_stopping")
        return cls(
            **{
                **record,
                "early_stopping": None if stopping is None else EarlyStopping(**stopping),
                "shape": shape_from_record(record["shape"]),
                "optimizer": OptimizerConfig(**record["optimizer"]),
                "schedule": ScheduleConfig(
                    **{
                        **record["schedule"],
                        "points": tuple((s, m) for s, m in record["schedule"].get("points", ())),
                    }
                ),
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """The implementations that compute a run: they differ in speed and in the last bits."""

    attention: Attention
    """How attention is computed."""
    products: Products
    """Library of fp32 matrix products on a CPU."""
    attention_rows: int = 64
    """Query rows of a block of `block` attention."""
    head_chunk: float = 1.0
    """Rows of logits at a time, over those of the rule (`trainer.model.loss`)."""
    compiled: bool = False
    """Whether forward and backward pass are compiled (on a GPU into CUDA graphs)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How a run executes; nothing in here changes the loss beyond its last bits."""

    data_dir: Path
    """Folder with the token files and their manifest."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    threads: int = 1
    """CPU threads of this process."""
    checkpoint_every_s: float = 30.0
    """Seconds between checkpoints; 0 turns them off."""
    log_points: int = 200
    """Number of lines in `metrics.jsonl`, evenly spaced over the steps."""
    micro_batch_sequences: int = 0
    """Most sequences per forward pass; 0: as many as fit into memory. Halved where they do not."""
    memory_share: float = 1.0
    """Share of the device's memory that this run may use; other runs use the rest."""
    devices: float = 1.0
    """GPUs that the run occupies, or cores where it uses none; only recorded."""
    evaluate_every_steps: int = 0
    """Steps between evaluations on the held-out tokens while training; 0: only at the end, or as
    `TrainConfig.early_stopping` says."""
    planned_steps: int = 0
    """Steps that were planned, where a run turned out longer or shorter; 0: those of the run."""
    prefix_dir: Path | None = None
    """Store of the training prefixes that `wsd` runs share; None: each run trains all its steps."""
    prefix_steps: tuple[int, ...] = ()
    """Steps at which shorter runs of the same trajectory will branch off: kept in the store too."""
    stalled_after_s: float = 0.0
    """Silence after which the run counts as stuck, seconds (`trainer.pulse`); 0: never."""
    kernels: Kernels | None = None
    """The implementations; None: by the rule of `trainer.kernels`."""
    samples: bool = True
    """Whether samples, next-token probabilities and logits are recorded after the training."""


def _digest(record: dict[str, Any]) -> str:
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
