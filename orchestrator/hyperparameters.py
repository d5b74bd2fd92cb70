"""The hyper-parameters of one run: the budget's rules evaluated at its own N, D, B and C."""

from __future__ import annotations

from orchestrator.budget import Budget
from orchestrator.errors import BadInput, Fault
from orchestrator.training_section import Recipe
from trainer.counts import ParameterCounts
from trainer.expression import ExpressionError
from trainer.recipe import (
    BATCH_RULES,
    EXPRESSION_RATE_BOUNDS,
    LEARNING_RATE_RULES,
    WARMUP_BOUNDS,
    WARMUP_RULES,
    WEIGHT_DECAY_BOUNDS,
    WEIGHT_DECAY_RULES,
    RuleValue,
    batch_tokens,
    learning_rate,
    own_rule,
    warmup_fraction,
    weight_decay,
)

FEW_STEPS = 1000
"""Fewer steps than this are flagged: warmup and schedule are then a visible part of the loss."""

_NUMBER = "the budget's number"
_WITHOUT_VOCABULARY = frozenset({"steplaw"})
"""Rules whose N leaves the vocabulary out."""


def batch_sequences(
    budget: Budget, counts: ParameterCounts, *, tokens: float, flops: float
) -> tuple[int, bool]:
    """Whole sequences per step, at least one, and whether the rule was clamped.

    Raises:
        BadInput: when the budget's expression has no value at this size.
    """
    context, asked = budget.model.context, budget.training.batch_tokens
    if not isinstance(asked, str):
        return max(1, round(asked / context)), False
    if asked in BATCH_RULES or asked == "auto":
        name = "steplaw" if asked == "auto" else asked
        rule = batch_tokens(
            name, params=_params(name, counts), tokens=tokens, flops=flops, context=context
        )
    else:
        rule = _own(
            "batch_tokens", asked, counts, tokens, None, flops, (context, max(context, tokens))
        )
    most = tokens / (2 * FEW_STEPS) if asked == "auto" else rule.value
    return max(1, round(min(rule.value, most) / context)), rule.clamped and asked != "auto"


def peak_learning_rate(
    budget: Budget, counts: ParameterCounts, *, tokens: int, step_tokens: int, flops: float
) -> RuleValue:
    """Peak learning rate of a run, and where it comes from.

    Raises:
        BadInput: when the budget's expression has no value at this size.
    """
    asked, recipe = budget.training.learning_rate, budget.training.recipe
    origin = f" ({recipe.origin})" if isinstance(recipe, Recipe) else ""
    if not isinstance(asked, str):
        return RuleValue(value=asked, clamped=False, source=_NUMBER + origin)
    if asked in LEARNING_RATE_RULES:
        params = _params(asked, counts)
        return learning_rate(
            asked, params=params, tokens=tokens, batch_tokens=step_tokens, flops=flops
        )
    own = _own("learning_rate", asked, counts, tokens, step_tokens, flops, EXPRESSION_RATE_BOUNDS)
    return RuleValue(value=own.value, clamped=own.clamped, source=own.source + origin)


def decay(
    budget: Budget,
    counts: ParameterCounts,
    *,
    tokens: int,
    step_tokens: int,
    flops: float,
    rate: float,
) -> RuleValue:
    """Weight decay of a run with a peak learning rate.

    Raises:
        BadInput: when the budget's expression has no value at this size.
    """
    asked = budget.training.weight_decay
    if not isinstance(asked, str):
        return RuleValue(value=asked, clamped=False, source=_NUMBER)
    if asked in WEIGHT_DECAY_RULES:
        return weight_decay(
            asked,
            params=counts.matmul,
            tokens=tokens,
            batch_tokens=step_tokens,
            flops=flops,
            learning_rate=rate,
        )
    return _own("weight_decay", asked, counts, tokens, step_tokens, flops, WEIGHT_DECAY_BOUNDS)


def warmup_share(
    budget: Budget, counts: ParameterCounts, *, tokens: int, step_tokens: int, flops: float
) -> RuleValue:
    """Share of a run's steps spent warming up.

    Raises:
        BadInput: when the budget's expression has no value at this size.
    """
    asked = budget.training.warmup_fraction
    if not isinstance(asked, str):
        return RuleValue(value=asked, clamped=False, source=_NUMBER)
    if asked in WARMUP_RULES:
        return warmup_fraction(
            asked, params=counts.matmul, tokens=tokens, batch_tokens=step_tokens, flops=flops
        )
    return _own("warmup_fraction", asked, counts, tokens, step_tokens, flops, WARMUP_BOUNDS)


def _params(rule: str, counts: ParameterCounts) -> int:
    """N as a named rule counts it."""
    return counts.body if rule in _WITHOUT_VOCABULARY else counts.matmul


def _own(
    key: str,
    text: str,
    counts: ParameterCounts,
    tokens: float,
    step_tokens: float | None,
    flops: float,
    bounds: tuple[float, float],
) -> RuleValue:
    try:
        return own_rule(
            text,
            params=counts.matmul,
            tokens=tokens,
            batch_tokens=step_tokens,
            flops=flops,
            bounds=bounds,
        )
    except ExpressionError as error:
        raise BadInput(
            Fault(
                code="SWP-1206",
                rule=f"an expression has a value at every run's size: {error}",
                place=f"training.{key}",
                remedy="keep roots, logarithms and divisions inside their range, with min() and "
                "max() if need be",
            )
        ) from None
