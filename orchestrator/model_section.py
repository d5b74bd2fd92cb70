"""The `model:` section of a budget: a family, and how its size is varied."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from orchestrator.errors import nearest
from orchestrator.section import Section
from trainer.foreign import HF, ForeignShape
from trainer.identity import identity_record
from trainer.shapes import FAMILIES

WholeNumber = Annotated[int, Field(ge=1)]

_OF_USER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_RULE = re.compile(r"(?:(\d+(?:\.\d+)?)\s*\*?\s*)?(width|depth|heads)(?:\s*/\s*(\d+(?:\.\d+)?))?")


def _family(value: str) -> str:
    if value in (*FAMILIES, HF) or _OF_USER.fullmatch(value):
        return value
    hint = nearest(value, (*FAMILIES, HF))
    raise ValueError(
        f"must be {', '.join((*FAMILIES, HF))} or `package.module:build`, got `{value}`; {hint}"
    )


def _scaling(rules: dict[str, str]) -> dict[str, str]:
    for name, rule in rules.items():
        if not _RULE.fullmatch(rule):
            raise ValueError(
                f"a rule is `width`, `depth` or `heads`, with a factor before or a divisor behind "
                f"it (`4 * width`, `heads / 2`), got `{name}: {rule}`"
            )
    return rules


Family = Annotated[str, AfterValidator(_family)]
Scaling = Annotated[dict[str, str], Field(min_length=1), AfterValidator(_scaling)]


class Shape(Section):
    """One shape of the lattice of sizes."""

    d_model: WholeNumber
    """Width."""
    n_layer: WholeNumber
    """Depth."""
    n_head: WholeNumber
    """Heads; must divide `d_model`."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.d_model % self.n_head:
            low = self.d_model // self.n_head * self.n_head
            near = [str(width) for width in (low, low + self.n_head) if width]
            raise ValueError(
                f"n_head must divide d_model, got d_model {self.d_model} and n_head {self.n_head}; "
                f"nearest widths: {' and '.join(near)}"
            )
        return self


class Mixture(Section):
    """A mixture of experts in place of every feed-forward layer."""

    n_routed: WholeNumber = 8
    """Experts to choose from."""
    n_shared: Annotated[int, Field(ge=0)] = 1
    """Experts that see every token."""
    top_k: WholeNumber = 2
    """Routed experts per token."""
    expert_width: Annotated[float, Field(gt=0, le=4)] = 0.5
    """Feed-forward width of one expert over that of the family's dense layer."""
    router: Literal["softmax", "sigmoid"] = "sigmoid"
    """How the router's logits become weights."""
    balance: Literal["none", "auxiliary", "bias"] = "bias"
    """What keeps the load even: an auxiliary loss, a bias for choosing only, or nothing."""
    balance_rate: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Weight of the auxiliary loss, or size of a step of the bias."""

    @model_validator(mode="after")
    def _enough_experts(self) -> Self:
        if self.top_k > self.n_routed:
            raise ValueError(
                f"top_k must not exceed n_routed, got top_k {self.top_k} and n_routed "
                f"{self.n_routed}"
            )
        return self


_LATER = ("experts", "config", "code_path", "arguments", "sizes", "scale")
_OF_PRESETS = ("position", "norm", "activation", "tied_head", "experts", "shapes")


class Model(Section):
    """The family of models whose size is varied."""

    family: Family = "llama"
    """`gpt`: learned positions, LayerNorm, GELU, tied head. `llama`: rotary, RMSNorm, SwiGLU.
    `femto`: sinusoidal, GELU, residuals from the normed input. `deepseek`: llama with latent
    attention and experts. `hf`: a `transformers` configuration. `package.module:build`: a module of
    your own, whose code is run."""
    context: Annotated[int, Field(ge=8, le=1_048_576)] = 1024
    """Sequence length in tokens."""
    position: Literal["none", "learned", "sinusoidal", "rotary"] | None = None
    """Replaces the family's positions."""
    norm: Literal["layernorm", "rmsnorm"] | None = None
    """Replaces the family's normalisation."""
    activation: Literal["relu", "gelu", "silu", "swiglu"] | None = None
    """Replaces the family's non-linearity."""
    tied_head: bool | None = None
    """Replaces the family's choice of sharing embedding and head."""
    experts: Mixture | None = None
    """A mixture of experts in place of the feed-forward layers, or of those of `deepseek`; `{}` for
    all defaults."""
    shapes: tuple[Shape, ...] | None = None
    """Explicit shapes to choose sizes from; default: a lattice of widths and depths."""
    config: str | dict[str, Any] | None = None
    """`hf` only: a `config.json` (or its folder) beside the budget, or a mapping with `model_type`
    and fields of that configuration. Weights are random; nothing is downloaded, and a configuration
    that brings code is refused."""
    code_path: str | None = None
    """Family of your own only: folder from which its module is imported, relative to the budget's;
    default: the installed packages only."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of `build` that do not scale; for `hf`, fields that replace the configuration's."""
    sizes: Annotated[tuple[dict[str, Any], ...], Field(min_length=3)] | None = None
    """Sizes to choose from, as the arguments (`hf`: fields) that differ: [{width: 64, depth: 2},
    ...]."""
    scale: Scaling | None = None
    """Instead of `sizes`: arguments (`hf`: fields) by rule, along the family line of width, depth
    and heads: {d_ff: 4 * width, n_layer: depth, n_head: heads}. Default for `hf`: its width, depth,
    heads and feed-forward."""

    _counted: tuple[ForeignShape, ...] = PrivateAttr(default=())

    def __hash__(self) -> int:
        return hash((self.family, self.context, self.shapes, self.experts))

    @model_validator(mode="after")
    def _keys_suit_the_family(self) -> Self:
        allowed = {
            **dict.fromkeys(_OF_PRESETS, self.is_preset),
            "config": self.family == HF,
            "code_path": not self.is_preset and self.family != HF,
            **dict.fromkeys(("arguments", "sizes", "scale"), not self.is_preset),
        }
        fields = type(self).model_fields
        said = [
            key
            for key in allowed
            if getattr(self, key) != fields[key].get_default(call_default_factory=True)
        ]
        wrong = [key for key in said if not allowed[key]]
        if wrong:
            raise ValueError(f"`{wrong[0]}` is no key of family `{self.family}`")
        if self.family == HF and self.config is None:
            raise ValueError("family `hf` needs `config`: a config.json, or {model_type: ...}")
        if self.sizes and self.scale:
            raise ValueError("`sizes` and `scale` exclude each other")
        if not self.is_preset and self.family != HF and not (self.sizes or self.scale):
            raise ValueError("a family of your own needs `sizes` or `scale`")
        return self

    @property
    def is_preset(self) -> bool:
        """Whether the models are ours, with shapes that need no building to be counted."""
        return self.family in FAMILIES

    @property
    def counted(self) -> tuple[ForeignShape, ...]:
        """The sizes of a family of other code, ascending in N; empty until they are counted."""
        return self._counted

    def with_counted(self, shapes: Sequence[ForeignShape]) -> Self:
        """The same section with its sizes counted, ascending in N."""
        model = self.model_copy()
        model._counted = tuple(shapes)
        return model

    def science(self) -> dict[str, Any]:
        """The section as plain values, with a digest of what was built to count its sizes.

        Keys that joined after the first version are left out at their defaults, so that a sweep
        begun before them is still the same.
        """
        record = self.model_dump(mode="json")
        for key in _LATER:
            if not record[key]:
                del record[key]
        if self._counted:
            built = json.dumps([identity_record(shape) for shape in self._counted], sort_keys=True)
            record["built"] = hashlib.sha256(built.encode()).hexdigest()
        return record


def scaled(rule: str, *, width: int, depth: int, heads: int) -> int:
    """The value of a rule of `scale` at a size, at least 1."""
    match = _RULE.fullmatch(rule)
    assert match is not None, rule
    factor, name, divisor = match.groups()
    value = {"width": width, "depth": depth, "heads": heads}[name]
    return max(1, round(float(factor or 1) * value / float(divisor or 1)))
