"""Held-out loss and its error; row X1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainer import evaluate as evaluate_module
from trainer.evaluate import evaluate
from trainer.model.transformer import Transformer
from trainer.shapes import preset


@pytest.fixture
def model() -> Transformer:
    shape = preset("gpt", d_model=8, n_layer=1, n_head=1, vocab_size=50, context=16)
    return Transformer(shape, seed=0, backend="block")


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 50, 2000).astype(np.uint16)


def test_the_loss_is_the_mean_over_the_same_leading_tokens(
    model: Transformer, tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = evaluate(model, tokens, count=1600)
    per_sequence = []
    for start in range(0, 1600, 16):
        window = torch.from_numpy(tokens[start : start + 17].astype(np.int64))
        with torch.no_grad():
            per_sequence.append(F.cross_entropy(model(window[None, :-1])[0], window[1:]).item())
    assert found.tokens == 1600
    assert found.loss == pytest.approx(np.mean(per_sequence), rel=1e-6)
    assert found.loss_se == pytest.approx(np.std(per_sequence, ddof=1) / 10, rel=1e-4)
    # The head in parts gives the same.
    monkeypatch.setattr(evaluate_module, "chunk_rows", lambda *_, **__: 100)
    assert evaluate(model, tokens, count=1600).loss == pytest.approx(found.loss, rel=1e-6)


def test_the_mean_is_over_tokens_and_not_over_batches(
    model: Transformer, tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last batch is smaller here, as in the diary, whose mean of batch means is another."""
    whole = evaluate(model, tokens, count=160)
    monkeypatch.setattr(evaluate_module, "_BATCH_TOKENS", 16 * 7)
    assert evaluate(model, tokens, count=160).loss == pytest.approx(whole.loss, rel=1e-6)
    windows = [torch.from_numpy(tokens[s : s + 17].astype(np.int64)) for s in range(0, 160, 16)]
    with torch.no_grad():
        each = [F.cross_entropy(model(w[None, :-1])[0], w[1:]).item() for w in windows]
    assert abs(np.mean([np.mean(each[:7]), np.mean(each[7:])]) - whole.loss) > 1e-6


def test_a_count_between_sequences_is_rounded_down(model: Transformer, tokens: np.ndarray) -> None:
    assert evaluate(model, tokens, count=47).tokens == 32
    assert math.isnan(evaluate(model, tokens, count=16).loss_se)


@pytest.mark.parametrize("count", [0, 15, 2000])
def test_a_count_that_cannot_be_met_is_refused(
    count: int, model: Transformer, tokens: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=r"one sequence \(16\) and .* less one \(1999\)"):
        evaluate(model, tokens, count=count)


def test_evaluation_leaves_the_training_mode_as_it_was(
    model: Transformer, tokens: np.ndarray
) -> None:
    model.train()
    evaluate(model, tokens, count=160)
    assert model.training


def test_dropout_is_off_in_evaluation(tokens: np.ndarray) -> None:
    shape = preset("gpt", d_model=8, n_layer=1, n_head=1, vocab_size=50, context=16)
    model = Transformer(shape, seed=0, dropout=0.5).train()
    assert evaluate(model, tokens, count=160) == evaluate(model, tokens, count=160)
