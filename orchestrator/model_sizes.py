"""Readies the sizes of a family for planning: those of other code counted, ours checked.

A family of other code is built once to be counted; planning goes on without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.budget import Budget, Spending
from orchestrator.design_section import FileDesign
from orchestrator.errors import BadInput, Fault
from orchestrator.lattice import head_count, preferred_depth, real_shape, widths
from orchestrator.model_section import Model, Shape, scaled
from trainer.foreign import HF, ForeignShape

_NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads")
_IN_PROPORTION = ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")
_HEADS = ("num_key_value_heads", "head_dim")
"""Fields of `transformers` that scale where none are named."""

_NARROWEST, _WIDEST = 16, 1024
"""Widths that are counted where no sizes are given: up to 2e8 parameters."""

_OF_THE_LATTICE = Shape(d_model=64, n_layer=2, n_head=2)
"""Any shape of the lattice: what a family refuses there comes from the overrides."""

_CPU_FLOPS, _GPU_FLOPS = 1e12, 1e15
"""FLOP/s that no core and no GPU exceeds, for how much an amount of time can be at most."""

_LEAST_RATIO = 0.1
"""Tokens per parameter under which nobody trains: it bounds the sizes that are counted."""


def with_model_sizes(budget: Budget, base: Path, vocab_size: int) -> Budget:
    """The budget with the sizes of its family counted; those of our own families can be built.

    Args:
        budget: what was asked for.
        base: folder of the budget, that paths are taken from.
        vocab_size: ids of the tokenizer.

    Raises:
        BadInput: when the model cannot be read, built, counted or scaled.
    """
    model = budget.model
    if model.is_preset:
        _refuse_unbuildable(budget, vocab_size)
        return budget
    try:
        counted = list(_counted(budget, base, vocab_size))
    except ValueError as error:
        key = "config" if model.family == HF else "family"
        raise BadInput(
            Fault(
                code="SWP-1221",
                rule=str(error),
                place=f"model.{key}",
                remedy="`docs/howto/own-architecture.md` shows a working example",
            )
        ) from error
    _refuse_equal(counted)
    shapes = sorted((shape for _, shape in counted), key=lambda shape: shape.counts.matmul)
    return budget.model_copy(update={"model": model.with_counted(shapes)})


def _refuse_unbuildable(budget: Budget, vocab_size: int) -> None:
    """A shape of ours whose numbers do not suit its family's positions or attention."""
    model, design = budget.model, budget.design
    asked = {f"model.shapes.{place}": shape for place, shape in enumerate(model.shapes or ())}
    if isinstance(design, FileDesign):
        points = enumerate(design.points or ())
        asked |= {f"design.points.{i}.shape": point.shape for i, point in points if point.shape}
    if model.shapes is None:
        asked["model"] = _OF_THE_LATTICE
    for place, shape in asked.items():
        try:
            real_shape(model, vocab_size, **shape.model_dump())
        except ValueError as error:
            raise BadInput(
                Fault(
                    code="SWP-1223",
                    rule=str(error),
                    place=place,
                    remedy=f"`model.family`, its overrides and the shape must go together; without "
                    f"overrides or shapes of your own `{model.family}` chooses them itself",
                )
            ) from error


def _counted(
    budget: Budget, base: Path, vocab_size: int
) -> Iterator[tuple[Mapping[str, Any], ForeignShape]]:
    """Fields and counts: of the sizes given, or along the line up to what can be paid."""
    model = budget.model
    kind = _Transformers if model.family == HF else _User
    source = kind(model, base, vocab_size)
    if model.sizes is not None:
        for fields in model.sizes:
            yield fields, source.count(fields)
        return
    most = _most_params(budget.budget)
    for width in widths():
        if not _NARROWEST <= width <= _WIDEST:
            continue
        depth, heads = max(1, round(preferred_depth(width))), head_count(width)
        if model.scale is None:
            chosen = source.usual_fields(width=width, depth=depth, heads=heads)
        else:
            chosen = {
                name: scaled(rule, width=width, depth=depth, heads=heads)
                for name, rule in model.scale.items()
            }
        shape = source.count(chosen)
        yield chosen, shape
        if shape.counts.matmul > most:
            return


class _Transformers:
    """Sizes of a configuration of `transformers`."""

    def __init__(self, model: Model, base: Path, vocab_size: int) -> None:
        from trainer.transformers_config import base_values, check_fields, read_config

        assert model.config is not None
        read = read_config(model.config, base)
        named = {*model.arguments, *(model.scale or {}), *(k for s in model.sizes or () for k in s)}
        check_fields(read, sorted(named))
        self._config = {**read, **model.arguments}
        self._limits = {"vocab_size": vocab_size, "context": model.context}
        self._base = base_values(self._config, (*_NEEDED, *_IN_PROPORTION, *_HEADS))
        lacking = [name for name in _NEEDED if not isinstance(self._base.get(name), int)]
        if lacking and not named:
            raise ValueError(
                f"{read['model_type']} has no {' or '.join(lacking)}: name the fields that scale "
                "in model.scale, or the sizes in model.sizes"
            )

    def count(self, fields: Mapping[str, Any]) -> ForeignShape:
        """Count one size."""
        from trainer.counting import count_transformers
        from trainer.transformers_config import whole_config

        whole = whole_config(self._config, fields, **self._limits)
        return count_transformers(whole, context=self._limits["context"])

    def usual_fields(self, *, width: int, depth: int, heads: int) -> dict[str, Any]:
        """The usual fields of a size, with the configuration's own proportions."""
        base = self._base
        fields = {
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
        }
        for name in _IN_PROPORTION:
            if isinstance(base.get(name), int):
                ratio = base[name] / base["hidden_size"]
                fields[name] = max(8, 8 * round(ratio * width / 8))
        if isinstance(base.get("num_key_value_heads"), int):
            share = base["num_key_value_heads"] / base["num_attention_heads"]
            most = max(1, round(share * heads))
            fields["num_key_value_heads"] = max(n for n in range(1, most + 1) if heads % n == 0)
        if "head_dim" in base:
            fields["head_dim"] = width // heads
        return {name: value for name, value in fields.items() if name in base}


class _User:
    """Sizes of a module of the user's own."""

    def __init__(self, model: Model, base: Path, vocab_size: int) -> None:
        self._model, self._vocab_size = model, vocab_size
        self._folder = str((base / model.code_path).resolve()) if model.code_path else ""

    def count(self, fields: Mapping[str, Any]) -> ForeignShape:
        """Count one size."""
        from trainer.counting import count_user

        return count_user(
            self._model.family,
            {**self._model.arguments, **fields},
            vocab_size=self._vocab_size,
            context=self._model.context,
            folder=self._folder,
        )

    def usual_fields(self, *, width: int, depth: int, heads: int) -> dict[str, Any]:
        """None are known of code that is not ours: the budget names `sizes` or `scale`."""
        raise AssertionError(f"{self._model.family} has neither sizes nor scale")


def _most_params(spending: Spending) -> float:
    """N above which not even `_LEAST_RATIO` tokens per parameter can be paid."""
    if spending.flops is not None:
        flops = spending.flops
    elif spending.cpu_hours is not None:
        flops = spending.cpu_hours * 3600 * _CPU_FLOPS
    elif spending.gpu_hours is not None:
        flops = spending.gpu_hours * 3600 * _GPU_FLOPS
    else:
        flops = (spending.gpus or 1) * (spending.wall_clock or 0.0) * _GPU_FLOPS
    return math.sqrt(flops / (6 * _LEAST_RATIO))


def _refuse_equal(counted: Sequence[tuple[Mapping[str, Any], ForeignShape]]) -> None:
    """Sizes that do not differ are no sizes: a field was named that changes nothing."""
    seen: dict[int, Mapping[str, Any]] = {}
    for fields, shape in counted:
        params = shape.counts.matmul
        if params in seen:
            raise BadInput(
                Fault(
                    code="SWP-1222",
                    rule=f"sizes must differ in matmul parameters; {dict(seen[params])} and "
                    f"{dict(fields)} both have {params:,}",
                    place="model.sizes",
                    remedy="name fields that change the width or the depth",
                )
            )
        seen[params] = fields
