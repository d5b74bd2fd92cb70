"""One loss in every unit; rows X1, X2."""

from __future__ import annotations

import math

import pytest

from trainer.conversions import (
    bits_per_byte,
    loss_of_bits_per_byte,
    loss_of_perplexity,
    loss_of_word_perplexity,
    per_unit,
    perplexity,
    word_perplexity,
)
from trainer.result import RunResult, RunStatus

TOKENS, WORDS = 242_643, 217_646
"""GPT-2 tokens and words of WikiText's validation text."""


@pytest.mark.parametrize(
    ("loss", "stated"),
    [(6.1413, 464.66), (5.8991, 364.71), (4.1853, 65.71), (3.8358, 46.33)],
)
def test_the_diaries_perplexities_follow_from_their_losses(loss: float, stated: float) -> None:
    assert perplexity(loss) == pytest.approx(stated, abs=0.005)
    assert loss_of_perplexity(stated) == pytest.approx(loss, abs=0.0001)


def test_a_per_token_perplexity_of_28_is_one_of_41_per_word() -> None:
    assert perplexity(3.3340) == pytest.approx(28.05, abs=0.005)
    assert word_perplexity(3.3340, tokens=TOKENS, words=WORDS) == pytest.approx(41.1, abs=0.05)


def test_models_with_different_tokenizers_meet_in_bits_per_byte() -> None:
    assert bits_per_byte(math.log(2), tokens=100, text_bytes=100) == 1.0
    assert bits_per_byte(3.0, tokens=100, text_bytes=400) == pytest.approx(0.75 / math.log(2))
    text = 1_146_846
    per_byte = per_unit(3.3340, tokens=TOKENS, units=text)
    assert bits_per_byte(per_byte, tokens=text, text_bytes=text) == pytest.approx(
        bits_per_byte(3.3340, tokens=TOKENS, text_bytes=text), rel=1e-15
    )


def test_every_conversion_has_its_inverse() -> None:
    loss = 2.7182
    assert loss_of_perplexity(perplexity(loss)) == pytest.approx(loss, rel=1e-15)
    there = bits_per_byte(loss, tokens=7, text_bytes=31)
    assert loss_of_bits_per_byte(there, tokens=7, text_bytes=31) == pytest.approx(loss, rel=1e-15)
    words = word_perplexity(loss, tokens=31, words=7)
    assert loss_of_word_perplexity(words, tokens=31, words=7) == pytest.approx(loss, rel=1e-14)
    there = per_unit(loss, tokens=7, units=31)
    assert per_unit(there, tokens=31, units=7) == pytest.approx(loss, rel=1e-15)


def test_a_loss_beyond_all_floats_has_an_infinite_perplexity() -> None:
    assert perplexity(1e4) == math.inf


def test_counts_and_perplexities_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="units must be a positive count of one text, got 0"):
        word_perplexity(3.0, tokens=10, words=0)
    with pytest.raises(ValueError, match="text_bytes must be a positive count of one text, got -1"):
        bits_per_byte(3.0, tokens=10, text_bytes=-1)
    with pytest.raises(ValueError, match="tokens must be a positive count of one text, got 0"):
        loss_of_bits_per_byte(3.0, tokens=0, text_bytes=5)
    with pytest.raises(ValueError, match="tokens must be a positive count of one text, got nan"):
        bits_per_byte(3.0, tokens=math.nan, text_bytes=5)
    with pytest.raises(ValueError, match="a perplexity must be positive, got 0"):
        loss_of_perplexity(0.0)


def test_a_result_tells_its_perplexity() -> None:
    result = RunResult(trial_id="t", status=RunStatus.COMPLETED, loss=4.1853)
    assert result.perplexity == perplexity(4.1853)
    assert RunResult(trial_id="t", status=RunStatus.DIVERGED).perplexity is None
    assert "perplexity" not in result.to_json()
