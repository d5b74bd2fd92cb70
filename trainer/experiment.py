"""One experiment as a file: text in, `TrainConfig` out.

In: a YAML text that states data, model, optimiser, schedule and length of one run, and, where the
run has been done elsewhere, what was reported of it. Out: an `Experiment`; with the vocabulary and
digest of the prepared tokens it becomes the configuration of a trial.

A stated parameter count is compared with the counted one, so a file cannot describe another model
than the one it names.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from trainer.config import Init, OptimizerConfig, Precision, ScheduleConfig, TrainConfig
from trainer.data.source import DataSource
from trainer.shapes import FAMILIES, ModelShape, count_parameters, preset


@dataclass(frozen=True, kw_only=True, slots=True)
class Length:
    """How long an experiment trains and what it is judged by."""

    steps: int
    """Optimiser steps."""
    batch_sequences: int
    """Sequences per step."""
    validation_tokens: int
    """Held-out tokens evaluated at the end."""
    seed: int = 0
    """Seeds initialisation, data order and dropout."""
    init: Init = "scaled"
    """Scheme of the initial weights."""
    dropout: float = 0.0
    """Share of activations dropped in training."""
    precision: Precision = "fp32"
    """Arithmetic of the forward and backward pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reported:
    """What was written down of the run that an experiment repeats."""

    parameters: int
    """Trained scalars."""
    tokens: int
    """Training tokens seen."""
    train_loss: float | None = None
    """Training loss at the end, nats per token."""
    validation_loss: float | None = None
    """Held-out loss, nats per token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """One run as its file states it."""

    title: str
    """One line for people."""
    data: DataSource
    """Corpus, tokenizer and held-out part; relative paths are as they stand in the file."""
    shape: ModelShape
    """The model."""
    length: Length
    """Steps, batch, evaluation, initialisation, arithmetic."""
    optimizer: OptimizerConfig
    """Optimiser and its numbers."""
    schedule: ScheduleConfig
    """Learning rate over the run."""
    reported: Reported | None
    """What is known of the original, if it is a repetition."""

    def config(self, *, data_digest: str, vocab_size: int) -> TrainConfig:
        """The configuration of the trial on prepared tokens.

        Args:
            data_digest: digest of the prepared tokens.
            vocab_size: ids that their tokenizer has.

        Raises:
            ValueError: when the tokenizer has another vocabulary than the file states.
        """
        if vocab_size != self.shape.vocab_size:
            raise ValueError(
                f"model.vocab_size must be that of the tokenizer, {vocab_size}, got "
                f"{self.shape.vocab_size}; the corpus is another one than the file means, or the "
                "number is wrong"
            )
        return TrainConfig(
            shape=self.shape,
            data_digest=data_digest,
            optimizer=self.optimizer,
            schedule=self.schedule,
            **dataclasses.asdict(self.length),
        )


def parse_experiment(text: str) -> Experiment:
    """Read an experiment.

    Args:
        text: YAML with the keys `title`, `data` (fields of `DataSource`), `model` (`family`, the
            arguments of `preset` and any field of `ModelShape`), `optimizer`, `schedule`,
            `training` (fields of `Length`) and, optionally, `reported`.

    Raises:
        ValueError: naming the key, the rule and the value for the first thing that is wrong.
    """
    try:
        record = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"an experiment must be YAML: {error}") from error
    record = _mapping(record, "the file")
    required = ("title", "data", "model", "optimizer", "schedule", "training")
    _check_keys(record, "the file", valid=(*required, "reported"), required=required)
    if not isinstance(record["title"], str):
        raise ValueError(f"title must be one line of text, got {record['title']!r}")
    shape = _shape(_mapping(record["model"], "model"))
    length = _fill(Length, record["training"], "training")
    stated = record.get("reported")
    reported = None if stated is None else _fill(Reported, stated, "reported")
    if reported is not None:
        _check_reported(reported, shape, length)
    return Experiment(
        title=record["title"],
        data=_data(_mapping(record["data"], "data")),
        shape=shape,
        length=length,
        optimizer=_fill(OptimizerConfig, record["optimizer"], "optimizer"),
        schedule=_schedule(_mapping(record["schedule"], "schedule")),
        reported=reported,
    )


def _check_reported(reported: Reported, shape: ModelShape, length: Length) -> None:
    counted = count_parameters(shape).total
    if counted != reported.parameters:
        raise ValueError(
            f"reported.parameters must be those of the model, which has {counted:,}, got "
            f"{reported.parameters:,}; correct the model or the number"
        )
    tokens = length.steps * length.batch_sequences * shape.context
    if tokens != reported.tokens:
        raise ValueError(
            f"reported.tokens must be steps * batch_sequences * context = {tokens:,}, got "
            f"{reported.tokens:,}; correct the training or the number"
        )


def _shape(record: dict[str, Any]) -> ModelShape:
    family = record.pop("family", None)
    if family not in FAMILIES:
        raise ValueError(f"model.family must be one of {', '.join(FAMILIES)}, got {family!r}")
    fields = tuple(ModelShape.__dataclass_fields__)
    needed = ("d_model", "n_layer", "n_head", "vocab_size", "context")
    _check_keys(record, "model", valid=("family", *fields), required=needed)
    return preset(family, **record)


def _data(record: dict[str, Any]) -> DataSource:
    fields = tuple(DataSource.__dataclass_fields__)
    _check_keys(record, "data", valid=fields, required=("corpus", "tokenizer"))
    if isinstance(record["corpus"], list):
        record["corpus"] = tuple(record["corpus"])
    return DataSource(**record)


def _schedule(record: dict[str, Any]) -> ScheduleConfig:
    if "points" in record:
        record["points"] = tuple(map(tuple, record["points"]))
    return _fill(ScheduleConfig, record, "schedule")


_Record = typing.TypeVar("_Record")


def _fill(kind: type[_Record], record: Any, place: str) -> _Record:
    """A dataclass from a mapping, with keys and types of values checked."""
    record = _mapping(record, place)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    missing = dataclasses.MISSING
    required = tuple(f.name for f in fields if f.default is missing)
    _check_keys(record, place, valid=tuple(f.name for f in fields), required=required)
    hints = typing.get_type_hints(kind)
    for name, value in record.items():
        if not _fits(value, hints[name]):
            raise ValueError(
                f"{place}.{name} must be {_described(hints[name])}, got {value!r}"
                + (" (write 0.001 or 1.0e-3, not 1e-3)" if _like_a_number(value) else "")
            )
    return kind(**record)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (Union, type(int | None)):
        return any(_fits(value, option) for option in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, get_origin(hint) or hint)


def _described(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, type(int | None)):
        return " or ".join(_described(o) for o in get_args(hint) if o is not type(None))
    names = {float: "a number", int: "a whole number", bool: "true or false"}
    return names.get(hint, "a list")


def _like_a_number(value: Any) -> bool:
    """Whether it is text that a person would read as a number, which YAML 1.1 does not."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return isinstance(value, str)


def _mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{place} must be a mapping of keys to values, got {value!r}")
    return dict(value)


def _check_keys(
    record: Mapping[str, Any], place: str, *, valid: tuple[str, ...], required: tuple[str, ...]
) -> None:
    unknown = [key for key in record if key not in valid]
    if unknown:
        raise ValueError(f"{place} has the keys {', '.join(valid)}; got {unknown[0]!r}")
    absent = [key for key in required if key not in record]
    if absent:
        raise ValueError(f"{place} must have the key {absent[0]!r}; its keys: {', '.join(valid)}")
