"""The shape of a decoder-only transformer and every count of its parameters.

In: a `ModelShape`. Out: `ParameterCounts`, component by component, because the conventions for N
differ in which components they add (Pearce & Song 2024, arXiv 2406.12907; Porian et al. 2024,
arXiv 2406.19146) and the fitted ratio with them.

With width d, layers L, query heads h of size d_h = d / h, key/value heads h_kv, feed-forward width
d_ff, m = 2 plain or 3 gated feed-forward matrices, vocabulary V and context T, the matrices of one
block hold 2 d h d_h + 2 d h_kv d_h + m d d_ff weights, and a token meets V d more in the head.
Latent attention and experts replace the first two and the last of these terms by their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from trainer.counts import ParameterCounts
from trainer.foreign import ForeignShape
from trainer.identity import ADDED

Position = Literal["none", "learned", "sinusoidal", "rotary"]
Norm = Literal["layernorm", "rmsnorm"]
Activation = Literal["relu", "gelu", "learned_gelu", "silu", "swiglu"]
Residual = Literal["stream", "normed"]
RotaryLayout = Literal["half", "interleaved"]
Router = Literal["softmax", "sigmoid"]
Balance = Literal["none", "auxiliary", "bias"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-AI 2024, arXiv 2405.04434, section 2.1).

    Queries, and keys with values, pass through narrow latents; a separate rotary part carries the
    positions, its key shared by all heads. A cache for generation holds the key/value latent and
    the rotary key only.
    """

    q_latent: int | None
    """Width of the query latent; None: queries come straight from the stream."""
    kv_latent: int
    """Width of the latent of keys and values."""
    d_content: int
    """Size per head of the part of queries and keys without positions."""
    d_rotary: int
    """Size per head of the rotary part; even."""
    d_value: int
    """Size per head of the values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """A mixture of experts in place of each feed-forward layer (arXiv 2401.06066, 2412.19437).

    The shared experts see every token, of the routed ones only the `top_k` that the router picks.
    """

    n_routed: int
    """Experts to choose from."""
    n_shared: int
    """Experts that see every token; 0 for none."""
    top_k: int
    """Routed experts per token."""
    d_expert: int
    """Feed-forward width of one expert."""
    router: Router = "softmax"
    """How the router's logits become weights."""
    normalise: bool = True
    """Whether the weights of the chosen experts are scaled to sum to one."""
    gumbel: float = 0.0
    """Size of the Gumbel noise added to the router's logits in training; 0 for none."""
    temperature: float = field(default=1.0, metadata=ADDED)
    """Divides the router's logits, noise included: with `gumbel` 1 the weights are a
    Gumbel-softmax (Jang et al. 2017, arXiv 1611.01144, equation 2)."""
    balance: Balance = "auxiliary"
    """What keeps the load even: an auxiliary loss, a bias for choosing only, or nothing."""
    balance_rate: float = 0.01
    """Weight of the auxiliary loss, or size of a step of the bias."""

    @property
    def met(self) -> int:
        """Experts that a token meets."""
        return self.top_k + self.n_shared


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
    qkv_bias: bool | None = None
    """Whether queries, keys and values carry biases; None: as `bias`."""
    head_bias: bool = False
    """Whether the output head carries a bias."""
    residual: Residual = "stream"
    """`stream`: x + f(norm(x)). `normed`: the residual continues from the normalised input."""
    rotary_layout: RotaryLayout = "half"
    """Channels that turn together: i and i + d_h / 2 (Llama), or 2 i and 2 i + 1 (the paper)."""
    latent: LatentAttention | None = None
    """Latent attention in place of `n_kv_head` key/value heads."""
    experts: Experts | None = None
    """A mixture of experts in place of the feed-forward layer of width `d_ff`."""

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
        if self.latent is not None:
            _check_latent(self.latent, self)
        if self.experts is not None:
            _check_experts(self.experts)

    @property
    def d_head(self) -> int:
        """Size of one attention head, channels."""
        return self.d_model // self.n_head

    @property
    def d_attn(self) -> int:
        """Width of all query heads together, channels."""
        return self.n_head * self.d_head

    @property
    def has_qkv_bias(self) -> bool:
        """Whether queries, keys and values carry biases."""
        return self.bias if self.qkv_bias is None else self.qkv_bias

    @property
    def score_channels(self) -> int:
        """Channels of all heads that a pair of positions meets: in its score and its value."""
        if self.latent is None:
            return 2 * self.d_attn
        return self.n_head * (self.latent.d_content + self.latent.d_rotary + self.latent.d_value)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> ModelShape:
        """Inverse of `dataclasses.asdict`.

        Raises:
            TypeError: when a field is missing or unknown.
            ValueError: when the shape cannot be built.
        """
        latent, experts = record.get("latent"), record.get("experts")
        return cls(
            **{
                **record,
                "latent": None if latent is None else LatentAttention(**latent),
                "experts": None if experts is None else Experts(**experts),
            }
        )


_SIZES = ("d_model", "n_layer", "n_head", "n_kv_head", "d_ff", "vocab_size", "context")
_CHOICES: dict[str, tuple[str, ...]] = {
    "position": get_args(Position),
    "norm": get_args(Norm),
    "activation": get_args(Activation),
    "residual": get_args(Residual),
    "rotary_layout": get_args(RotaryLayout),
}


Shape = ModelShape | ForeignShape
"""What a run trains: a model of ours, or one of other code whose counts come with its shape."""


def shape_from_record(record: dict[str, Any]) -> Shape:
    """A shape from plain values, as `dataclasses.asdict` gives them.

    Raises:
        TypeError: when a field is missing or unknown.
        ValueError: when the shape cannot be built.
    """
    kind = ForeignShape if "family" in record else ModelShape
    return kind.from_record(record)


def count_parameters(shape: Shape) -> ParameterCounts:
    """Count the parameters of a model by component.

    The components are those of Hoffmann et al. 2022 (arXiv 2203.15556, appendix F) and Kaplan et
    al. 2020 (arXiv 2001.08361, table 1), kept apart so that every convention for N can be formed.

    Args:
        shape: the model.

    Returns:
        Scalars by component; `trainer.model` builds exactly these.
    """
    if isinstance(shape, ForeignShape):
        return shape.counts
    d = shape.d_model
    attention, attention_vectors = _attention_parameters(shape)
    feed_forward, idle, feed_forward_vectors = _feed_forward_parameters(shape)
    norm = (2 if shape.norm == "layernorm" else 1) * d
    matrices = shape.n_layer * (attention + feed_forward)
    vectors = shape.n_layer * (attention_vectors + feed_forward_vectors + 2 * norm) + norm
    positions = shape.context * d if shape.position == "learned" else 0
    embedding = shape.vocab_size * d + positions
    head = (0 if shape.tied_head else shape.vocab_size * d) + shape.head_bias * shape.vocab_size
    body = matrices + vectors
    total = body + embedding + head
    matmul = matrices + shape.vocab_size * d
    return ParameterCounts(
        total=total,
        body=body,
        embedding=embedding,
        head=head,
        matmul=matmul,
        active=total - shape.n_layer * idle,
        matmul_active=matmul - shape.n_layer * idle,
    )


def _attention_parameters(shape: ModelShape) -> tuple[int, int]:
    """Weights of a block's attention: in matrices, in vectors."""
    d, latent = shape.d_model, shape.latent
    if latent is None:
        d_kv = shape.n_kv_head * shape.d_head
        biases = shape.has_qkv_bias * (shape.d_attn + 2 * d_kv) + shape.bias * d
        return 2 * d * shape.d_attn + 2 * d * d_kv, biases
    h, d_key = shape.n_head, latent.d_content + latent.d_rotary
    if latent.q_latent is None:
        query, norms = d * h * d_key, latent.kv_latent
    else:
        query = latent.q_latent * (d + h * d_key)
        norms = latent.q_latent + latent.kv_latent
    down = d * (latent.kv_latent + latent.d_rotary)
    up = latent.kv_latent * h * (latent.d_content + latent.d_value)
    return query + down + up + h * latent.d_value * d, norms


def _feed_forward_parameters(shape: ModelShape) -> tuple[int, int, int]:
    """Weights of a block's feed-forward: in matrices, idle ones of these, in vectors."""
    d, experts = shape.d_model, shape.experts
    gated = shape.activation == "swiglu"
    learned = 2 if shape.activation == "learned_gelu" else 0
    matrices = 3 if gated else 2
    if experts is None:
        biases = shape.bias * ((2 if gated else 1) * shape.d_ff + d)
        return matrices * d * shape.d_ff, 0, biases + learned
    expert = matrices * d * experts.d_expert
    weights = (experts.n_routed + experts.n_shared) * expert + d * experts.n_routed
    instances = experts.n_routed + (experts.n_shared > 0)
    return weights, (experts.n_routed - experts.top_k) * expert, learned * instances


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
    8, no biases, untied head (Touvron et al. 2023, arXiv 2302.13971). `femto`: the model of the
    femtoGPT experiments: sinusoidal positions, GELU, residuals from the normalised input, no
    biases on queries, keys and values, untied head with a bias. `deepseek`: llama with latent
    attention and a mixture of one shared and eight routed experts, two of them active, of half
    the dense width each (DeepSeek-AI 2024, arXiv 2412.19437, in small).

    Args:
        family: `gpt`, `llama`, `femto` or `deepseek`.
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
    if family == "deepseek":
        fields |= _deepseek_fields(d_model, n_head, overrides.get("d_ff", fields["d_ff"]))
    return ModelShape(**{**fields, **overrides})


def _deepseek_fields(d_model: int, n_head: int, d_ff: int) -> dict[str, Any]:
    d_head = max(2, d_model // n_head)
    latent = LatentAttention(
        q_latent=max(1, d_model // 2),
        kv_latent=max(1, d_model // 4),
        d_content=d_head,
        d_rotary=max(2, 2 * (d_head // 4)),
        d_value=d_head,
    )
    experts = Experts(
        n_routed=8,
        n_shared=1,
        top_k=2,
        d_expert=max(1, d_ff // 2),
        router="sigmoid",
        balance="bias",
        balance_rate=0.001,
    )
    return {"latent": latent, "experts": experts}


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
    "femto": {
        "position": "sinusoidal",
        "norm": "layernorm",
        "activation": "gelu",
        "tied_head": False,
        "bias": True,
        "qkv_bias": False,
        "head_bias": True,
        "residual": "normed",
    },
}
_FAMILY_FIELDS["deepseek"] = _FAMILY_FIELDS["llama"]

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


def _check_latent(latent: LatentAttention, shape: ModelShape) -> None:
    for name in ("q_latent", "kv_latent"):
        width = getattr(latent, name)
        if width is not None and not 1 <= width <= shape.d_model:
            raise ValueError(
                f"{name} must lie between 1 and d_model = {shape.d_model}, got {width}"
            )
    for name in ("d_content", "d_rotary", "d_value"):
        if getattr(latent, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(latent, name)}")
    if latent.d_rotary % 2:
        raise ValueError(f"d_rotary must be even, got {latent.d_rotary}")
    if shape.position != "rotary" or shape.has_qkv_bias or shape.bias:
        raise ValueError(
            "latent attention needs position = rotary and no biases, got "
            f"position={shape.position}, bias={shape.bias}, qkv_bias={shape.qkv_bias}"
        )


def _check_experts(experts: Experts) -> None:
    for name in ("n_routed", "top_k", "d_expert"):
        if getattr(experts, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(experts, name)}")
    if experts.n_shared < 0:
        raise ValueError(f"n_shared must be at least 0, got {experts.n_shared}")
    if experts.top_k > experts.n_routed:
        raise ValueError(
            f"top_k must not exceed n_routed: got top_k={experts.top_k}, "
            f"n_routed={experts.n_routed}"
        )
    for name, valid in (("router", get_args(Router)), ("balance", get_args(Balance))):
        if getattr(experts, name) not in valid:
            raise ValueError(
                f"{name} must be one of {', '.join(valid)}, got {getattr(experts, name)!r}"
            )
    if not experts.temperature > 0:
        raise ValueError(f"temperature must be positive, got {experts.temperature}")
    if experts.gumbel < 0 or experts.balance_rate < 0:
        raise ValueError(
            f"gumbel and balance_rate must not be negative, got {experts.gumbel} and "
            f"{experts.balance_rate}"
        )
