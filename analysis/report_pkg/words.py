"""Numbers as a person reads them: 2.82k parameters, 1.02×10¹² FLOPs, 71 to 165, 3 min 20 s.

In: plain floats. Out: short text, the same on every machine. An unknown or non-finite number is
written as an en dash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

MISSING = "–"
"""What stands where a number is not known."""
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def known(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def significant(value: float | None, digits: int = 3) -> str:
    """A number to some significant digits, never in exponent form: 108, 0.347, 23.1."""
    if value is None or not known(value):
        return MISSING
    if value == 0:
        return "0"
    value = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def si(value: float | None, digits: int = 3) -> str:
    """A count with a suffix: 2.82k, 1.3M, 7B, 1.4T; powers of ten outside that range."""
    if value is None or not known(value):
        return MISSING
    rounded = float(f"{value:.{digits - 1}e}")
    size = abs(rounded)
    if size >= 1e15 or 0 < size < 1e-2:
        return power(value, digits)
    for unit, suffix in _SUFFIXES:
        if size >= unit:
            return f"{significant(rounded / unit, digits)}{suffix}"
    return significant(rounded, digits)


def power(value: float | None, digits: int = 3) -> str:
    """A large number as a power of ten: 10¹², 3.2×10¹¹."""
    if value is None or not known(value):
        return MISSING
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    base = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    raised = "10" + str(int(exponent)).translate(_SUPERSCRIPT)
    return raised if base == "1" else f"{base}×{raised}"


def percent(share: float | None, digits: int = 2) -> str:
    """A share as per cent: 0.042 -> 4.2 %."""
    if share is None or not known(share):
        return MISSING
    return f"{significant(100 * share, digits)} %"


def confidence(share: float) -> str:
    """Nominal coverage: 0.9 -> 90 %."""
    return percent(share, 3)


def interval(ends: Sequence[float | None] | None, digits: int = 3) -> str:
    """An interval in words: 71 to 165."""
    if not ends or len(ends) != 2:
        return MISSING
    return f"{count(ends[0], digits)} to {count(ends[1], digits)}"


def count(value: float | None, digits: int = 3) -> str:
    """A ratio or a constant: plain from 0.001 to 99 999, a power of ten beyond."""
    if value is None or not known(value):
        return MISSING
    if 1e-3 <= abs(value) < 1e5:
        return significant(value, digits)
    return power(value, digits)


def duration(seconds: float | None) -> str:
    """A time in its two largest units: 3 min 20 s, 2 h 5 min, 4 d 3 h."""
    if seconds is None or not known(seconds) or seconds < 0:
        return MISSING
    if seconds < 9.95:
        return f"{significant(seconds, 2)} s"
    total = round(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for place, (name, size) in enumerate(units):
        if total >= size:
            text = f"{total // size} {name}"
            if place + 1 < len(units):
                small_name, small = units[place + 1]
                rest = (total % size) // small
                text += f" {rest} {small_name}" if rest else ""
            return text
    return "0 s"


def plural(number: int, noun: str, many: str | None = None) -> str:
    """A number with its noun: 1 run, 15 runs."""
    return f"{number} {noun if number == 1 else many or noun + 's'}"


def listed(items: Sequence[str]) -> str:
    """Words in a row: a, b and c."""
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + " and " + items[-1]
