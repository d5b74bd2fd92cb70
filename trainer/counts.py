"""The parameters of a model by component, from which every convention for N is formed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterCounts:
    """Parameters by component; unit: scalars."""

    total: int
    """Every trained scalar, counted once (a tied head adds none)."""
    body: int
    """Blocks and final norm: no embedding, no positions, no head."""
    embedding: int
    """Token embedding and learned positions."""
    head: int
    """The output head's own weights and bias (0 weights when tied)."""
    matmul: int
    """Weights that multiply the token stream: body matrices + vocab_size * d_model, tied or not."""
    active: int
    """As `total`, with only the experts a token meets (equal to `total` for dense models)."""
    matmul_active: int
    """As `matmul`, with only the experts a token meets: what the FLOPs count."""
