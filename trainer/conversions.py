"""One loss in every unit: per token, per byte, per word, as perplexity or in bits.

A text has one total negative log-likelihood; a unit only says by what it is divided. With a mean
loss l in nats per token over n tokens that make up u units (bytes, words), the loss per unit is
l n / u, exactly; perplexity is exp(l), bits are nats / ln 2 (Jurafsky & Martin, Speech and
Language Processing, section 3.3). So models with different tokenizers stand in one table, as long
as the counts are those of the same text.
"""

from __future__ import annotations

import math


def perplexity(loss: float) -> float:
    """Perplexity per unit of a loss: exp(loss).

    Args:
        loss: nats per unit, whatever the unit.

    Returns:
        The perplexity; inf where it is beyond the largest float.
    """
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def loss_of_perplexity(value: float) -> float:
    """Inverse of `perplexity`, nats per unit.

    Raises:
        ValueError: when the perplexity is not positive.
    """
    if not value > 0:
        raise ValueError(f"a perplexity must be positive, got {value!r}")
    return math.log(value)


def per_unit(loss: float, *, tokens: float, units: float) -> float:
    """Spread the same nats over other units: nats per token to nats per byte or word.

    With `tokens` and `units` exchanged it is its own inverse.

    Args:
        loss: nats per token.
        tokens: tokens of the text.
        units: bytes or words of the same text.

    Raises:
        ValueError: when a count is not positive.
    """
    _check_counts(tokens=tokens, units=units)
    return loss * tokens / units


def bits_per_byte(loss: float, *, tokens: float, text_bytes: float) -> float:
    """Convert nats per token to bits per byte of the same text.

    Args:
        loss: nats per token.
        tokens: tokens of the text.
        text_bytes: UTF-8 bytes of the same text.

    Raises:
        ValueError: when a count is not positive.
    """
    _check_counts(tokens=tokens, text_bytes=text_bytes)
    return loss * tokens / (text_bytes * math.log(2.0))


def loss_of_bits_per_byte(bits: float, *, tokens: float, text_bytes: float) -> float:
    """Inverse of `bits_per_byte`, nats per token.

    Raises:
        ValueError: when a count is not positive.
    """
    _check_counts(tokens=tokens, text_bytes=text_bytes)
    return bits * math.log(2.0) * text_bytes / tokens


def word_perplexity(loss: float, *, tokens: float, words: float) -> float:
    """Perplexity per word of a loss per token.

    Args:
        loss: nats per token.
        tokens: tokens of the text.
        words: words of the same text, counted as the figure it is compared with counts them
            (WikiText's own figures count each end of a line as a word).

    Raises:
        ValueError: when a count is not positive.
    """
    return perplexity(per_unit(loss, tokens=tokens, units=words))


def loss_of_word_perplexity(value: float, *, tokens: float, words: float) -> float:
    """Inverse of `word_perplexity`, nats per token.

    Raises:
        ValueError: when the perplexity or a count is not positive.
    """
    return per_unit(loss_of_perplexity(value), tokens=words, units=tokens)


def _check_counts(**counts: float) -> None:
    for name, count in counts.items():
        if not 0 < count < math.inf:
            raise ValueError(f"{name} must be a positive count of one text, got {count!r}")
