"""The schema of `budget.yaml`: what a person asks for, checked, with every default visible.

In: the text of a budget file. Out: a frozen `Budget`, or one `BadInput` that names every fault of
the file with its line, column, and the valid keys or values.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from orchestrator.budget_faults import faults_of
from orchestrator.design_section import Design, IsoflopDesign
from orchestrator.errors import BadInput
from orchestrator.model_section import Model
from orchestrator.section import Fraction, Section
from orchestrator.training_section import RecipeCheck, Training
from orchestrator.units import Count, Flops, Seconds
from orchestrator.yaml_source import parse_yaml

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


def _name(value: str) -> str:
    if not re.fullmatch(NAME_PATTERN, value):
        raise ValueError(
            "must be 1 to 64 letters, digits, `.`, `_` or `-`, beginning with a letter or digit, "
            f"got `{value[:80]}`"
        )
    return value


def _storage(value: str) -> str:
    scheme, mark, rest = value.partition("://")
    if not mark or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) or not rest.strip("/"):
        raise ValueError(f"must be a URL such as s3://bucket/folder or file:///folder, got {value}")
    if "@" in rest.split("/")[0]:
        raise ValueError("must hold no credentials: they belong in the environment, got some")
    return value


class Spending(Section):
    """How much may be spent: one of `flops`, `gpu_hours`, `cpu_hours`, or `gpus` + `wall_clock`."""

    flops: Flops | None = None
    """Total training compute of the sweep, FLOPs: 1e18, `2 EFLOP`."""
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """GPU-hours; turned into FLOPs by the throughput of this hardware."""
    cpu_hours: Annotated[float, Field(gt=0)] | None = None
    """Core-hours; turned into FLOPs by the throughput of this hardware."""
    gpus: Annotated[int, Field(ge=1)] | None = None
    """Number of GPUs, together with `wall_clock`."""
    wall_clock: Seconds | None = None
    """How long they are yours, with a unit: 24h, 90min, 2d."""
    price_per_hour: Annotated[float, Field(ge=0)] | None = None
    """Price of one GPU-hour (one core-hour on CPUs), in your currency; for the quotation only."""
    reserve: Fraction = 0.05
    """Share kept back for retries and evaluation."""

    @model_validator(mode="after")
    def _exactly_one_amount(self) -> Self:
        given = [
            name for name in ("flops", "gpu_hours", "cpu_hours") if getattr(self, name) is not None
        ]
        if self.gpus is not None or self.wall_clock is not None:
            given.append("gpus + wall_clock")
            if self.gpus is None or self.wall_clock is None:
                raise ValueError("`gpus` and `wall_clock` must be given together")
        if len(given) != 1:
            found = ", ".join(given) or "none"
            raise ValueError(
                "exactly one of `flops`, `gpu_hours`, `cpu_hours` or `gpus` + `wall_clock` must be "
                f"given, got {found}"
            )
        return self


with warnings.catch_warnings():
    # The key's natural name is also that of a method that pydantic has deprecated.
    warnings.filterwarnings("ignore", message='Field name "validate" in "Target" shadows')

    class Target(Section):
        """The training run that the answer is for."""

        flops: Flops | None = None
        """Compute of the run you are going to pay for; default: 10 times the largest level."""
        precision: Annotated[float, Field(gt=1, le=100)] | None = None
        """Open no further round once the interval of the ratio is narrower than this factor from
        end to end, such as 1.5; default: spend the budget."""
        validate: bool = False  # type: ignore[assignment]
        """Keep a quarter of the budget to train the predicted optimum and score the forecast of its
        loss, which is frozen before the run begins."""


class Data(Section):
    """What the models learn from, and what they are judged on."""

    corpus: str | Annotated[tuple[str, ...], Field(min_length=1)] = "embedded"
    """`embedded` (this Python's standard-library source), a path, glob or list of files (text,
    jsonl, parquet), `synthetic:<kind>`, or a Hugging Face dataset as `name` or `name:config`."""
    text_column: str = "text"
    """Column that holds the text, for jsonl, parquet and hub datasets."""
    tokenizer: str = "byte"
    """`byte`, `char`, `bpe:<vocabulary size>` (trained on the corpus), or a Hugging Face tokenizer
    by name or local folder."""
    validation: str | None = None
    """Held-out text (path, or a hub split); default: a share of the corpus's documents."""
    validation_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Share of documents held out when `validation` is not given."""
    validation_tokens: Count = 131072.0
    """Held-out tokens that every trial is evaluated on."""


class GpuShare(Section):
    """GPUs of trials up to a size."""

    up_to: Count | None = None
    """Largest N, matmul parameters; none in the last entry, which holds for all larger sizes."""
    gpus: Annotated[float, Field(gt=0)]
    """GPUs of one such trial: a part of one, or whole ones."""

    @field_validator("gpus")
    @classmethod
    def _whole_above_one(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"must be a part of one GPU or a whole number of them, got {gpus:g}")
        return gpus


class Execution(Section):
    """Where trials run. Nothing in here changes a loss."""

    executor: Literal["ray", "inline"] = "ray"
    """`ray`: Ray Tune workers. `inline`: one after the other in this process."""
    address: str | None = None
    """Address of a running Ray cluster; default: a private one on this machine."""
    storage: Annotated[str, AfterValidator(_storage)] | None = None
    """A folder at a URL (s3://, gs://, file://, any that fsspec knows) through which trials get
    tokens and leave checkpoints and results, for nodes that share no disk; default: the outputs
    folder, which every node must see."""
    slots: Annotated[int, Field(ge=1)] | None = None
    """Trials at a time; default: what the resources allow."""
    cpus_per_trial: Annotated[float, Field(gt=0)] = 1.0
    """CPU cores of one trial."""
    gpus_per_trial: Annotated[float, Field(ge=0)] | None = None
    """GPUs of one trial, fractions allowed; default: 1 where there is a GPU, else 0."""
    gpus_by_size: Annotated[tuple[GpuShare, ...], Field(min_length=1)] | None = None
    """In place of `gpus_per_trial`: GPUs of one trial by the size of its model, smallest first,
    so that small models share a GPU and large ones have several."""
    checkpoint_every: Seconds = 30.0
    """Time between checkpoints: what a lost worker can cost at most."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """How often a trial whose worker died is started again."""
    stalled_after: Seconds = 600.0
    """A trial whose step stands still for so long, and for 20 of its own steps, is stuck: its
    worker is ended and it goes on in another one."""

    @model_validator(mode="after")
    def _gpus_once(self) -> Self:
        if self.gpus_by_size is None:
            return self
        if self.gpus_per_trial is not None:
            raise ValueError("`gpus_per_trial` and `gpus_by_size` exclude each other, got both")
        bounds = [share.up_to for share in self.gpus_by_size]
        given = [bound for bound in bounds[:-1] if bound is not None]
        if bounds[-1] is not None or len(given) < len(bounds) - 1 or given != sorted(set(given)):
            found = ", ".join("none" if bound is None else f"{bound:g}" for bound in bounds)
            raise ValueError(
                "`gpus_by_size` must go from small to large: `up_to` ascending, and none in the "
                f"last entry alone, got {found}"
            )
        return self


class Checks(Section):
    """What is looked at before a sweep spends. Nothing in here changes a loss."""

    diagnose: bool = True
    """Whether the architecture must first pass the checks of first loss, targets, causality,
    gradient and learning by heart, on the sweep's own data (seconds, once per sweep)."""


class Tracking(Section):
    """MLflow, a projection of the sweep's journal."""

    enabled: bool = True
    """Whether runs are projected at all; `sweep sync` can do it later."""
    uri: str | None = None
    """Tracking URI; default: `sqlite` in the outputs folder."""
    experiment: str = "isosweep"
    """Name of the MLflow experiment."""


class Budget(Section):
    """A whole budget file."""

    name: Annotated[str, AfterValidator(_name)]
    """Name of the sweep and of its folder."""
    budget: Spending
    """How much may be spent."""
    target: Target = Target()
    """The run that the answer is for."""
    data: Data = Data()
    """What the models learn from."""
    model: Model = Model()
    """The family of models."""
    training: Training = Training()
    """How each model is trained."""
    design: Design = IsoflopDesign()
    """Which points the budget is spent on."""
    recipe: RecipeCheck = RecipeCheck()
    """Is the learning rate right?"""
    run: Execution = Execution()
    """Where trials run."""
    checks: Checks = Checks()
    """What is looked at before a sweep spends."""
    tracking: Tracking = Tracking()
    """MLflow."""

    def science(self) -> dict[str, Any]:
        """Everything that can change which trials are planned or what they measure."""
        record = self.model_dump(mode="json", exclude={"name", "run", "checks", "tracking"})
        record["budget"].pop("price_per_hour")
        record["model"] = self.model.science()
        # Added after sweeps had begun without it: unused, it leaves their digests as they are.
        if record["design"].get("overlap") is False:
            del record["design"]["overlap"]
        return record

    @property
    def digest(self) -> str:
        """SHA-256 of `science()`: equal digests plan the same trials from the same measurements."""
        text = json.dumps(self.science(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def parse_budget(text: str, *, file: str = "budget.yaml") -> Budget:
    """Read a budget.

    Args:
        text: the YAML text.
        file: the name to print in front of places.

    Raises:
        BadInput: with every fault of the file.
    """
    source = parse_yaml(text, file=file)
    try:
        return Budget.model_validate(source.value)
    except ValidationError as error:
        raise BadInput(faults_of(error, source, root=Budget)) from None


def json_schema() -> dict[str, Any]:
    """JSON Schema of a budget file, for editors."""
    schema = Budget.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Isosweep budget"
    return schema


def filled(record: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the keys that it lacks, at any depth, taken from another one."""
    missing = {key: value for key, value in other.items() if key not in record}
    return missing | {
        key: filled(value, other[key])
        if isinstance(value, Mapping) and isinstance(other.get(key), Mapping)
        else value
        for key, value in record.items()
    }


def changed_keys(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: old -> new` for every leaf in which two `science()` records differ."""
    lines = []
    for key in sorted(set(before) | set(after)):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += changed_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {json.dumps(old)} -> {json.dumps(new)}")
    return lines
