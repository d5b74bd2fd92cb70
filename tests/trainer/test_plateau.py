"""Losses on the unigram plateau, loops, idle experts are named; rows X3, X4, M9, the stuck runs."""

from __future__ import annotations

import math

import pytest

from trainer.plateau import climb, degenerate, label, lopsided


@pytest.mark.parametrize(
    ("loss", "unigram"),
    # The stuck runs of the femtoGPT diary: #11, #15, #16, #22, #25, #26.
    [(3.2494, 3.3128), (2.4628, 2.4635), (2.4748, 2.4635), (2.7072, 2.7161), (2.6963, 2.7161)],
)
def test_the_diaries_stuck_runs_are_on_the_unigram_plateau(loss: float, unigram: float) -> None:
    said = label(loss, uniform=math.log(256), unigram=unigram)
    assert said is not None
    assert said.startswith("unigram plateau")


def test_a_whole_epoch_of_diary_1_experiment_2_ended_on_the_unigram_plateau() -> None:
    """115.7 million tokens, and the held-out text's token frequencies were all that was learnt."""
    said = label(7.2842, uniform=math.log(50_257), unigram=7.2629)
    assert said is not None
    assert said.startswith("unigram plateau: the loss 7.284 is that of token frequencies alone")


@pytest.mark.parametrize(("loss", "unigram"), [(1.4760, 2.6088), (1.9082, 2.6088), (2.30, 2.9717)])
def test_runs_that_learnt_more_are_not(loss: float, unigram: float) -> None:
    assert label(loss, uniform=math.log(256), unigram=unigram) is None


def test_a_model_that_still_guesses_is_called_hardly_trained() -> None:
    said = label(5.4, uniform=math.log(256), unigram=2.6)
    assert said is not None
    assert said.startswith("hardly trained")


def test_the_first_epoch_of_diary_1_experiment_2_is_on_the_unigram_plateau() -> None:
    said = label(7.2842, uniform=math.log(50257), unigram=7.2629)
    assert said is not None
    assert said.startswith("unigram plateau")


def test_a_loss_that_climbs_well_above_its_lowest_is_diverging() -> None:
    assert climb([]) is None
    assert climb([3.0, 2.0, 2.1]) is None
    said = climb([3.0, 2.0, 2.5])
    assert said is not None
    assert said.startswith("diverging: the last training loss 2.500")


def test_a_loop_is_degenerate_and_text_is_not() -> None:
    assert degenerate(None) is None
    assert degenerate(0.5) is None
    said = degenerate(0.98)
    assert said is not None
    assert said.startswith("degenerate greedy text: 98%")


def test_a_router_that_prefers_few_experts_is_lopsided() -> None:
    assert lopsided(None) is None
    assert lopsided(1.4) is None
    said = lopsided(3.0)
    assert said is not None
    assert said.startswith("router lopsided: the busiest expert got 3.00")
