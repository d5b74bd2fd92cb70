"""What reading a text through windows costs, given the likelihood of a window."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np


def cost_of_windows(
    lines: Sequence[str],
    context: int,
    *,
    log_likelihood: Callable[[str], float],
    nats_with_past: Callable[[str], Sequence[float]],
    seed: int,
) -> tuple[float, float]:
    """Nats per character that windows lose, the first character given, and its standard error.

    Args:
        lines: the text; as many windows are drawn from it, past its first four lines.
        context: characters of a window that are predicted.
        log_likelihood: ln P of a window that is cut out of the text at random.
        nats_with_past: cost of each character of a line for who knows everything before it.
        seed: of the draws.
    """
    text = "".join(lines)
    until = np.r_[0.0, np.cumsum(np.concatenate([nats_with_past(line) for line in lines]))]
    first = {character: log_likelihood(character) for character in sorted(set(text))}
    start, end = sum(map(len, lines[:4])), len(text) - context - 1
    cuts = np.random.default_rng(seed).integers(start, end, len(lines))
    lost = [
        first[text[cut]]
        - log_likelihood(text[cut : cut + context + 1])
        - (until[cut + context + 1] - until[cut + 1])
        for cut in cuts
    ]
    return float(np.mean(lost)) / context, float(np.std(lost)) / context / math.sqrt(len(lines))
