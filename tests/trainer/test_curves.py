"""The picture of a run's curves; row X11."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer import curves
from trainer.curves import best_evaluation, plot_curves

LINES = [
    {"step": 1, "loss": 5.0, "learning_rate": 0.1, "grad_norm": None},
    {"step": 2, "loss": 4.0, "learning_rate": 0.2, "grad_norm": 2.0},
    {"step": 2, "validation_loss": 4.5, "validation_bpb": 2.0},
    {"step": 4, "loss": 3.0, "learning_rate": 0.1, "grad_norm": 1.0},
    {"step": 4, "validation_loss": 4.1, "validation_bpb": 1.9},
    {"step": 6, "loss": 2.0, "learning_rate": 0.0, "grad_norm": 1.0},
    {"step": 6, "validation_loss": 4.3, "validation_bpb": 1.95},
]


def test_the_best_evaluation_is_the_earliest_of_the_lowest() -> None:
    best = best_evaluation(LINES)
    assert best is not None
    assert best["step"] == 4
    assert best_evaluation([*LINES, {"step": 9, "validation_loss": 4.1}]) == best
    assert best_evaluation(LINES[:2]) is None


def test_the_curves_are_a_picture_with_a_line_at_the_best_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    drawn = []
    draw = Axes.axvline
    monkeypatch.setattr(
        Axes, "axvline", lambda axes, x, **style: drawn.append((x, style)) or draw(axes, x, **style)
    )
    text = "".join(json.dumps(line) + "\n" for line in LINES)
    (tmp_path / "metrics.jsonl").write_text(text)
    path = plot_curves(tmp_path, levels={"H1": 3.3})
    assert path == tmp_path / curves.CURVES_NAME
    assert path.read_bytes().startswith(b"\x89PNG")
    ((place, style),) = drawn
    assert place == 4
    assert style["label"] == "best: 4.1000 at step 4"


def test_a_folder_without_measurements_has_no_curves(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        plot_curves(tmp_path)
