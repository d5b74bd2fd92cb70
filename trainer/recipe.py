"""Named rules that turn a run's size into hyper-parameters.

In: N (parameters), D (training tokens), batch tokens, C (FLOPs). Out: a number, whether it was
clamped, and its source. Every rule was fitted on a range of sizes; outside it the value is held at
the nearest bound that was ever tried and `clamped` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from trainer.expression import parse_expression

LEARNING_RATE_BOUNDS = (1e-5, 2e-2)
"""Peak learning rates outside this range were never stable or never useful for AdamW here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleValue:
    """The value of a rule at one run's size."""

    value: float
    """The hyper-parameter, in the rule's unit."""
    clamped: bool
    """Whether the formula left the rule's bounds and was held at one."""
    source: str
    """Formula and citation, for the plan and the report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Size:
    params: float
    tokens: float
    batch_tokens: float
    flops: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    formula: Callable[[_Size], float]
    source: str


_LEARNING_RATES: dict[str, _Rule] = {
    "byte_small": _Rule(
        # Measured on byte-level transformers of 3k to 70k matmul parameters, context 128, 8
        # sequences a step, on the Python standard library's source.
        formula=lambda s: 0.016 * (s.params / 3e4) ** -0.25,
        source="byte_small: 0.016 (N / 3e4)^-0.25, measured on byte-level models of 3k-70k matmul "
        "parameters",
    ),
    "porian": _Rule(
        # N includes the head; fitted at D = 20 N with a constant learning rate.
        formula=lambda s: 3.7 * s.params**-0.36,
        source="porian: 3.7 N^-0.36, Porian et al. 2024, arXiv 2406.19146, section 3.4",
    ),
    "steplaw": _Rule(
        # N excludes the vocabulary; AdamW, cosine to a fixed 1e-5.
        formula=lambda s: 1.79 * s.params**-0.713 * s.tokens**0.307,
        source="steplaw: 1.79 N^-0.713 D^0.307, Li et al. 2025, arXiv 2503.04715",
    ),
    "deepseek": _Rule(
        formula=lambda s: 0.3118 * s.flops**-0.1250,
        source="deepseek: 0.3118 C^-0.1250, DeepSeek-AI 2024, arXiv 2401.02954, section 3.1",
    ),
}

_BATCH_TOKENS: dict[str, _Rule] = {
    "porian": _Rule(
        formula=lambda s: 0.7576 * s.params**0.703,
        source="porian: 0.7576 N^0.703 tokens, Porian et al. 2024, arXiv 2406.19146, section 3.4",
    ),
    "steplaw": _Rule(
        formula=lambda s: 0.58 * s.tokens**0.571,
        source="steplaw: 0.58 D^0.571 tokens, Li et al. 2025, arXiv 2503.04715",
    ),
    "deepseek": _Rule(
        formula=lambda s: 0.2920 * s.flops**0.3271,
        source="deepseek: 0.2920 C^0.3271 tokens, DeepSeek-AI 2024, arXiv 2401.02954, section 3.1",
    ),
}

_WEIGHT_DECAYS: dict[str, Callable[[float, _Size], float]] = {
    # The averaging horizon of AdamW in passes over the data, tau = B / (rate * decay * D), is best
    # at 1.084 (D/N)^-0.527.
    "powerlines": lambda rate, s: (
        s.batch_tokens * (s.tokens / s.params) ** 0.527 / (1.084 * rate * s.tokens)
    ),
}
_POWERLINES = "powerlines: B (D/N)^0.527 / (1.084 rate D), Bergsma et al. 2025, arXiv 2505.13738"

_WARMUPS: dict[str, Callable[[_Size], float]] = {"porian": lambda s: s.params / s.tokens}
_PORIAN_WARMUP = "porian: N tokens, Porian et al. 2024, arXiv 2406.19146"

LEARNING_RATE_RULES: tuple[str, ...] = tuple(_LEARNING_RATES)
"""Names that `learning_rate` knows."""

BATCH_RULES: tuple[str, ...] = tuple(_BATCH_TOKENS)
"""Names that `batch_tokens` knows."""

WEIGHT_DECAY_RULES: tuple[str, ...] = tuple(_WEIGHT_DECAYS)
"""Names that `weight_decay` knows."""

WARMUP_RULES: tuple[str, ...] = tuple(_WARMUPS)
"""Names that `warmup_fraction` knows."""

WEIGHT_DECAY_BOUNDS = (0.0, 1.0)
"""Decay outside this range is held at its bound."""

WARMUP_BOUNDS = (0.0, 0.5)
"""Share of a run that a rule may spend warming up."""

EXPRESSION_RATE_BOUNDS = (1e-7, 1.0)
"""Learning rates that a person's own expression may give."""


def learning_rate(
    rule: str, *, params: float, tokens: float, batch_tokens: float, flops: float
) -> RuleValue:
    """Peak learning rate by a named rule.

    Args:
        rule: one of `LEARNING_RATE_RULES`.
        params: N under the rule's own convention, scalars.
        tokens: training tokens D.
        batch_tokens: tokens per step.
        flops: training FLOPs C.

    Raises:
        ValueError: for an unknown rule or a size that is not positive.
    """
    size = _Size(params=params, tokens=tokens, batch_tokens=batch_tokens, flops=flops)
    return _apply(rule, _LEARNING_RATES, size, LEARNING_RATE_BOUNDS)


def batch_tokens(
    rule: str, *, params: float, tokens: float, flops: float, context: int
) -> RuleValue:
    """Tokens per step by a named rule, at least one sequence.

    Args:
        rule: one of `BATCH_RULES`.
        params: N under the rule's own convention, scalars.
        tokens: training tokens D.
        flops: training FLOPs C.
        context: tokens of one sequence; the value is not rounded to it.

    Raises:
        ValueError: for an unknown rule or a size that is not positive.
    """
    size = _Size(params=params, tokens=tokens, batch_tokens=float(context), flops=flops)
    return _apply(rule, _BATCH_TOKENS, size, (float(context), max(float(context), tokens)))


def weight_decay(
    rule: str,
    *,
    params: float,
    tokens: float,
    batch_tokens: float,
    flops: float,
    learning_rate: float,
) -> RuleValue:
    """Decoupled weight decay by a named rule; arguments as of `learning_rate`.

    Args:
        rule: one of `WEIGHT_DECAY_RULES`.
        params: N, scalars.
        tokens: training tokens D.
        batch_tokens: tokens per step.
        flops: training FLOPs C.
        learning_rate: the run's peak learning rate.

    Raises:
        ValueError: for an unknown rule or a size that is not positive.
    """
    size = _Size(params=params, tokens=tokens, batch_tokens=batch_tokens, flops=flops)
    rules = {
        name: _Rule(formula=partial(formula, learning_rate), source=_POWERLINES)
        for name, formula in _WEIGHT_DECAYS.items()
    }
    return _apply(rule, rules, size, WEIGHT_DECAY_BOUNDS)


def warmup_fraction(
    rule: str, *, params: float, tokens: float, batch_tokens: float, flops: float
) -> RuleValue:
    """Share of the steps spent warming up by a named rule; arguments as of `learning_rate`.

    Raises:
        ValueError: for an unknown rule or a size that is not positive.
    """
    size = _Size(params=params, tokens=tokens, batch_tokens=batch_tokens, flops=flops)
    rules = {name: _Rule(formula=f, source=_PORIAN_WARMUP) for name, f in _WARMUPS.items()}
    return _apply(rule, rules, size, WARMUP_BOUNDS)


def own_rule(
    text: str,
    *,
    params: float,
    tokens: float,
    batch_tokens: float | None,
    flops: float,
    bounds: tuple[float, float],
) -> RuleValue:
    """The value of a person's own expression at a run's size, held within bounds.

    Args:
        text: arithmetic of N, D, B and C (`trainer.expression`).
        params: N, matmul parameters.
        tokens: training tokens D.
        batch_tokens: tokens per step B; None where it is what the expression gives.
        flops: training FLOPs C.
        bounds: least and greatest value.

    Raises:
        ExpressionError: when it is not arithmetic, or has no value there.
    """
    sizes = {"N": params, "D": tokens, "C": flops}
    if batch_tokens is not None:
        sizes["B"] = batch_tokens
    raw = parse_expression(text, variables=tuple(sizes))(**sizes)
    value = min(max(raw, bounds[0]), bounds[1])
    return RuleValue(value=value, clamped=value != raw, source=text)


def _apply(
    name: str, rules: dict[str, _Rule], size: _Size, bounds: tuple[float, float]
) -> RuleValue:
    if name not in rules:
        raise ValueError(f"unknown rule {name!r}; valid rules: {', '.join(rules)}")
    for field in _Size.__dataclass_fields__:
        if not getattr(size, field) > 0:
            raise ValueError(
                f"{field} must be positive for rule {name!r}, got {getattr(size, field)}"
            )
    raw = rules[name].formula(size)
    value = min(max(raw, bounds[0]), bounds[1])
    return RuleValue(value=value, clamped=value != raw, source=rules[name].source)
