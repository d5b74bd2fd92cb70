"""What is tried next, and what is ended early."""

from __future__ import annotations

import math

import pytest

from orchestrator.search import Space, Tried, suggest

SPACE = Space(centre=0.01, centre_batch=0, batches=1)


def loss(rate: float, best: float) -> float:
    return 2.0 * math.exp(0.03 * math.log(rate / best) ** 2)


def search(best: float, count: int, *, space: Space = SPACE) -> list[Tried]:
    tried: list[Tried] = []
    for _ in range(count):
        asked = suggest(space, tried, seed=0)
        value = loss(asked.learning_rate, best) * (1 + 0.01 * abs(asked.batch - 2))
        tried.append(
            Tried(
                learning_rate=asked.learning_rate,
                batch=asked.batch,
                loss=value,
                over=True,
            )
        )
    return tried


def test_a_search_begins_at_the_rule_and_a_factor_of_four_around_it() -> None:
    assert [t.learning_rate for t in search(0.01, 3)] == pytest.approx([0.01, 0.0025, 0.04])


@pytest.mark.parametrize("best", [0.0003, 0.3])
def test_a_best_rate_at_the_edge_widens_the_search_until_it_is_inside(best: float) -> None:
    tried = search(best, 12)
    rates = [t.learning_rate for t in tried]
    found = min(tried, key=lambda t: t.loss or 0).learning_rate
    assert min(rates) < found < max(rates)
    assert found == pytest.approx(best, rel=0.6)


def test_no_rate_beyond_the_hard_limits_is_tried() -> None:
    assert max(t.learning_rate for t in search(1e6, 12)) <= 1.0


def test_batches_are_searched_beside_rates() -> None:
    tried = search(0.01, 14, space=Space(centre=0.01, centre_batch=1, batches=4))
    assert {t.batch for t in tried} >= {0, 1, 2}
    assert min(tried, key=lambda t: t.loss or 0).batch == 2


def test_a_suggestion_is_a_function_of_what_was_tried() -> None:
    tried = search(0.008, 6)
    again = [suggest(SPACE, tried, seed=0).learning_rate for _ in range(2)]
    assert again[0] == again[1]
    assert suggest(SPACE, tried, seed=1).learning_rate != again[0]


def test_runs_under_way_ended_early_and_diverged_are_known_to_the_search() -> None:
    tried = [
        *search(0.008, 4),
        Tried(learning_rate=0.02, batch=0),
        Tried(learning_rate=0.03, batch=0, over=True, rungs=((25, 3.0),)),
        Tried(learning_rate=0.035, batch=0, over=True),
    ]
    assert 0.0025 <= suggest(SPACE, tried, seed=0).learning_rate <= 0.04
