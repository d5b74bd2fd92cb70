"""What a trained model says, recorded for every run without being asked.

first_batch.txt    input and target text of the first sequences that are trained on
samples.txt        continuations of two fixed prompts, greedy and drawn, with their repetition
predictions.json   the likeliest next tokens after the prompts
logits.json        histogram, mean and standard deviation of the logits on one held-out batch

The prompts come from the held-out text, at places that depend on the data and the context alone,
so that the trials of a sweep can be read side by side. Everything is drawn from generators of its
own and nothing here feeds back into a loss.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.batches import inputs_and_targets
from trainer.data.shards import TokenData
from trainer.data.synthetic import kind_of
from trainer.data.tokenizers import Tokenizer
from trainer.durable import write_atomically
from trainer.generate import DEGENERATE, GREEDY, Sampling, generate, likeliest, repetition
from trainer.model.language_model import LanguageModel
from trainer.result import FIRST_BATCH_NAME, LOGITS_NAME, PREDICTIONS_NAME, SAMPLES_NAME
from trainer.scores import score

PROMPT_TOKENS = 32
"""Longest prompt; half the context where that is shorter."""
CONTINUATION_TOKENS = 40
"""Tokens of each continuation that are shown."""
LOOP_TOKENS = 256
"""Greedy tokens in which a loop is looked for."""
DRAWN = Sampling(top_k=50)
"""How the second continuation is drawn (top-k sampling: Fan et al. 2018, arXiv 1805.04833)."""
PREDICTIONS = 10
"""Next tokens listed after each prompt."""
LOGIT_TOKENS = 512
"""Held-out tokens read for the logits; at least one sequence."""
LOGITS = 2**19
"""Most logits in the histogram; at a large vocabulary fewer positions are looked at."""
FIRST_SEQUENCES = 4
"""Sequences of the first batch that are written down."""
BINS = 50
"""Bins of the histogram, of equal width from the least to the greatest logit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A piece of the held-out text."""

    start: int
    """Index of its first token in the held-out tokens."""
    tokens: tuple[int, ...]
    """Its token ids."""
    following: int
    """The token that really follows."""


def observe(model: LanguageModel, data: TokenData, out_dir: Path) -> float:
    """Write `samples.txt`, `predictions.json` and `logits.json` into a trial's folder.

    The same model and data give the same bytes on the same device and versions.

    Args:
        model: trained; dropout is off here whatever its mode.
        data: what it was trained on.
        out_dir: an existing folder; earlier files are replaced.

    Returns:
        Share of the 4-grams of 256 greedy tokens that occurred before: near 1 for a loop.

    Raises:
        OSError: when the disk is full or not writable.
    """
    tokenizer, separator = data.tokenizer(), data.manifest.separator
    prompts = held_out_prompts(data.validation, context=model.shape.context)
    words = _Words(tokenizer, separator)
    content = {
        SAMPLES_NAME: samples(model, prompts, words, grammar=kind_of(data.manifest.source)),
        PREDICTIONS_NAME: _json({"prompts": predictions(model, prompts, words)}),
        LOGITS_NAME: _json(logit_statistics(model, data.validation)),
    }
    for name, text in content.items():
        write_atomically(out_dir / name, text.encode(), sync=False)
    return repetition(generate(model, prompts[0].tokens, count=LOOP_TOKENS))


def record_first_batch(ids: NDArray[Any], data: TokenData, out_dir: Path) -> None:
    """Write the text of the first batch into a trial's folder, inputs and targets apart.

    Whoever reads it sees whether the target is the input shifted by one.

    Args:
        ids: [B, T + 1] windows as the loop gets them.
        data: what they are from.
        out_dir: an existing folder.

    Raises:
        OSError: when the disk is full or not writable.
    """
    words = _Words(data.tokenizer(), data.manifest.separator)
    inputs, targets = inputs_and_targets(torch.from_numpy(ids[:FIRST_SEQUENCES]))
    blocks = [
        f"=== sequence {number}\n--- input\n{words.text(given)}\n--- target\n{words.text(wanted)}\n"
        for number, (given, wanted) in enumerate(
            zip(inputs.tolist(), targets.tolist(), strict=True), 1
        )
    ]
    explained = "The target of each position is the token after it.\n"
    text = "\n".join([explained, *blocks])
    write_atomically(out_dir / FIRST_BATCH_NAME, text.encode(), sync=False)


def held_out_prompts(tokens: NDArray[Any], *, context: int) -> tuple[Prompt, ...]:
    """Two prompts: where the held-out text begins, and its middle.

    Args:
        tokens: [n] held-out token ids, at least two.
        context: longest sequence of the model.
    """
    length = min(PROMPT_TOKENS, max(1, context // 2), len(tokens) - 1)
    starts = (0, min(len(tokens) // 2, len(tokens) - 1 - length))
    return tuple(
        Prompt(
            start=start,
            tokens=tuple(tokens[start : start + length].tolist()),
            following=int(tokens[start + length]),
        )
        for start in starts
    )


def samples(
    model: LanguageModel, prompts: Sequence[Prompt], words: _Words, *, grammar: str | None = None
) -> str:
    """Continue each prompt greedily and by drawing, as text for people.

    Args:
        model: what speaks.
        prompts: what it continues.
        words: tokens as text.
        grammar: kind of the synthetic corpus, whose lines are counted; None for other text.
    """
    blocks = []
    for number, prompt in enumerate(prompts, 1):
        blocks.append(
            f"=== prompt {number}: held-out tokens {prompt.start} to "
            f"{prompt.start + len(prompt.tokens) - 1}\n{words.text(prompt.tokens)}\n"
        )
        for name, sampling in (("greedy", GREEDY), (f"top-{DRAWN.top_k}", DRAWN)):
            tokens = generate(model, prompt.tokens, count=CONTINUATION_TOKENS, sampling=sampling)
            said, repeated = words.text(tokens), repetition(tokens)
            looped = ", degenerate: a loop" if repeated > DEGENERATE else ""
            counted = grammar and score(grammar, said, before=words.text(prompt.tokens))
            judged = f"; {counted}" if counted else ""
            blocks.append(
                f"--- {name}, {len(tokens)} tokens, repetition {repeated:.3f}{looped}{judged}\n"
                f"{said}\n"
            )
    explained = "repetition: share of 4-grams that occurred before (0 fresh, near 1 a loop)\n"
    return "\n".join([explained, *blocks])


def predictions(
    model: LanguageModel, prompts: Sequence[Prompt], words: _Words
) -> list[dict[str, Any]]:
    """The likeliest next tokens after each prompt, with their probabilities, descending."""
    return [
        {
            "start": prompt.start,
            "prompt": words.text(prompt.tokens),
            "following": {"token": prompt.following, "text": words.text([prompt.following])},
            "next": [
                {"token": token, "text": words.text([token]), "probability": probability}
                for token, probability in likeliest(model, prompt.tokens, k=PREDICTIONS)
            ],
        }
        for prompt in prompts
    ]


@torch.no_grad()
def logit_statistics(model: LanguageModel, tokens: NDArray[Any]) -> dict[str, Any]:
    """Histogram, mean and standard deviation of the logits on the first held-out sequences.

    Wide logits before training are the mark of an initialisation that is too large, and of a first
    loss far above ln V.

    Args:
        model: dropout is off here whatever its mode.
        tokens: [n] held-out token ids; one sequence of the model's context at least.
    """
    context, vocabulary = model.shape.context, model.shape.vocab_size
    sequences = max(1, min(LOGIT_TOKENS, len(tokens)) // context)
    ids = np.asarray(tokens[: sequences * context], dtype=np.int64).reshape(sequences, context)
    was_training = model.training
    model.eval()
    hidden = model.hidden(torch.from_numpy(ids).to(model.device)).flatten(0, 1)
    # Every stride-th position: early and late ones alike.
    stride = -(-hidden.shape[0] * vocabulary // LOGITS)
    hidden = hidden[::stride]
    logits = model.logits(hidden).float().cpu().double().numpy().ravel()
    model.train(was_training)
    counts, edges = np.histogram(logits, bins=BINS)
    return {
        "positions": int(hidden.shape[0]),
        "vocab_size": vocabulary,
        "mean": float(logits.mean()),
        "sd": float(logits.std()),
        "counts": counts.tolist(),
        "edges": edges.tolist(),
    }


def batch_text(ids: NDArray[Any], data: TokenData) -> str:
    """Windows [B, T + 1] of a batch as text: what is read, and what must be said to it."""
    words = _Words(data.tokenizer(), data.manifest.separator)
    blocks = []
    for number, row in enumerate(ids.tolist(), 1):
        blocks.append(f"=== sequence {number}, input\n{words.text(row[:-1])}\n")
        blocks.append(f"--- sequence {number}, target\n{words.text(row[1:])}\n")
    return "\n".join(blocks)


class _Words:
    """Tokens as text that can be read whatever the model has produced."""

    def __init__(self, tokenizer: Tokenizer, separator: int | None) -> None:
        self._tokenizer, self._separator = tokenizer, separator

    def text(self, tokens: Sequence[int]) -> str:
        """Decode; separators and ids beyond the tokenizer's vocabulary are shown in brackets."""
        parts: list[str] = []
        run: list[int] = []
        for token in tokens:
            if token == self._separator or token >= self._tokenizer.vocab_size:
                parts += [self._decoded(run), self._mark(token)]
                run = []
            else:
                run.append(token)
        return "".join([*parts, self._decoded(run)])

    def _mark(self, token: int) -> str:
        return "[end of document]" if token == self._separator else f"[token {token}]"

    def _decoded(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens).decode("utf-8", errors="replace")


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
