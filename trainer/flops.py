"""Floating-point operations of training, per token, under named conventions.

In: a `Shape`. Out: `FlopsPerToken`. One multiply-add is 2 operations and the backward pass
costs twice the forward pass, so a weight that multiplies the token stream costs 6 per token:

    exact  = 6 W + 12 L d_attn T              (full score matrix)
    causal = 6 W +  6 L d_attn (T + 1)        (only the scores at or below the diagonal)

with W the matrices of the body and the head, tied or not; the input embedding is a look-up and
costs nothing. Of a mixture, W counts the router and the experts that a token meets; in latent
attention the 2 d_attn channels of a score and its value are h (d_content + d_rotary + d_value).

`exact` is the convention of PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B) and what
`torch.utils.flop_counter` counts with unfused attention.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.foreign import ForeignShape
from trainer.shapes import Shape, count_parameters

BACKWARD_AND_FORWARD = 3
"""Cost of a training step over that of its forward pass; nothing is recomputed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlopsPerToken:
    """Training FLOPs of one token: forward and backward."""

    matmul: float
    """Products with weights: 6 per weight that the token meets, the head included."""
    attention: float
    """Scores and weighted values, full score matrix: 12 L d_attn T."""
    attention_causal: float
    """Scores and weighted values at or below the diagonal: 6 L d_attn (T + 1)."""

    @property
    def total(self) -> float:
        """Exact FLOPs per trained token, full score matrix: the product's convention for C."""
        return self.matmul + self.attention

    @property
    def forward(self) -> float:
        """Exact FLOPs per token of a forward pass alone: a third of `total`."""
        return self.total / BACKWARD_AND_FORWARD

    @property
    def causal(self) -> float:
        """FLOPs per trained token that a causal kernel needs."""
        return self.matmul + self.attention_causal


def training_flops_per_token(shape: Shape) -> FlopsPerToken:
    """Count the training FLOPs of one token by closed formula.

    Grouped key/value heads save weights, not scores, so the attention term does not depend on
    `n_kv_head`. Of models of other code the forward pass was counted when the shape was made.
    """
    if isinstance(shape, ForeignShape):
        matmul = BACKWARD_AND_FORWARD * shape.weight_flops
        per_key = BACKWARD_AND_FORWARD * shape.attention_flops
    else:
        matmul = 6.0 * count_parameters(shape).matmul_active
        per_key = 6.0 * shape.n_layer * shape.score_channels
    return FlopsPerToken(
        matmul=matmul,
        attention=per_key * shape.context,
        attention_causal=per_key * (shape.context + 1) / 2,
    )


def six_n_flops_per_token(params: float) -> float:
    """Training FLOPs per token by the 6 N rule (Kaplan et al. 2020, arXiv 2001.08361, table 1).

    Args:
        params: N under whichever convention the caller names.
    """
    return 6.0 * params
