"""The shape of a decoder-only transformer and every count of its parameters.

In: a `ModelShape`. Out: `ParameterCounts`, component by component, because the conventions for N
differ in which components they add (Pearce & Song 2024, arXiv 2406.12907; Porian et al. 2024,
arXiv 2406.19146) and the fitted ratio with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Position = Literal["none", "learned", "sinusoidal", "rotary"]
Norm = Literal["layernorm", "rmsnorm"]
Activation = Literal["relu", "gelu", "silu", "swiglu"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """Everything about a model's architecture that changes its function or its parameter count."""

    d_model: int
    """Width of the residual stream."""
    n_layer: int
    """Number of decoder blocks."""
    n_head: int
    """Query heads; must divide `d_model`."""
    n_kv_head: int
    """Key/value heads; must divide `n_head` (equal: MHA, fewer: GQA, one: MQA)."""
    d_ff: int
    """Width of the feed-forward layer."""
    vocab_size: int
    """Number of distinct tokens."""
    context: int
    """Longest sequence in tokens."""
    position: Position
    """How positions enter the model."""
    norm: Norm
    """The normalisation in front of each sub-layer and before the head."""
    activation: Activation
    """Non-linearity of the feed-forward layer; `swiglu` is gated and has three matrices."""
    tied_head: bool
    """Whether the output head shares the embedding's weights."""
    bias: bool
    """Whether linear layers of attention and feed-forward carry biases."""


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
