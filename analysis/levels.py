"""Levels of compute: those that a table names, or groups of runs of nearly equal compute."""

from __future__ import annotations

import numpy as np
import pandas as pd

_LEVEL_WIDTH = 0.25
"""Runs whose ln C lies within this range are one level when the table names none."""
_LEVEL_GAP = 0.25
"""Levels found from C alone are at least this far apart in ln C."""
_LEVEL_SHARE = 0.6
"""Share of the runs that must fall into such groups; otherwise compute was not set in levels."""


def fill_levels(frame: pd.DataFrame, notes: list[str]) -> None:
    """Give each row a level label: the column's, or one per cluster of compute."""
    if "level" in frame and frame["level"].notna().any():
        frame["level"] = pd.Series(map(_label, frame["level"]), index=frame.index, dtype="str")
        return
    source = "flops_target" if "flops_target" in frame else "flops"
    used = frame.index[frame["excluded"] == ""]
    labels = pd.Series("", index=frame.index, dtype="str")
    compute = frame.loc[used, source].to_numpy(dtype=np.float64)
    usable = np.isfinite(compute) & (compute > 0)
    labels.loc[used[usable]] = cluster_levels(compute[usable])
    frame["level"] = labels
    found = sorted({label for label in labels if label}, key=float)
    if found:
        notes.append(f"levels were found from {source}: {', '.join(found)}")


def _label(cell: object) -> str:
    if cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e6:
        return str(int(cell))
    return str(cell)


def cluster_levels(compute: np.ndarray) -> np.ndarray:
    """Group runs of nearly equal compute.

    Args:
        compute: C of each run, FLOPs, shape (n,).

    Returns:
        Labels (the group's geometric mean, as text), shape (n,), dtype object; '' where a run is
        in no group of at least 3 that is narrow and set apart from its neighbours, and everywhere
        when fewer than 60 % of the runs are in such groups: compute that was drawn at random
        clusters here and there without being a level.
    """
    labels = np.full(len(compute), "", dtype=object)
    order = np.argsort(compute, kind="stable")
    log_c = np.log(compute[order])
    starts = np.flatnonzero(np.diff(log_c, prepend=-np.inf) > _LEVEL_GAP)
    for start, stop in zip(starts, [*starts[1:], len(log_c)], strict=True):
        members = log_c[start:stop]
        if len(members) >= 3 and members[-1] - members[0] <= _LEVEL_WIDTH:
            labels[order[start:stop]] = f"{np.exp(members.mean()):.4g}"
    if (labels != "").mean() < _LEVEL_SHARE:
        labels[:] = ""
    return labels
