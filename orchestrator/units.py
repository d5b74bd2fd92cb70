"""Quantities as people write them: `1e18`, `3e-4`, `50M`, `2 EFLOP`, `24h`, and back."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_NUMBER = r"([-+]?(?:\d[\d_]*\.?[\d_]*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\.?inf|\.?nan)"
_QUANTITY = re.compile(_NUMBER + r"\s*([A-Za-z]*)")
_DURATION_PART = re.compile(r"(\d+\.?\d*)\s*(d|h|min|m|s)")

COUNT_UNITS = {
    "": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12,
}  # fmt: skip
FLOP_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "Z": 1e21}
SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_count(value: object) -> float:
    """A count: a number, or text such as `50M`, `1.5B`, `1_000_000`.

    Raises:
        ValueError: when it is not a finite number with a known suffix.
    """
    number, unit = _split(value, "a count such as 50M, 1.5B or 1e9")
    if unit not in COUNT_UNITS:
        raise ValueError(f"unknown suffix `{unit}`; use one of k, M, B (or G), T, or write 1e9")
    return _finite(number * COUNT_UNITS[unit])


def parse_flops(value: object) -> float:
    """An amount of compute in FLOPs: a number, or text such as `2 EFLOP`, `1e18 FLOPs`.

    Raises:
        ValueError: when it is not a finite number with a known unit, or is a rate.
    """
    number, unit = _split(value, "an amount of compute such as 1e18, 2 EFLOP or 500 PFLOPs")
    if unit == "FLOPS" or unit.endswith("FLOPS"):
        raise ValueError("FLOPS with a capital S is a rate; write FLOPs (an amount) or 1e18")
    match = re.fullmatch(r"([kMGTPEZ]?)(FLOPs?|FLOP|flops?)?", unit)
    if not match:
        raise ValueError(f"unknown unit `{unit}`; write 1e18, `2 EFLOP` or `500 PFLOPs`")
    return _finite(number * FLOP_PREFIXES[match[1]])


def parse_seconds(value: object) -> float:
    """A duration in seconds: text such as `24h`, `1h30m`, `90 min`, `2d`, `45s`.

    Raises:
        ValueError: when it has no unit, or is not a duration.
    """
    text = str(value).strip()
    if not isinstance(value, str):
        raise ValueError(f"must be a duration with its unit such as 24h, 90min or 2d, got {value}")
    parts = _DURATION_PART.findall(text)
    if not parts or _DURATION_PART.sub("", text).strip():
        raise ValueError(f"must be a duration such as 24h, 90min or 2d, got `{text}`")
    return sum(float(number) * SECONDS[unit] for number, unit in parts)


def format_count(value: float) -> str:
    """A count for people: 3 significant digits and a suffix, e.g. `12.6M`."""
    return _scaled(value, [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")])


def format_flops(value: float) -> str:
    """An amount of compute for people, e.g. `3.16e+11`."""
    return f"{value:.3g}"


def format_duration(seconds: float) -> str:
    """A duration for people in two units, e.g. `4 min 10 s`, `1 d 3 h`."""
    if not math.isfinite(seconds):
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def format_bytes(value: float) -> str:
    """A size for people in binary units, e.g. `1.4 GiB`."""
    for scale, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f} B"


def _scaled(value: float, scales: list[tuple[float, str]]) -> str:
    for scale, suffix in scales:
        if abs(value) >= scale * 0.9995:
            return f"{_three_digits(value / scale)}{suffix}"
    return _three_digits(value)


def _three_digits(value: float) -> str:
    text = f"{value:.3g}"
    return f"{float(text):.0f}" if "e" in text else text


def _split(value: object, expected: str) -> tuple[float, str]:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"must be {expected}, got {value!r}")
    if not isinstance(value, str):
        return float(value), ""
    match = _QUANTITY.fullmatch(value.strip())
    if not match:
        raise ValueError(f"must be {expected}, got `{value}`")
    return float(match[1].replace("_", "").replace(".inf", "inf").replace(".nan", "nan")), match[2]


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"must be finite, got {value}")
    return value


def _positive(value: float) -> float:
    if not value > 0:
        raise ValueError(f"must be greater than 0, got {value:g}")
    return value


_NUMBER_OR_TEXT = WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]})

Count = Annotated[
    float, BeforeValidator(lambda value: _positive(parse_count(value))), _NUMBER_OR_TEXT
]
"""A positive count, written as a number or with a suffix."""
Flops = Annotated[
    float, BeforeValidator(lambda value: _positive(parse_flops(value))), _NUMBER_OR_TEXT
]
"""A positive amount of compute in FLOPs."""
Seconds = Annotated[
    float,
    BeforeValidator(lambda value: _positive(parse_seconds(value))),
    PlainSerializer(lambda value: f"{value:g}s", when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["24h", "90min", "2d"]}),
]
"""A positive duration in seconds, written with its unit."""
