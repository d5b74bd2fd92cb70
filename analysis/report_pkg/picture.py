"""A picture with everything that must travel with it, and the marks that all pictures share.

A `Picture` is a matplotlib figure, the sentence that says how to read it, a text that stands in
for it where it cannot be seen, the numbers behind it, and a name for each of its points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.evidence import Evidence, Run
from analysis.plot_style import INK, MARKERS, MUTED, PAPER, SMALL, ramp, spread_labels
from analysis.words import count, percent, power, si, significant

Kind = Literal["text", "si", "power", "count", "loss", "percent"]
_LABELS_AT_MOST = 12
_SHORT = 48
_LINE_INCHES = 0.155
"""Height of a line of small text, with what the axes lack of the figure's height."""


@dataclass(frozen=True, slots=True)
class PointName:
    """What a point is called."""

    text: str
    """Its run in a line."""
    short: str
    """Its run and its loss, short enough to stand inside the picture."""
    anchor: str
    """Id of its run's row in the page."""


PointNames = dict[str, tuple[PointName, ...]]
"""Names of the points of each drawn group, by the group's id."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table behind a picture."""

    key: str
    """Its name in the CSV file."""
    heading: str
    """Its name for people."""
    kind: Kind
    """How its cells are written for people."""

    def text(self, cell: Any) -> str:
        """A cell for people."""
        if self.kind == "text":
            return str(cell)
        if self.kind == "loss":
            return significant(cell, 4)
        return {"si": si, "power": power, "count": count, "percent": percent}[self.kind](cell)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure ready to be saved, and its words and numbers."""

    slug: str
    """File name without its ending, and id in the page."""
    title: str
    """A few words."""
    caption: str
    """How to read it."""
    alt: str
    """What it shows, with its numbers."""
    columns: tuple[Column, ...]
    """Columns of the data behind it."""
    rows: tuple[tuple[Any, ...], ...]
    """The data behind it, in plain values."""
    figure: Figure
    """The drawing."""
    names: PointNames = field(default_factory=dict)
    """Name of each point, by the group id of its collection."""
    focusable: bool = False
    """Whether its points can be reached by keyboard, each a link to its run's row."""

    def cells(self) -> list[list[str]]:
        """The data as text for people."""
        return [[c.text(v) for c, v in zip(self.columns, r, strict=True)] for r in self.rows]


RUN_COLUMNS = (
    Column(key="run", heading="Run", kind="text"),
    Column(key="level", heading="Level", kind="text"),
    Column(key="params", heading="N", kind="si"),
    Column(key="tokens", heading="D", kind="si"),
    Column(key="tokens_per_parameter", heading="D/N", kind="count"),
    Column(key="flops", heading="C (FLOPs)", kind="power"),
    Column(key="loss", heading="Loss", kind="loss"),
    Column(key="excluded", heading="Left out because", kind="text"),
)
"""Columns of the pictures that show runs."""


def run_rows(runs: Iterable[Run]) -> tuple[tuple[Any, ...], ...]:
    """Runs as rows under `RUN_COLUMNS`."""
    return tuple(
        (r.label, r.level, r.params, r.tokens, r.ratio, r.flops, r.loss, r.excluded) for r in runs
    )


def describe(run: Run) -> str:
    """One run in a line: its name, then its numbers."""
    text = (
        f"{run.label}: N = {si(run.params)}, D = {si(run.tokens)}, D/N = {count(run.ratio)}, "
        f"C = {power(run.flops)} FLOPs, loss {significant(run.loss, 4)}"
    )
    return f"{text} (left out: {run.excluded})" if run.excluded else text


def name_of(run: Run) -> PointName:
    """The name of a run's point."""
    label = run.label if len(run.label) <= _SHORT else run.label[: _SHORT - 1] + "…"
    return PointName(describe(run), f"{label}: loss {significant(run.loss, 4)}", run.anchor)


@dataclass(frozen=True, kw_only=True)
class LevelStyle:
    """How one compute level looks in every picture."""

    colour: str
    """Its place on the ramp from cheap to dear."""
    marker: str
    """Its marker."""
    place: int
    """Its number, cheapest first."""


def level_styles(evidence: Evidence) -> dict[str, LevelStyle]:
    """Style of each group of runs by name; '' is the style of runs outside any."""
    order = evidence.group_order()
    styles = {
        name: LevelStyle(colour=ramp(i, len(order)), marker=MARKERS[i % len(MARKERS)], place=i)
        for i, name in enumerate(order)
    }
    styles[""] = LevelStyle(colour=MUTED, marker="o", place=len(order))
    return styles


def mark_runs(
    ax: Axes,
    runs: Sequence[Run],
    x: Sequence[float],
    y: Sequence[float],
    *,
    styles: dict[str, LevelStyle],
    names: PointNames,
    group: str,
    size: float = 30.0,
) -> None:
    """Draw runs as points: filled when used, hollow when left out, one marker for each level.

    Args:
        ax: where.
        runs: the runs, m of them.
        x: abscissae, shape (m,).
        y: ordinates, shape (m,).
        styles: style of each level.
        names: filled with the name of each point under its group's id.
        group: prefix of the group ids.
        size: area of a marker in square points.
    """
    kinds = sorted({(styles.get(r.group, styles[""]).place, r.group, r.used) for r in runs})
    for place, name, used in kinds:
        mine = [i for i, r in enumerate(runs) if (r.group, r.used) == (name, used)]
        style = styles.get(name, styles[""])
        gid = f"{group}-{place}-{'used' if used else 'out'}"
        ax.scatter(
            [x[i] for i in mine],
            [y[i] for i in mine],
            s=size,
            marker=style.marker,
            facecolors=style.colour if used else "none",
            edgecolors=PAPER if used else style.colour,
            linewidths=0.6 if used else 1.2,
            gid=gid,
            zorder=4,
            clip_on=False,
        )
        names[gid] = tuple(name_of(runs[i]) for i in mine)


def side_labels(ax: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write labels beside the right edge, each at its curve's end, none over another.

    Args:
        ax: axes whose scales and limits are final.
        labels: (ordinate in data units, text, colour).
    """
    to_axes = ax.transData + ax.transAxes.inverted()
    x = ax.get_xlim()[1]
    places = [float(to_axes.transform((x, y))[1]) for y, _, _ in labels]
    figure = ax.get_figure(root=True)
    assert figure is not None
    line = _LINE_INCHES / figure.get_size_inches()[1]
    heights = [line * (text.count("\n") + 1.3) for _, text, _ in labels]
    spread = spread_labels(places, heights, low=0.0, high=1.0)
    for place, (_, text, colour) in zip(spread, labels, strict=True):
        ax.text(
            1.02,
            place,
            text,
            transform=ax.transAxes,
            color=colour,
            fontsize=SMALL,
            va="center",
            ha="left",
            linespacing=1.15,
        )


def thinned(items: Sequence[Any]) -> list[Any]:
    """At most a dozen of the items, evenly spread, the first and the last among them."""
    if len(items) <= _LABELS_AT_MOST:
        return list(items)
    places = np.linspace(0, len(items) - 1, _LABELS_AT_MOST).round().astype(int)
    return [items[i] for i in sorted(set(places.tolist()))]


def remark(ax: Axes, text: str) -> None:
    """A remark above the axes, where it covers nothing."""
    ax.set_title(text, loc="left", fontsize=SMALL, color=MUTED)


def star(ax: Axes, x: float, y: float, *, colour: str = INK, size: float = 130.0) -> None:
    """The mark of an optimum."""
    ax.scatter(
        [x],
        [y],
        s=size,
        marker="*",
        color=colour,
        edgecolors=PAPER,
        linewidths=0.8,
        zorder=6,
        clip_on=False,
    )
