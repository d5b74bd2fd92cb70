"""The `training:` and `recipe:` sections of a budget: hyper-parameters, and their rules."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.errors import nearest
from orchestrator.model_section import WholeNumber
from orchestrator.section import Fraction, Section
from orchestrator.units import parse_count
from trainer.expression import parse_expression
from trainer.recipe import BATCH_RULES, LEARNING_RATE_RULES, WARMUP_RULES, WEIGHT_DECAY_RULES

_VARIABLES = ("N", "D", "B", "C")


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


LearningRate = Annotated[float | str, BeforeValidator(_learning_rate)]
BatchTokens = Annotated[float | str, BeforeValidator(_batch_tokens)]
WeightDecay = Annotated[float | str, BeforeValidator(_weight_decay)]
WarmupFraction = Annotated[float | str, BeforeValidator(_warmup_fraction)]


class Recipe(Section):
    """Hyper-parameters that were tuned, and where."""

    learning_rate: LearningRate
    """Peak learning rate."""
    batch_tokens: BatchTokens | None = None
    """Tokens per step; absent: the budget's."""
    origin: str
    """Which search found them, at which sizes."""


class Training(Section):
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


class RecipeCheck(Section):
    """A check of the learning rate before the sweep spends on it."""

    verify: Annotated[int, Field(ge=0, le=2)] = 0
    """Number of sizes of the first level at which half and twice the learning rate are trained too;
    a recipe that is worse than a neighbour beyond noise is refused. 0: no check."""
