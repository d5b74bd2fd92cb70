"""The shape of a decoder-only transformer and every count of its parameters.

In: a `ModelShape`. Out: `ParameterCounts`, component by component, because the conventions for N
differ in which components they add (Pearce & Song 2024, arXiv 2406.12907; Porian et al. 2024,
arXiv 2406.19146) and the fitted ratio with them.

With width d, layers L, query heads h of size d_h = d / h, key/value heads h_kv, feed-forward width
d_ff, m = 2 plain or 3 gated feed-forward matrices, vocabulary V and context T, the matrices of one
block hold 2 d h d_h + 2 d h_kv d_h + m d d_ff weights, and a token meets V d more in the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Position = Literal["none", "learned", "sinusoidal", "rotary"]
Norm = Literal["layernorm", "rmsnorm"]
Activation = Literal["relu", "gelu", "silu", "swiglu"]
Family = Literal["gpt", "llama"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """Everything about a model's architecture that changes its function or its parameter count.

    Raises:
        ValueError: when a size is not a positive whole number, a name is unknown, or heads do not
            divide what they must; the message names the nearest values that would do.
    """

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

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive whole number, got {value!r}")
        for name, valid in _CHOICES.items():
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"{name} must be one of {', '.join(valid)}, got {getattr(self, name)!r}"
                )
        _check_divides("n_head", self.n_head, "d_model", self.d_model)
        _check_divides("n_kv_head", self.n_kv_head, "n_head", self.n_head)
        if self.position == "rotary" and self.d_head % 2:
            raise ValueError(
                f"rotary positions need an even head size, got d_model / n_head = {self.d_head}; "
                "change n_head or d_model"
            )
        if self.position == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"sinusoidal positions need an even d_model, got {self.d_model}")

    @property
    def d_head(self) -> int:
        """Size of one attention head, channels."""
        return self.d_model // self.n_head

    @property
    def d_attn(self) -> int:
        """Width of all query heads together, channels."""
        return self.n_head * self.d_head


_SIZES = ("d_model", "n_layer", "n_head", "n_kv_head", "d_ff", "vocab_size", "context")
_CHOICES: dict[str, tuple[str, ...]] = {
    "position": get_args(Position),
    "norm": get_args(Norm),
    "activation": get_args(Activation),
}


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


def count_parameters(shape: ModelShape) -> ParameterCounts:
    """Count the parameters of a model by component.

    The components are those of Hoffmann et al. 2022 (arXiv 2203.15556, appendix F) and Kaplan et
    al. 2020 (arXiv 2001.08361, table 1), kept apart so that every convention for N can be formed.

    Args:
        shape: the model.

    Returns:
        Scalars by component; `trainer.model` builds exactly these.
    """
    d, d_kv = shape.d_model, shape.n_kv_head * shape.d_head
    attention = 2 * d * shape.d_attn + 2 * d * d_kv
    gated = shape.activation == "swiglu"
    feed_forward = (3 if gated else 2) * d * shape.d_ff
    biases = 0
    if shape.bias:
        biases += shape.d_attn + 2 * d_kv + d
        biases += (2 if gated else 1) * shape.d_ff + d
    norm = (2 if shape.norm == "layernorm" else 1) * d
    matrices = shape.n_layer * (attention + feed_forward)
    body = matrices + shape.n_layer * (biases + 2 * norm) + norm
    positions = shape.context * d if shape.position == "learned" else 0
    embedding = shape.vocab_size * d + positions
    head = 0 if shape.tied_head else shape.vocab_size * d
    total = body + embedding + head
    matmul = matrices + shape.vocab_size * d
    return ParameterCounts(
        total=total,
        body=body,
        embedding=embedding,
        head=head,
        matmul=matmul,
        active=total,
        matmul_active=matmul,
    )


def preset(
    family: str,
    *,
    d_model: int,
    n_layer: int,
    n_head: int,
    vocab_size: int,
    context: int,
    **overrides: Any,
) -> ModelShape:
    """Fill in a family's customary choices.

    `gpt`: learned positions, LayerNorm, GELU with d_ff = 4 d, biases, tied head (Radford et al.
    2019). `llama`: rotary positions, RMSNorm, SwiGLU with d_ff = 8 d / 3 rounded to a multiple of
    8, no biases, untied head (Touvron et al. 2023, arXiv 2302.13971).

    Args:
        family: `gpt` or `llama`.
        d_model: width of the residual stream.
        n_layer: decoder blocks.
        n_head: query heads.
        vocab_size: distinct tokens.
        context: longest sequence, tokens.
        **overrides: any other field of `ModelShape`.

    Raises:
        ValueError: for an unknown family or override, or a shape that cannot be built.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    unknown = sorted(set(overrides) - set(ModelShape.__dataclass_fields__))
    if unknown:
        valid = ", ".join(ModelShape.__dataclass_fields__)
        raise ValueError(f"unknown model field {', '.join(unknown)}; valid fields: {valid}")
    fields: dict[str, Any] = {
        "d_model": d_model,
        "n_layer": n_layer,
        "n_head": n_head,
        "n_kv_head": n_head,
        "vocab_size": vocab_size,
        "context": context,
        **_FAMILY_FIELDS[family],
    }
    gated = overrides.get("activation", fields["activation"]) == "swiglu"
    # 8 d / 3 gives a gated layer the weights of a plain one with 4 d (Shazeer 2020, 2002.05202).
    fields["d_ff"] = max(8, 8 * round(d_model / 3)) if gated else 4 * d_model
    return ModelShape(**{**fields, **overrides})


_FAMILY_FIELDS: dict[str, dict[str, Any]] = {
    "gpt": {
        "position": "learned",
        "norm": "layernorm",
        "activation": "gelu",
        "tied_head": True,
        "bias": True,
    },
    "llama": {
        "position": "rotary",
        "norm": "rmsnorm",
        "activation": "swiglu",
        "tied_head": False,
        "bias": False,
    },
}

FAMILIES: tuple[str, ...] = tuple(_FAMILY_FIELDS)
"""Names that `preset` knows."""


def _check_divides(divisor_name: str, divisor: int, name: str, value: int) -> None:
    if value % divisor == 0:
        return
    divisors = [n for n in range(1, value + 1) if value % n == 0]
    near_divisors = sorted(sorted(divisors, key=lambda n: (abs(n - divisor), n))[:2])
    below, above = value // divisor * divisor, -(-value // divisor) * divisor
    near_values = [str(n) for n in (below, above) if n > 0]
    raise ValueError(
        f"{divisor_name} must divide {name}: got {divisor_name}={divisor}, {name}={value}; "
        f"nearest: {divisor_name}={' or '.join(map(str, near_divisors))}, "
        f"or {name}={' or '.join(near_values)}"
    )
