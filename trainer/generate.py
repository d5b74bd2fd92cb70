"""Text from a model: sampling with a cache, and what tells degenerate output from text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.model.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the next token is drawn.

    Raises:
        ValueError: when a value is out of its range.
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int = 0
    """Only the k likeliest tokens are drawn from; 0 for all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability (Holtzman et al. 2020,
    arXiv 1904.09751, section 3.1)."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")


GREEDY = Sampling(temperature=0.0)
"""Always the likeliest token."""


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    count: int,
    sampling: Sampling = GREEDY,
    stop: int | None = None,
) -> list[int]:
    """Continue a prompt.

    Earlier positions are remembered layer by layer; when the context is full, the later half of it
    is read anew and generation goes on. A model that keeps no memory reads it anew every time.

    Args:
        model: dropout is off here whatever its mode.
        prompt: at least one token id; only the last `context` ones matter.
        count: most tokens to generate.
        sampling: how they are drawn.
        stop: token that ends the text; it is not returned.

    Returns:
        The generated token ids, without the prompt.

    Raises:
        ValueError: when the prompt is empty or holds an id outside the vocabulary.
    """
    vocabulary, context = model.shape.vocab_size, model.shape.context
    if not prompt or not all(0 <= token < vocabulary for token in prompt):
        raise ValueError(f"the prompt must hold token ids in [0, {vocabulary}), got {list(prompt)}")
    was_training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(sampling.seed)
    text = list(prompt)
    caches = model.new_caches()
    unread = text[-context:]
    while len(text) < len(prompt) + count:
        if not caches:
            unread = text[-context:]
        elif caches[0].length + len(unread) > context:
            caches = model.new_caches()
            unread = text[-max(1, context // 2) :]
        ids = torch.tensor([unread], device=model.device)
        logits = model.logits(model.hidden(ids, caches or None)[:, -1])[0].float().cpu()
        token = draw(logits, sampling, generator)
        if token == stop:
            break
        text.append(token)
        unread = [token]
    model.train(was_training)
    return text[len(prompt) :]


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw one token.

    Args:
        logits: [V].
        sampling: how.
        generator: source of chance.
    """
    if sampling.temperature == 0 or sampling.top_k == 1:
        return int(logits.argmax())
    probabilities = (logits / sampling.temperature).softmax(-1)
    likeliest = probabilities.sort(descending=True, stable=True)
    kept = likeliest.values
    if sampling.top_k:
        kept = kept[: sampling.top_k]
    # A token is kept while those before it have not yet reached top_p.
    before = kept.cumsum(-1) - kept
    kept = kept[before < sampling.top_p * kept.sum()]
    return int(likeliest.indices[torch.multinomial(kept, 1, generator=generator)])


@torch.no_grad()
def likeliest(model: LanguageModel, prompt: Sequence[int], *, k: int) -> list[tuple[int, float]]:
    """The k likeliest next tokens with their probabilities, descending."""
    ids = torch.tensor([list(prompt)[-model.shape.context :]], device=model.device)
    was_training = model.training
    model.eval()
    probabilities = model(ids)[0, -1].float().softmax(-1)
    model.train(was_training)
    found = probabilities.topk(min(k, model.shape.vocab_size))
    return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))


DEGENERATE = 0.5
"""Repetition above which greedy text counts as a loop."""


def repetition(tokens: Sequence[int], *, n: int = 4) -> float:
    """Share of n-grams that occurred before: 0 for fresh text, near 1 for a loop.

    Greedy text of a model that has learnt little is a loop; text of 256 tokens from a trained
    byte-level model stays below `DEGENERATE`.
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0
