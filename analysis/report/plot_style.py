"""How every picture looks: colours, markers, dashes, axes.

Categories have Okabe and Ito's hues (2008), told apart by marker and dash as well; compute runs
through viridis. Each colour has a second value for a dark page: pictures are drawn in the light
ones, and an inline SVG swaps them for style-sheet variables (`analysis.report.svg`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from analysis.report.words import power, si, significant

INK = "#1c1c1e"
MUTED = "#5c6066"
GRID = "#e4e5e8"
SHADE = "#f0f2f5"
PAPER = "#ffffff"
BLUE = "#003d99"
VERMILION = "#d76100"
GREEN = "#006541"
PURPLE = "#ac5294"
"""Okabe and Ito's hues, moved in lightness until any two of them, and ink and grey, differ by a
CIEDE2000 of 10 and more for readers without one kind of cone, and stand out from white paper."""

DARK = {
    INK: "#ececee",
    MUTED: "#a3a7ad",
    GRID: "#34363a",
    SHADE: "#232529",
    PAPER: "#17181a",
    BLUE: "#50abe5",
    VERMILION: "#ff933a",
    GREEN: "#2bdf97",
    PURPLE: "#d647a8",
}
"""The same colours on a dark page."""

_STEPS = 16
_LIGHT_END, _DARK_START = 0.58, 0.40
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h", "<", ">")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 2, 1.5, 2)), (0, (8, 3)))
WIDTH, HEIGHT = 5.8, 3.9
"""Size of a picture in inches: small, so that its 9-point text stays readable on a phone."""
TEXT = 9.0
SMALL = 8.0

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": TEXT,
    "axes.labelsize": TEXT,
    "axes.titlesize": TEXT,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": PAPER,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "text.color": INK,
    "text.parse_math": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "isosweep",
    "path.simplify": True,
}
"""Settings under which every picture is drawn and saved."""


def drawing_style() -> AbstractContextManager[None]:
    """The settings of every picture, for the time of a `with` block."""
    # The stubs name every setting one by one; a plain mapping is what the function takes.
    return mpl.rc_context(cast(Any, RC))


def _hex(position: float) -> str:
    red, green, blue, _ = mpl.colormaps["viridis"](position)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


RAMP = tuple(_hex(_LIGHT_END * i / (_STEPS - 1)) for i in range(_STEPS))
"""Viridis from its dark end, without the green and yellow that white paper swallows (3:1)."""
RAMP_DARK = tuple(_hex(_DARK_START + (1 - _DARK_START) * i / (_STEPS - 1)) for i in range(_STEPS))
"""The same places of the ramp for a dark page."""


def ramp(place: int, places: int) -> str:
    """Colour of the place-th of several ordered things."""
    return RAMP[round((_STEPS - 1) * place / max(places - 1, 1))]


def new_figure(
    rows: int = 1, columns: int = 1, *, height: float = HEIGHT, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with its axes, outside any global state; call within `drawing_style()`."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    for ax in axes.flat:
        ax.grid(visible=True)
    return figure, list(axes.flat)


def log_axis(
    ax: Axes, which: str, label: str, limits: tuple[float, float], kind: str, *, most: int = 7
) -> None:
    """Make one axis logarithmic with ticks that a person can read at any span.

    Args:
        ax: the axes.
        which: `x` or `y`.
        label: the axis label, with its unit.
        limits: smallest and largest value shown.
        kind: `si` for counts (2.8k), `power` for compute (10¹²), `plain` for ratios and losses.
        most: ticks at most; fewer for a panel of half the width.
    """
    write = {"si": si, "power": power, "plain": significant}[kind]
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    ticks = log_ticks(*limits, most=most)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([write(t) for t in ticks]))
    axis.set_minor_locator(NullLocator())
    (ax.set_xlim if which == "x" else ax.set_ylim)(limits)
    (ax.set_xlabel if which == "x" else ax.set_ylabel)(label)


def log_ticks(low: float, high: float, *, most: int = 7) -> list[float]:
    """Round numbers between two bounds, at most `most` and at least three where there are any.

    From the finest to the coarsest grid of 1-2-3-4-5-6-8, 1-2-5, 1-3, whole decades and every
    second, third, ... decade, the first that fits; below that plain round steps.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    grids: list[tuple[tuple[float, ...], int]] = [
        ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), 1),
        ((1, 2, 3, 5, 7), 1),
        ((1, 2, 5), 1),
        ((1, 3), 1),
    ]
    grids += [((1,), stride) for stride in range(1, 40)]
    for digits, stride in grids:
        ticks = [
            d * 10.0**e
            for e in range(first, last + 1)
            if e % stride == 0
            for d in digits
            if low * 0.999 <= d * 10.0**e <= high * 1.001
        ]
        if len(ticks) <= most:
            break
    return ticks if len(ticks) >= 3 else _even_ticks(low, high)


def _even_ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers in a span too narrow for powers of ten."""
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


_NARROW = 1.5
"""A range less wide than this is shown with a margin as wide as this, or its ticks mean nothing."""


def padded(values: Sequence[float], factor: float = 1.25) -> tuple[float, float]:
    """Limits of a logarithmic axis: the values' range and a margin on both sides."""
    low, high = min(values), max(values)
    spread = max((high / low) ** 0.06, factor if high / low > _NARROW else _NARROW)
    return low / spread, high * spread


def spread_labels(
    places: Sequence[float], heights: Sequence[float], *, low: float, high: float
) -> list[float]:
    """Places for labels that must not overlap: each near its own, within bounds.

    Args:
        places: wanted middles, any order, in axes units.
        heights: height of each label, in the same units.
        low: lower bound of any label's edge.
        high: upper bound.

    Returns:
        Middles in the order of `places`. Labels that do not all fit share the room evenly.
    """
    order = sorted(range(len(places)), key=lambda i: (places[i], i))
    tall = [heights[i] for i in order]
    shrink = min(1.0, (high - low) / sum(tall)) if tall else 1.0
    tall = [h * shrink for h in tall]
    floors = [low + sum(tall[:j]) + tall[j] / 2 for j in range(len(tall))]
    ceilings = [high - sum(tall[j + 1 :]) - tall[j] / 2 for j in range(len(tall))]
    moved = [min(max(places[i], f), c) for i, f, c in zip(order, floors, ceilings, strict=True)]
    for _ in range(300):
        worst = 0.0
        for j in range(1, len(moved)):
            lack = (tall[j] + tall[j - 1]) / 2 - (moved[j] - moved[j - 1])
            if lack > 0:
                moved[j - 1] -= lack / 2
                moved[j] += lack / 2
                worst = max(worst, lack)
        moved = [min(max(m, f), c) for m, f, c in zip(moved, floors, ceilings, strict=True)]
        if worst < 1e-6:
            break
    result = [0.0] * len(places)
    for j, i in enumerate(order):
        result[i] = moved[j]
    return result
