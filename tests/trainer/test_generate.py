"""Sampling and repetition; rows S1-S3, X4, X6, M6."""

from __future__ import annotations

import pytest
import torch

from trainer.generate import GREEDY, Sampling, draw, generate, likeliest, repetition
from trainer.model.transformer import Transformer
from trainer.shapes import preset


@pytest.fixture(scope="module")
def model() -> Transformer:
    shape = preset("llama", d_model=16, n_layer=2, n_head=2, vocab_size=20, context=12)
    model = Transformer(shape, seed=0, backend="block")
    with torch.no_grad():
        model.head *= 100
    return model


def by_full_passes(model: Transformer, prompt: list[int], count: int) -> list[int]:
    text = list(prompt)
    for _ in range(count):
        text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    return text[len(prompt) :]


def test_greedy_text_with_a_cache_is_that_of_full_passes(model: Transformer) -> None:
    assert generate(model, [3, 1, 4], count=9) == by_full_passes(model, [3, 1, 4], 9)


def test_generation_goes_on_past_the_context(model: Transformer) -> None:
    text = generate(model, [3, 1, 4], count=40)
    assert len(text) == 40
    long_prompt = list(range(20)) * 2
    assert (
        generate(model, long_prompt, count=3)[0] == generate(model, long_prompt[-12:], count=1)[0]
    )


def test_seeded_sampling_is_repeatable_and_seeds_differ(model: Transformer) -> None:
    def sample(seed: int) -> list[int]:
        return generate(model, [1], count=30, sampling=Sampling(seed=seed))

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_a_stop_token_ends_the_text(model: Transformer) -> None:
    text = generate(model, [3], count=30)
    stop = text[4]
    assert generate(model, [3], count=30, stop=stop) == text[: text.index(stop)]


def drawn(sampling: Sampling, draws: int = 4000) -> torch.Tensor:
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    generator = torch.Generator().manual_seed(sampling.seed)
    tokens = torch.tensor([draw(logits, sampling, generator) for _ in range(draws)])
    return torch.bincount(tokens, minlength=4) / draws


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(top_k=4, top_p=1.0), [0.5, 0.25, 0.15, 0.1]),
        (Sampling(top_k=2), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(top_p=0.6), [2 / 3, 1 / 3, 0, 0]),
        (Sampling(top_p=0.4), [1, 0, 0, 0]),
        (Sampling(top_k=1), [1, 0, 0, 0]),
        (GREEDY, [1, 0, 0, 0]),
        # Squares of the probabilities, normalised.
        (Sampling(temperature=0.5), [0.7246, 0.1812, 0.0652, 0.0290]),
    ],
)
def test_tokens_are_drawn_with_the_asked_probabilities(
    sampling: Sampling, expected: list[float]
) -> None:
    assert drawn(sampling) == pytest.approx(torch.tensor(expected), abs=0.025)


def test_no_token_is_drawn_once_top_p_is_reached() -> None:
    generator = torch.Generator().manual_seed(0)
    halves = torch.zeros(2)
    assert {draw(halves, Sampling(top_p=0.5), generator) for _ in range(50)} == {0}
    assert {draw(halves, Sampling(top_p=0.51), generator) for _ in range(50)} == {0, 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_p": 50.0}, r"top_p must lie in \(0, 1\], got 50"),
        ({"top_p": 0.0}, "top_p must lie in"),
        ({"temperature": -1.0}, "temperature must not be negative"),
        ({"top_k": -1}, "top_k must not be negative"),
    ],
)
def test_sampling_out_of_range_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


@pytest.mark.parametrize("prompt", [[], [20], [-1]])
def test_a_prompt_outside_the_vocabulary_is_refused(prompt: list[int], model: Transformer) -> None:
    with pytest.raises(ValueError, match=r"token ids in \[0, 20\)"):
        generate(model, prompt, count=1)


def test_the_likeliest_tokens_have_the_softmaxs_probabilities(model: Transformer) -> None:
    found = likeliest(model, [1, 2, 3], k=5)
    probabilities = model(torch.tensor([[1, 2, 3]]))[0, -1].softmax(-1)
    assert [p for _, p in found] == pytest.approx(sorted(probabilities.tolist())[::-1][:5])
    assert sum(p for _, p in found) <= 1
    assert all(probabilities[token].item() == pytest.approx(p) for token, p in found)


def test_a_loop_is_repetitive_and_fresh_text_is_not() -> None:
    assert repetition([7] * 256) > 0.99
    assert repetition([1, 2, 3] * 80) > 0.95
    assert repetition(list(range(256))) == 0.0
    assert repetition([1, 2]) == 0.0
