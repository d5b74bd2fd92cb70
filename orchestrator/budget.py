"""The schema of `budget.yaml`: what a person asks for, checked, with every default visible.

In: the text of a budget file. Out: a frozen `Budget`, or one `BadInput` that names every fault of
the file with its line, column, and the valid keys or values.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from orchestrator.errors import BadInput, Fault, nearest
from orchestrator.model_section import Mixture, Model, Shape, WholeNumber
from orchestrator.section import Section as _Section
from orchestrator.units import Count, Flops, Seconds, parse_count
from orchestrator.yaml_source import Path, Source, parse_yaml
from trainer.expression import parse_expression
from trainer.recipe import BATCH_RULES, LEARNING_RATE_RULES, WARMUP_RULES, WEIGHT_DECAY_RULES

_VARIABLES = ("N", "D", "B", "C")
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


def _name(value: str) -> str:
    if not re.fullmatch(NAME_PATTERN, value):
        raise ValueError(
            "must be 1 to 64 letters, digits, `.`, `_` or `-`, beginning with a letter or digit, "
            f"got `{value[:80]}`"
        )
    return value


def _rule(
    value: object, *, rules: tuple[str, ...], low: float, high: float, variables: tuple[str, ...]
) -> float | str:
    """A number in a range, the name of a rule, or arithmetic of the run's size.

    Raises:
        ValueError: when it is none of them.
    """
    if isinstance(value, str) and value in rules:
        return value
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]+", value):
        hint = nearest(value, rules)
        raise ValueError(
            f"must be a number, an expression or the name of a rule, got `{value}`; {hint}"
        )
    try:
        number = parse_count(value)
    except ValueError:
        if not isinstance(value, str):
            raise
        return parse_expression(value, variables=variables).text
    if not low <= number <= high:
        raise ValueError(f"must be from {low:g} to {high:g}, got {number:g}")
    return number


def _learning_rate(value: object) -> float | str:
    rate = _rule(
        value, rules=LEARNING_RATE_RULES, low=-math.inf, high=math.inf, variables=_VARIABLES
    )
    if not isinstance(rate, str) and not 0 < rate <= 10:
        raise ValueError(f"must be greater than 0 and at most 10, got {rate:g}")
    return rate


def _batch_tokens(value: object) -> float | str:
    rules = ("auto", *BATCH_RULES)
    tokens = _rule(value, rules=rules, low=-math.inf, high=math.inf, variables=("N", "D", "C"))
    if not isinstance(tokens, str) and tokens < 1:
        raise ValueError(f"must be at least 1 token, got {tokens:g}")
    return tokens


def _weight_decay(value: object) -> float | str:
    return _rule(value, rules=WEIGHT_DECAY_RULES, low=0, high=10, variables=_VARIABLES)


def _warmup_fraction(value: object) -> float | str:
    return _rule(value, rules=WARMUP_RULES, low=0, high=0.99, variables=_VARIABLES)


Fraction = Annotated[float, Field(ge=0, lt=1)]
LearningRate = Annotated[float | str, BeforeValidator(_learning_rate)]
BatchTokens = Annotated[float | str, BeforeValidator(_batch_tokens)]
WeightDecay = Annotated[float | str, BeforeValidator(_weight_decay)]
WarmupFraction = Annotated[float | str, BeforeValidator(_warmup_fraction)]


class Spending(_Section):
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

    class Target(_Section):
        """The training run that the answer is for."""

        flops: Flops | None = None
        """Compute of the run you are going to pay for; default: 10 times the largest level."""
        precision: Annotated[float, Field(gt=1, le=100)] | None = None
        """Open no further round once the interval of the ratio is narrower than this factor from
        end to end, such as 1.5; default: spend the budget."""
        validate: bool = False  # type: ignore[assignment]
        """Keep a quarter of the budget to train the predicted optimum and score the forecast of its
        loss, which is frozen before the run begins."""


class Data(_Section):
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


class Training(_Section):
    """How each model is trained. Rules are evaluated at every trial's own N and D."""

    learning_rate: LearningRate = "byte_small"
    """Peak learning rate: a number, a rule by name (see `sweep plan --show-defaults`), or
    arithmetic of N, D, B and C such as "0.02 * (N/1e6)**-0.3"."""
    batch_tokens: BatchTokens = "auto"
    """Tokens per step: a number, a rule by name, arithmetic of N, D and C, or `auto`:
    0.58 D^0.571 (Step Law, arXiv 2503.04715), at most D/2000."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """Learning-rate schedule; both end at the run's own D."""
    warmup_fraction: WarmupFraction = 0.05
    """Share of the steps spent warming up: a number, a rule by name, or arithmetic."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """The same warmup for every run instead, steps: `wsd` runs of one size then share their trunk,
    and several token counts of a size cost little more than the longest."""
    cooldown_fraction: Fraction = 0.2
    """Share of the steps spent cooling down (`wsd`)."""
    weight_decay: WeightDecay = 0.1
    """Decoupled weight decay of the matrices: a number, a rule by name, or arithmetic."""
    beta1: Fraction = 0.9
    """AdamW's first-moment decay."""
    beta2: Fraction = 0.95
    """AdamW's second-moment decay."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest global gradient norm; 0: no clipping."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of training. `auto`: bf16 where a short measurement at the start finds it a fifth
    faster or more, else fp32; chosen once for a sweep. Evaluation is always in fp32."""
    min_steps: WholeNumber = 500
    """A trial of fewer steps is refused: its loss would measure the warmup."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)] = (0,)
    """Every trial is run once per seed."""
    recipe: str | Recipe | None = None
    """A file that `sweep tune` wrote: its learning rate, and its batch where one was searched, take
    the place of the keys above, and plan and report name where they come from."""

    @model_validator(mode="after")
    def _recipe_alone(self) -> Self:
        if isinstance(self.recipe, str) and "learning_rate" in self.model_fields_set:
            raise ValueError(
                "`recipe` gives what learning_rate would give; keep one of them, got both"
            )
        return self


class RecipeCheck(_Section):
    """A check of the learning rate before the sweep spends on it."""

    verify: Annotated[int, Field(ge=0, le=2)] = 0
    """Number of sizes of the first level at which half and twice the learning rate are trained too;
    a recipe that is worse than a neighbour beyond noise is refused. 0: no check."""


class Recipe(_Section):
    """Hyper-parameters that were tuned, and where."""

    learning_rate: LearningRate
    """Peak learning rate."""
    batch_tokens: BatchTokens | None = None
    """Tokens per step; absent: the budget's."""
    origin: str
    """Which search found them, at which sizes."""


class IsoflopDesign(_Section):
    """Levels of equal compute, several sizes in each, re-centred level by level."""

    kind: Literal["isoflop"] = "isoflop"
    """`isoflop`: levels of equal compute. Others: `adaptive`, `grid`, `ladder`, `file`."""
    levels: Annotated[int, Field(ge=1, le=20)] | tuple[Flops, ...] = 4
    """Number of levels (their compute follows from the budget), or the levels themselves, FLOPs."""
    level_factor: Annotated[float, Field(gt=1, le=100)] = 3.1622776601683795
    """Compute ratio between neighbouring levels."""
    sizes: Annotated[int, Field(ge=3, le=50)] = 7
    """Model sizes per level; 5 or more let a parabola be judged."""
    span: Annotated[float, Field(gt=1, le=100)] = 4.0
    """Sizes reach from centre / span to centre * span."""
    tokens_per_parameter: Annotated[float, Field(gt=0, le=1e6)] = 20.0
    """Where the first level is centred; later ones follow the measurements. About 20 for BPE
    tokens, about 100 for bytes."""

    @model_validator(mode="after")
    def _levels_ascend(self) -> Self:
        if isinstance(self.levels, tuple):
            if not self.levels:
                raise ValueError("`levels` must name at least one compute level")
            if list(self.levels) != sorted(set(self.levels)):
                raise ValueError("`levels` must ascend and differ, cheapest first")
        return self


class AdaptiveDesign(_Section):
    """An isoFLOP backbone, then batches chosen by how much they sharpen the answer per FLOP."""

    kind: Literal["adaptive"]
    """`adaptive`: a backbone of levels, then the runs that shrink the interval most."""
    backbone: Annotated[float, Field(ge=0.2, le=0.9)] = 0.4
    """Share of the budget spent on the levels before anything is chosen."""
    levels: Annotated[int, Field(ge=2, le=10)] = 4
    """Levels of the backbone."""
    level_factor: Annotated[float, Field(gt=1, le=100)] = 3.1622776601683795
    """Compute ratio between neighbouring levels."""
    sizes: Annotated[int, Field(ge=3, le=50)] = 5
    """Model sizes per level."""
    span: Annotated[float, Field(gt=1, le=100)] = 4.0
    """Sizes of a level reach from centre / span to centre * span."""
    tokens_per_parameter: Annotated[float, Field(gt=0, le=1e6)] = 20.0
    """Where the first level is centred; everything later follows the measurements."""
    batch: Annotated[int, Field(ge=1, le=100)] = 6
    """Runs chosen at a time."""
    dearest: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Most that one run may cost, as a share of the budget."""
    cost_range: Annotated[float, Field(gt=1, le=1000)] = 30.0
    """The cheapest run that may be chosen costs the dearest one's divided by this: far below, laws
    fitted to cheap runs bend."""
    ratio_window: Annotated[float, Field(gt=1, le=100)] = 10.0
    """Runs are chosen with D/N within this factor of the current estimate, and in 2 to 3000."""
    audit_every: Annotated[int, Field(ge=0, le=100)] = 3
    """Every so many batches one run is placed where the laws disagree most; 0: never."""


class GridDesign(_Section):
    """Every size at every number of tokens per parameter."""

    kind: Literal["grid"]
    """`grid`: sizes x tokens per parameter."""
    sizes: Annotated[tuple[Count, ...], Field(min_length=2)]
    """Sizes N, matmul parameters, such as [1M, 4M, 16M]; the nearest real shape is trained."""
    tokens_per_parameter: Annotated[tuple[Count, ...], Field(min_length=2)]
    """Values of D/N, such as [5, 20, 80]."""
    allow_narrow: bool = False
    """Plan a grid that spans less than 30x in N or in D all the same."""

    @model_validator(mode="after")
    def _values_ascend(self) -> Self:
        _ascending("sizes", self.sizes)
        _ascending("tokens_per_parameter", self.tokens_per_parameter)
        return self


class LadderDesign(_Section):
    """Sizes, each trained at several multiples of the Chinchilla-optimal tokens."""

    kind: Literal["ladder"]
    """`ladder`: sizes x multiples of `tokens_per_parameter`."""
    sizes: Annotated[tuple[Count, ...], Field(min_length=2)]
    """Sizes N, matmul parameters, such as [1M, 4M, 16M]; the nearest real shape is trained."""
    multiples: Annotated[tuple[Count, ...], Field(min_length=1)] = (0.5, 1.0, 2.0, 5.0, 10.0)
    """A run's tokens are multiple * tokens_per_parameter * N."""
    tokens_per_parameter: Annotated[float, Field(gt=0, le=1e6)] = 20.0
    """D/N of multiple 1: 20 for BPE tokens (Hoffmann et al. 2022), about 100 for bytes."""

    @model_validator(mode="after")
    def _values_ascend(self) -> Self:
        _ascending("sizes", self.sizes)
        _ascending("multiples", self.multiples)
        return self


class ListedPoint(_Section):
    """One run of a `file` design."""

    params: Count | None = None
    """Size N, matmul parameters; the nearest real shape is trained."""
    shape: Shape | None = None
    """Exact shape, instead of `params`."""
    tokens: Count
    """Training tokens D."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.params is None) == (self.shape is None):
            raise ValueError("a point needs `params` or `shape`, one of them")
        return self


class FileDesign(_Section):
    """Explicit points, from a file or written in the budget."""

    kind: Literal["file"]
    """`file`: a list of points."""
    path: str | None = None
    """CSV (columns params, tokens; or d_model, n_layer, n_head, tokens) or YAML list of points."""
    points: tuple[ListedPoint, ...] | None = None
    """The points themselves, instead of `path`: [{params: 1M, tokens: 20M}, ...]."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.path is None and not self.points:
            raise ValueError("`path` or `points` must be given")
        return self


def _ascending(name: str, values: tuple[float, ...]) -> None:
    if list(values) != sorted(set(values)):
        raise ValueError(f"`{name}` must ascend and differ, smallest first")


DESIGNS: dict[str, type[_Section]] = {
    "isoflop": IsoflopDesign,
    "adaptive": AdaptiveDesign,
    "grid": GridDesign,
    "ladder": LadderDesign,
    "file": FileDesign,
}
"""Kinds of designs by name; a design that names no kind is `isoflop`."""


def _kind(value: object) -> str:
    """Kind of a design, as a mapping or as a value."""
    if isinstance(value, Mapping):
        return str(value.get("kind", "isoflop"))
    return str(getattr(value, "kind", "isoflop"))


Design = Annotated[
    Annotated[IsoflopDesign, Tag("isoflop")]
    | Annotated[AdaptiveDesign, Tag("adaptive")]
    | Annotated[GridDesign, Tag("grid")]
    | Annotated[LadderDesign, Tag("ladder")]
    | Annotated[FileDesign, Tag("file")],
    Discriminator(_kind),
]
"""Which (N, D) points the budget is spent on."""


class Execution(_Section):
    """Where trials run. Nothing in here changes a loss."""

    executor: Literal["ray", "inline"] = "ray"
    """`ray`: Ray Tune workers. `inline`: one after the other in this process."""
    address: str | None = None
    """Address of a running Ray cluster; default: a private one on this machine."""
    slots: Annotated[int, Field(ge=1)] | None = None
    """Trials at a time; default: what the resources allow."""
    cpus_per_trial: Annotated[float, Field(gt=0)] = 1.0
    """CPU cores of one trial."""
    gpus_per_trial: Annotated[float, Field(ge=0)] | None = None
    """GPUs of one trial, fractions allowed; default: 1 where there is a GPU, else 0."""
    checkpoint_every: Seconds = 30.0
    """Time between checkpoints: what a lost worker can cost at most."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """How often a trial whose worker died is started again."""
    stalled_after: Seconds = 600.0
    """A trial whose step stands still for so long, and for 20 of its own steps, is stuck: its
    worker is ended and it goes on in another one."""


class Checks(_Section):
    """What is looked at before a sweep spends. Nothing in here changes a loss."""

    diagnose: bool = True
    """Whether the architecture must first pass the checks of first loss, targets, causality,
    gradient and learning by heart, on the sweep's own data (seconds, once per sweep)."""


class Tracking(_Section):
    """MLflow, a projection of the sweep's journal."""

    enabled: bool = True
    """Whether runs are projected at all; `sweep sync` can do it later."""
    uri: str | None = None
    """Tracking URI; default: `sqlite` in the outputs folder."""
    experiment: str = "isosweep"
    """Name of the MLflow experiment."""


class Budget(_Section):
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
        return record

    @property
    def digest(self) -> str:
        """SHA-256 of `science()`: equal digests plan the same trials from the same measurements."""
        text = json.dumps(self.science(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


Training.model_rebuild()
ListedPoint.model_rebuild()
Budget.model_rebuild()


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
        raise BadInput(_faults(error, source)) from None


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


def _faults(error: ValidationError, source: Source) -> list[Fault]:
    faults: dict[tuple[str, str], Fault] = {}
    for item in error.errors(include_url=False):
        path = _path(item["loc"])
        fault = _fault(item["type"], item, path, source)
        faults.setdefault((fault.place, fault.rule), fault)
    return sorted(faults.values(), key=lambda fault: _order(fault.place))


def _path(location: Path) -> Path:
    """Pydantic's location as a path of keys, without the tags of the unions on its way."""
    tagged = len(location) > 1 and location[0] == "design" and location[1] in DESIGNS
    untagged = (location[0], *location[2:]) if tagged else location
    return tuple(part for part in untagged if _is_key(part))


def _is_key(part: str | int) -> bool:
    return isinstance(part, int) or not re.search(r"[\[(]|^(tuple|float|int|str|literal)$", part)


def _fault(kind: str, item: Any, path: Path, source: Source) -> Fault:
    dotted = ".".join(map(str, path)) or "the file"
    place, excerpt = source.place(path), source.excerpt(path)
    if kind == "extra_forbidden":
        return Fault(
            code="SWP-1101",
            rule=f"`{dotted}` is no key of a budget",
            place=place,
            excerpt=excerpt,
            remedy=nearest(str(path[-1]), _valid_keys(path[:-1], source)),
        )
    if kind == "union_tag_invalid":
        return Fault(
            code="SWP-1103",
            rule=f"`{dotted}.kind`: must be one of {', '.join(DESIGNS)}, "
            f"got {_kind(item['input'])!r}",
            place=source.place((*path, "kind")),
            excerpt=source.excerpt((*path, "kind")),
            remedy=nearest(_kind(item["input"]), DESIGNS),
        )
    if kind == "missing":
        return Fault(
            code="SWP-1102",
            rule=f"`{dotted}` must be given",
            place=place,
            remedy=f"add `{path[-1]}:`; `sweep init` writes a complete example",
        )
    got = item["input"]
    message = item["msg"].removeprefix("Value error, ")
    if "got" not in message and not isinstance(got, dict):
        message = f"{message[:1].lower()}{message[1:]}, got {got!r}"
    return Fault(
        code="SWP-1103" if kind != "value_error" else "SWP-1104",
        rule=f"`{dotted}`: {message}",
        place=place,
        excerpt=excerpt,
        remedy=_description(path, source) or "see `sweep plan --show-defaults`",
    )


def _valid_keys(path: Path, source: Source) -> list[str]:
    model = _section(path, source)
    return list(model.model_fields) if model else []


def _description(path: Path, source: Source) -> str:
    model = _section(path[:-1], source) if path else None
    if model is None or str(path[-1]) not in model.model_fields:
        section = _section(path, source)
        return " ".join((section.__doc__ or "").split()) if section and path else ""
    return " ".join((model.model_fields[str(path[-1])].description or "").split())


def _section(path: Path, source: Source) -> type[BaseModel] | None:
    model: type[BaseModel] = Budget
    for place, part in enumerate(path):
        if part == "design" and place == 0:
            model = DESIGNS.get(_kind(source.value.get("design")), IsoflopDesign)
            continue
        if part in _ITEMS or isinstance(part, int):
            model = _ITEMS.get(str(part), model)
            continue
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type):
            return None
        if not issubclass(field.annotation, BaseModel):
            return None
        model = field.annotation
    return model


_ITEMS: dict[str | int, type[BaseModel]] = {
    "shapes": Shape,
    "shape": Shape,
    "experts": Mixture,
    "points": ListedPoint,
}
"""Sections below keys whose annotation is not a section itself."""


def _order(place: str) -> tuple[int, int]:
    numbers = re.findall(r":(\d+)", place)
    return (int(numbers[-2]), int(numbers[-1])) if len(numbers) >= 2 else (0, 0)
