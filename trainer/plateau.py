"""What a loss says: how far a model has come from guessing, in words.

A model that has learnt token frequencies alone has the unigram entropy H1 of its corpus as its
loss, one that has learnt pairs the bigram entropy H2. Runs that stop at H1 look converged and have
learnt nothing of the text. The other sentences here are about curves that climb, text that loops
and experts that stand idle; each begins with a label and a colon.
"""

from __future__ import annotations

from collections.abc import Sequence

NEAR_UNIGRAM = 0.03
"""Share of H1 within which a loss counts as sitting on it."""

CLIMB = 0.1
"""Share of the lowest training loss by which the last one may exceed it."""

LOOP = 0.9
"""Share of repeated 4-grams in 256 greedy tokens from which the text is a loop."""

LOPSIDED = 2.0
"""Load of the busiest expert over the mean one from which the router counts as lopsided; balancing
brings it below 1.5 within a few hundred steps."""


def label(loss: float, *, uniform: float, unigram: float) -> str | None:
    """Name the plateau that a final training loss sits on.

    Args:
        loss: nats per token.
        uniform: ln V, nats per token.
        unigram: H1 of the training tokens, nats per token.

    Returns:
        One sentence, or None when the model has learnt more than token frequencies.
    """
    if loss >= 0.5 * (uniform + unigram):
        return (
            f"hardly trained: the loss {loss:.3f} is nearer to ln V = {uniform:.3f} than to the "
            f"unigram entropy {unigram:.3f}"
        )
    if loss >= unigram * (1.0 - NEAR_UNIGRAM):
        return (
            f"unigram plateau: the loss {loss:.3f} is that of token frequencies alone "
            f"(H1 = {unigram:.3f})"
        )
    return None


def climb(losses: Sequence[float]) -> str | None:
    """Name a training loss that has risen well above its lowest point without ceasing to be finite.

    Args:
        losses: of the logged points in order, nats per token.
    """
    if not losses or losses[-1] <= (1.0 + CLIMB) * min(losses):
        return None
    return (
        f"diverging: the last training loss {losses[-1]:.3f} lies {CLIMB:.0%} and more above the "
        f"lowest, {min(losses):.3f}"
    )


def degenerate(repetition: float | None) -> str | None:
    """Name greedy text that is a loop.

    Args:
        repetition: share of its 4-grams that occurred before; None where there is no text.
    """
    if repetition is None or repetition < LOOP:
        return None
    return f"degenerate greedy text: {repetition:.0%} of its 4-grams occurred before"


def lopsided(load: float | None) -> str | None:
    """Name a router that sends its tokens to few experts.

    Args:
        load: of the busiest expert over the mean one; None for dense models.
    """
    if load is None or load < LOPSIDED:
        return None
    return f"router lopsided: the busiest expert got {load:.2f} times the mean load"
