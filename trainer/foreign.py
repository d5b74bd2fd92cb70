"""The shape of a model whose code is not ours: a `transformers` class or a module of the user's.

Its parameters and FLOPs follow from no formula here. They are counted where it is built
(`trainer.counting`) and travel with the shape, so that planning needs neither torch nor the code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trainer.counts import ParameterCounts
from trainer.identity import OUTSIDE

HF = "hf"
"""Family of the causal language models of `transformers`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForeignShape:
    """One size of a family of models built by other code."""

    family: str
    """`hf`, or `package.module:build` for a module of the user's own."""
    arguments: str
    """Canonical JSON of what it is built from: the whole configuration (`hf`), or the keyword
    arguments of `build`."""
    vocab_size: int
    """Number of distinct tokens it gives logits for."""
    context: int
    """Longest sequence in tokens."""
    source: str = ""
    """SHA-256 of the module's source file; empty for `hf`."""
    folder: str = field(default="", metadata=OUTSIDE, compare=False)
    """Folder that the module is imported from; empty: wherever Python finds it."""
    d_model: int = field(metadata=OUTSIDE, compare=False)
    """Width of the token embedding, channels; 0 where there is none."""
    n_layer: int = field(metadata=OUTSIDE, compare=False)
    """Length of the longest list of modules; 1 where there is none."""
    counts: ParameterCounts = field(metadata=OUTSIDE, compare=False)
    """Parameters by component, counted on the built module."""
    weight_flops: float = field(metadata=OUTSIDE, compare=False)
    """Forward FLOPs per token that do not depend on the context, counted by torch."""
    attention_flops: float = field(metadata=OUTSIDE, compare=False)
    """Forward FLOPs per token and position of context, full score matrix, counted by torch."""

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> ForeignShape:
        """Inverse of `dataclasses.asdict`.

        Raises:
            TypeError: when a field is missing or unknown.
        """
        return cls(**{**record, "counts": ParameterCounts(**record["counts"])})
