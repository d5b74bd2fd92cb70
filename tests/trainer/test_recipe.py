"""Values of the named rules, from their papers' formulas."""

from __future__ import annotations

import pytest

from trainer.recipe import BATCH_RULES, LEARNING_RATE_RULES, batch_tokens, learning_rate

SIZE = {"params": 1e9, "tokens": 2e10, "batch_tokens": 5e5, "flops": 1.2e20}


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        # 3.7 * 10^(9 * -0.36); 1.79 * 10^(9 * -0.713) * (2e10)^0.307; 0.3118 * (1.2e20)^-0.125
        ("porian", 2.128e-3),
        ("steplaw", 9.960e-4),
        ("deepseek", 9.638e-4),
        ("byte_small", 1.1841e-3),
    ],
)
def test_learning_rate_rules_give_their_papers_values(rule: str, value: float) -> None:
    found = learning_rate(rule, **SIZE)
    assert found.value == pytest.approx(value, rel=2e-3)
    assert not found.clamped
    assert found.source.startswith(rule)


def test_byte_small_is_the_measured_rule_with_its_cap() -> None:
    at = {"tokens": 1e6, "batch_tokens": 1024, "flops": 1e11}
    assert learning_rate("byte_small", params=3e4, **at).value == pytest.approx(0.016)
    capped = learning_rate("byte_small", params=3e3, **at)
    assert capped.value == 0.02
    assert capped.clamped


@pytest.mark.parametrize(
    ("rule", "value"), [("porian", 1.610e6), ("steplaw", 4.46e5), ("deepseek", 1.076e6)]
)
def test_batch_rules_give_their_papers_values(rule: str, value: float) -> None:
    found = batch_tokens(rule, params=1e9, tokens=2e10, flops=1.2e20, context=2048)
    assert found.value == pytest.approx(value, rel=1e-2)


def test_a_batch_is_at_least_one_sequence_and_at_most_the_run() -> None:
    small = batch_tokens("porian", params=100, tokens=1e6, flops=1e9, context=128)
    assert (small.value, small.clamped) == (128.0, True)
    large = batch_tokens("porian", params=1e9, tokens=1e5, flops=1e9, context=128)
    assert (large.value, large.clamped) == (1e5, True)


def test_unknown_rules_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="valid rules: byte_small, porian, steplaw, deepseek"):
        learning_rate("chinchilla", **SIZE)
    assert "byte_small" in LEARNING_RATE_RULES
    assert "byte_small" not in BATCH_RULES


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="params must be positive for rule 'porian', got 0"):
        learning_rate("porian", **{**SIZE, "params": 0})
