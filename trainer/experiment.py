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

from trainer.config import (
    EarlyStopping,
    Init,
    OptimizerConfig,
    Order,
    Precision,
    ScheduleConfig,
    TrainConfig,
)
from trainer.conversions import perplexity
from trainer.data.source import DataSource
from trainer.shapes import (
    FAMILIES,
    Experts,
    LatentAttention,
    ModelShape,
    count_parameters,
    preset,
)


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
    order: Order = "epochs"
    """Permuted epochs, or windows drawn anywhere with wrap-around."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reported:
    """What was written down of the run that an experiment repeats."""

    parameters: int
    """Trained scalars."""
    tokens: int
    """Training tokens seen."""
    planned_steps: int | None = None
    """Steps that had been planned, where another number was run."""
    train_loss: float | None = None
    """Training loss at the end, nats per token."""
    validation_loss: float | None = None
    """Held-out loss, nats per token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What was declared before the run, so that its verdict is no matter of taste."""

    perplexity: list[float]
    """Lowest and highest held-out perplexity per token that would confirm the expectation."""

    def verdict(self, loss: float) -> str:
        """The held-out loss against the declared range: exceeded (better), met or missed.

        Args:
            loss: nats per token.
        """
        low, high = self.perplexity
        found = perplexity(loss)
        word = "exceeded" if found < low else "met" if found <= high else "missed"
        return f"{word}: perplexity {found:.2f}, declared {low:g} to {high:g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Variation:
    """A hypothesis: another experiment with a few axes changed, and with nothing else changed."""

    base: str
    """File of the other experiment, from this file's folder."""
    axes: list[str]
    """Keys that differ, such as `model.n_layer`, as `differences` names them."""


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
    early_stopping: EarlyStopping | None = None
    """When the run ends before its last step; None: never."""
    reported: Reported | None = None
    """What is known of the original, if it is a repetition."""
    target: Target | None = None
    """What was declared before the run."""
    varies: Variation | None = None
    """Which experiment this one changes, and where."""

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
            early_stopping=self.early_stopping,
            **dataclasses.asdict(self.length),
        )


_SECTIONS = ("data", "model", "optimizer", "schedule", "training")
_ABOUT = ("reported", "target", "varies")
"""Keys that say something about the run as the file states it; changed runs have none of them."""


def parse_experiment(text: str, *, changes: Mapping[str, Any] | None = None) -> Experiment:
    """Read an experiment.

    Args:
        text: YAML with the keys `title`, `data` (fields of `DataSource`), `model` (`family`, the
            arguments of `preset` and any field of `ModelShape`), `optimizer`, `schedule`,
            `training` (fields of `Length`) and, optionally, `early_stopping`, `reported`, `target`,
            `varies`.
        changes: other values of some keys, such as `{"model.n_layer": 1}`; what the file reports,
            declares or compares is left out then.

    Raises:
        ValueError: naming the key, the rule and the value for the first thing that is wrong.
    """
    try:
        record = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"an experiment must be YAML: {error}") from error
    record = _mapping(record, "the file")
    required = ("title", *_SECTIONS)
    valid = (*required, "early_stopping", *_ABOUT)
    _check_keys(record, "the file", valid=valid, required=required)
    if changes:
        record = _changed(record, changes)
    if not isinstance(record["title"], str):
        raise ValueError(f"title must be one line of text, got {record['title']!r}")
    shape = _shape(_mapping(record["model"], "model"))
    length = _fill(Length, record["training"], "training")
    stopping = record.get("early_stopping")
    about: dict[str, Any] = {
        name: None if record.get(name) is None else _fill(kind, record[name], name)
        for name, kind in (("reported", Reported), ("target", Target), ("varies", Variation))
    }
    if about["reported"] is not None:
        _check_reported(about["reported"], shape, length)
    if about["target"] is not None:
        _check_target(about["target"])
    return Experiment(
        title=record["title"],
        data=_data(_mapping(record["data"], "data")),
        shape=shape,
        length=length,
        optimizer=_fill(OptimizerConfig, record["optimizer"], "optimizer"),
        schedule=_schedule(_mapping(record["schedule"], "schedule")),
        early_stopping=None
        if stopping is None
        else _fill(EarlyStopping, stopping, "early_stopping"),
        **about,
    )


def differences(one: Experiment, other: Experiment) -> dict[str, tuple[Any, Any]]:
    """Where two experiments differ, by key (`model.n_layer`): the value of each.

    Values are the resolved ones, so a width that follows from another one is a difference too.
    """
    first, second = _flat(_resolved(one)), _flat(_resolved(other))
    return {
        key: (first.get(key), second.get(key))
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    }


def check_variation(experiment: Experiment, base: Experiment) -> None:
    """Refuse a hypothesis that changes other axes than it names.

    Raises:
        ValueError: naming the axes that differ unsaid and those that are named and do not differ.
    """
    if experiment.varies is None:
        return
    found, named = set(differences(base, experiment)), set(experiment.varies.axes)
    if found != named:
        unsaid, same = sorted(found - named), sorted(named - found)
        raise ValueError(
            f"varies.axes must be the keys in which this experiment differs from "
            f"{experiment.varies.base}; not named: {', '.join(unsaid) or 'none'}; named without a "
            f"difference: {', '.join(same) or 'none'}; change one thing at a time, or name them"
        )


def _resolved(experiment: Experiment) -> dict[str, Any]:
    return {
        "data": dataclasses.asdict(experiment.data),
        "model": dataclasses.asdict(experiment.shape),
        "optimizer": dataclasses.asdict(experiment.optimizer),
        "schedule": dataclasses.asdict(experiment.schedule),
        "training": dataclasses.asdict(experiment.length),
    }


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _changed(record: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    record = {key: value for key, value in record.items() if key not in _ABOUT}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        if section not in _SECTIONS or not name or "." in name:
            raise ValueError(
                f"a change must be SECTION.KEY=VALUE with a section of {', '.join(_SECTIONS)}, "
                f"got {key!r}"
            )
        record[section] = {**_mapping(record[section], section), name: value}
    said = ", ".join(f"{key} = {value}" for key, value in changes.items())
    return {**record, "title": f"{record['title']}; {said}"}


def _check_target(target: Target) -> None:
    bounds = target.perplexity
    if len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1]:
        raise ValueError(
            f"target.perplexity must be the lowest and the highest perplexity, ascending and at "
            f"least 1, got {bounds}"
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
    for name, kind in (("latent", LatentAttention), ("experts", Experts)):
        if record.get(name) is not None:
            record[name] = _fill(kind, record[name], f"model.{name}")
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
