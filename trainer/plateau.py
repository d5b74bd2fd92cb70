"""What a loss says: how far a model has come from guessing, in words.

A model that has learnt token frequencies alone has the unigram entropy H1 of its corpus as its
loss, one that has learnt pairs the bigram entropy H2. Runs that stop at H1 look converged and have
learnt nothing of the text.
"""

from __future__ import annotations

NEAR_UNIGRAM = 0.03
"""Share of H1 within which a loss counts as sitting on it."""


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
