"""A rule for the learning rate from runs: a known law is found again, edges are called edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.recipe import TriedRun, rate_rule, size_optimum

SIZES = (5e3, 2e4, 8e4)


def loss(rate: float, batch: float, params: float) -> float:
    """Best rate 0.02 (N/1e4)^-0.4, rising as the root of the batch; best batch 512."""
    best = 0.02 * (params / 1e4) ** -0.4 * math.sqrt(batch / 512)
    off, wide = math.log(rate / best), math.log(batch / 512)
    return 2.0 * math.exp(0.02 * off**2 + 0.01 * wide**2)


def runs(params: float, *, noise: float = 0.0, batches: tuple[float, ...] = (512.0,)) -> list:
    rng = np.random.default_rng(int(params))
    centre = 0.016 * (params / 1e4) ** -0.3
    return [
        TriedRun(
            learning_rate=rate,
            batch_tokens=batch,
            loss=loss(rate, batch, params) * math.exp(noise * rng.standard_normal()),
        )
        for batch in batches
        for rate in centre * np.array([0.25, 0.5, 1.0, 1.4, 2.0, 4.0])
    ]


def test_the_best_rate_of_a_size_is_the_parabolas_minimum() -> None:
    best = size_optimum(1e4, runs(1e4))
    assert best.standing == "fitted"
    assert best.learning_rate == pytest.approx(0.02, rel=1e-6)
    assert best.curvature == pytest.approx(0.04, rel=1e-6)
    assert best.interval[0] < 0.02 < best.interval[1]


def test_with_batches_the_best_pair_is_found_although_they_move_together() -> None:
    best = size_optimum(1e4, runs(1e4, batches=(128.0, 256.0, 512.0, 1024.0, 2048.0)))
    assert best.learning_rate == pytest.approx(0.02, rel=1e-3)
    assert best.batch_tokens == pytest.approx(512, rel=1e-3)
    assert best.batch_standing == "fitted"


def test_the_interval_of_the_best_rate_covers_it_nineteen_times_in_twenty() -> None:
    inside = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        tried = [
            TriedRun(
                learning_rate=run.learning_rate,
                batch_tokens=512.0,
                loss=(run.loss or 0.0) * math.exp(0.003 * rng.standard_normal()),
            )
            for run in runs(1e4)
        ]
        low, high = size_optimum(1e4, tried).interval
        inside += low <= 0.02 <= high
    assert inside >= 180


def test_a_rule_that_many_sizes_carry_is_found_again_against_the_prior() -> None:
    rule = rate_rule([size_optimum(n, runs(n)) for n in SIZES])
    assert rule.exponent == pytest.approx(0.4, abs=0.03)
    assert rule.rate(1e4) == pytest.approx(0.02, rel=0.05)
    low, high = rule.exponent_interval
    assert low < 0.4 < high
    assert rule.batch_text is None


def test_the_expression_of_a_rule_gives_its_rates() -> None:
    from trainer.expression import parse_expression

    rule = rate_rule([size_optimum(n, runs(n)) for n in SIZES])
    for n in (1e3, 1e5, 1e9):
        assert parse_expression(rule.learning_rate_text)(N=n) == pytest.approx(
            rule.rate(n), rel=5e-3
        )


def test_one_size_leaves_the_exponent_to_what_was_published() -> None:
    rule = rate_rule([size_optimum(1e4, runs(1e4))])
    assert rule.exponent == pytest.approx(0.3)
    assert rule.exponent_interval == pytest.approx((0.1, 0.5), abs=0.02)
    assert rule.rate(1e4) == pytest.approx(0.02, rel=1e-6)


@pytest.mark.parametrize("keep", [slice(0, 3), slice(3, 6)])
def test_a_best_run_at_the_edge_of_what_was_tried_is_called_that(keep: slice) -> None:
    tried = runs(1e4)[keep]
    best = size_optimum(1e4, tried)
    assert best.standing == "edge"
    assert best.interval == (tried[0].learning_rate, tried[-1].learning_rate)


def test_runs_ended_early_bracket_a_minimum_that_no_parabola_shows() -> None:
    tried = [
        TriedRun(learning_rate=rate, batch_tokens=512.0, loss=value)
        for rate, value in ((0.005, None), (0.01, 2.0), (0.012, 2.001), (0.04, None))
    ]
    best = size_optimum(1e4, tried)
    assert best.standing == "bracketed"
    assert best.interval == (0.005, 0.04)


def test_a_size_without_a_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="no run of N = 10000 has a loss"):
        size_optimum(1e4, [TriedRun(learning_rate=1.0, batch_tokens=1.0, loss=None)])
