"""Bytes of raw text in a token, from tables that carry loss and bits per byte both.

A ratio in tokens of one tokenizer means nothing in tokens of another; bytes of the same raw text
are common to all. With L nats per token, bits per byte are L/(ln 2 s) for a token of s bytes, so a
table with both columns says s.
"""

from __future__ import annotations

import math

import numpy as np

from analysis.table import LossTable

AGREEMENT = 0.01
"""Largest relative difference between rows for one number to stand for the table."""


def bytes_per_token(table: LossTable) -> float | None:
    """Bytes of raw text in a token of the table's losses.

    Args:
        table: the runs; `loss` in nats per token, `bpb` in bits per byte of the same text.

    Returns:
        The median over runs of loss/(ln 2 bpb); None without `bpb`, and where the runs differ by
        more than a hundredth: then tokenizers or validation texts are mixed, and no one number
        holds (see `tokens_differ`).
    """
    sizes = _sizes(table)
    if sizes is None or _differ(sizes):
        return None
    return float(np.median(sizes))


def tokens_differ(table: LossTable) -> str | None:
    """What is wrong when the runs' tokens hold different numbers of bytes; None when nothing is."""
    sizes = _sizes(table)
    if sizes is None or not _differ(sizes):
        return None
    return (
        f"loss and bpb give {sizes.min():.3g} to {sizes.max():.3g} bytes a token: tokenizers, "
        "validation texts or loss units differ between runs, so no ratio in bytes is given"
    )


def _sizes(table: LossTable) -> np.ndarray | None:
    if table.n_points == 0 or not table.has("bpb"):
        return None
    return table.loss / (math.log(2.0) * table.column("bpb"))


def _differ(sizes: np.ndarray) -> bool:
    return bool(sizes.max() > (1.0 + AGREEMENT) * sizes.min())
