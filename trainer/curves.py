"""The curves of one run as a picture: losses, learning rate, gradient norm, the best evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CURVES_NAME = "curves.png"


def plot_curves(out_dir: Path, *, levels: dict[str, float] | None = None) -> Path:
    """Draw `metrics.jsonl` of a trial's folder into `curves.png` beside it.

    Args:
        out_dir: the trial's folder.
        levels: named losses to draw as horizontal lines, such as the unigram entropy; nats.

    Returns:
        The picture's path.

    Raises:
        FileNotFoundError: when the folder has no measurements.
    """
    # Imported here: the trainer's other verbs need no plotting library.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    text = (out_dir / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    losses, bits, rates, norms = axes.flat
    _draw(losses, lines, "loss", "training")
    _draw(losses, lines, "validation_loss", "held out", marker="o")
    best = best_evaluation(lines)
    if best is not None:
        losses.axvline(
            best["step"],
            color="0.5",
            linestyle="--",
            label=f"best: {best['validation_loss']:.4f} at step {best['step']}",
        )
    for name, value in (levels or {}).items():
        losses.axhline(value, color="0.7", linestyle=":", label=f"{name} {value:.3f}")
    losses.set_ylabel("loss, nats per token")
    losses.legend(fontsize=8)
    _draw(bits, lines, "validation_bpb", "held out", marker="o")
    bits.set_ylabel("bits per byte")
    _draw(rates, lines, "learning_rate", "learning rate")
    rates.set_ylabel("learning rate")
    _draw(norms, lines, "grad_norm", "gradient norm")
    norms.set_ylabel("gradient norm before clipping")
    for panel in axes.flat:
        panel.set_xlabel("step")
    path = out_dir / CURVES_NAME
    figure.savefig(path, dpi=100)
    return path


def best_evaluation(lines: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The line with the lowest held-out loss, the earliest of equals; None without evaluations."""
    evaluated = [line for line in lines if line.get("validation_loss") is not None]
    return min(evaluated, key=lambda line: line["validation_loss"], default=None)


def _draw(panel: Any, lines: list[dict[str, Any]], column: str, name: str, **style: Any) -> None:
    points = [(line["step"], line[column]) for line in lines if line.get(column) is not None]
    if points:
        panel.plot(*zip(*points, strict=True), label=name, **style)
