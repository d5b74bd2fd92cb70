"""Numbers in a message: 5.8, 325, 2,100,000; never 1e+03 where a person counts in thousands."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

_LARGEST = 1e9
"""From here on digits are no longer read, and a power of ten says more."""


def spell(value: float, digits: int = 3) -> str:
    """A ratio or a multiple to some significant digits, thousands parted by commas.

    Args:
        value: the number; from 1e9 on, and where not finite, it is written as Python's `g` does.
        digits: significant digits.
    """
    text = f"{value:.{digits}g}"
    return format(Decimal(text), ",f") if abs(value) < _LARGEST else text


def spell_range(ends: Sequence[float], digits: int = 4) -> str:
    """An interval of what cannot be negative: [1.329, 1.359]; (at most 1.359) where it is open."""
    low, high = ends
    if low == 0:
        return f"(at most {spell(high, digits)})"
    return f"[{spell(low, digits)}, {spell(high, digits)}]"
