"""The lattice of real shapes that sizes are snapped to.

A sweep varies one thing, size, so width and depth move together along one family line: the
preferred depth grows with the width as 0.65 d^0.48, which passes through the shapes in common use
(d 512: 13 layers, 1024: 18, 2048: 25, 4096: 35) and stays shallow where models are so small that
each further layer costs more time than FLOPs.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math

from orchestrator.model_section import Mixture, Model
from trainer.shapes import Experts, ModelShape, Shape, count_parameters, preset

_DEPTH_TOLERANCE = 0.5
"""Weight of a factor-e deviation from the preferred depth against the same deviation in N: a size a
little off is still on the curve, a depth off the line is another curve."""


def preferred_depth(d_model: int) -> float:
    """Layers on the family line at a width."""
    return 0.65 * d_model**0.48


def head_count(d_model: int) -> int:
    """Heads whose size is even and closest in ratio to d_model / 4, held within 8 and 64 (128)."""
    target = min(max(d_model / 4, 8), 64 if d_model < 2048 else 128)
    sizes = [size for size in range(2, d_model + 1, 2) if d_model % size == 0]
    return d_model // min(sizes, key=lambda size: abs(math.log(size / target)))


@functools.cache
def lattice(model: Model, vocab_size: int) -> tuple[tuple[int, Shape], ...]:
    """Every shape of a family with its matmul parameters N, ascending in N."""
    if not model.is_preset:
        assert model.counted, f"the sizes of {model.family} are counted before anything is planned"
        return tuple((shape.counts.matmul, shape) for shape in model.counted)
    if model.shapes is not None:
        choices = [(shape.d_model, shape.n_layer, shape.n_head) for shape in model.shapes]
    else:
        choices = [(d, n, head_count(d)) for d in widths() for n in _depths(d)]
    shapes: list[Shape] = [
        real_shape(model, vocab_size, d_model=d_model, n_layer=n_layer, n_head=n_head)
        for d_model, n_layer, n_head in choices
    ]
    counted = [(count_parameters(shape).matmul, shape) for shape in shapes]
    return tuple(sorted(counted, key=lambda item: (item[0], item[1].d_model)))


def real_shape(
    model: Model, vocab_size: int, *, d_model: int, n_layer: int, n_head: int
) -> ModelShape:
    """A shape of the family with the budget's overrides."""
    overrides = {
        key: value
        for key in ("position", "norm", "activation", "tied_head")
        if (value := getattr(model, key)) is not None
    }
    shape = preset(
        model.family,
        d_model=d_model,
        n_layer=n_layer,
        n_head=n_head,
        vocab_size=vocab_size,
        context=model.context,
        **overrides,
    )
    if model.experts is None:
        return shape
    return dataclasses.replace(shape, experts=_experts(model.experts, shape.d_ff))


def _experts(mixture: Mixture, d_ff: int) -> Experts:
    """Experts of a width in proportion to a dense layer's, a multiple of 8 as that is."""
    return Experts(
        n_routed=mixture.n_routed,
        n_shared=mixture.n_shared,
        top_k=mixture.top_k,
        d_expert=max(8, 8 * round(mixture.expert_width * d_ff / 8)),
        router=mixture.router,
        balance=mixture.balance,
        balance_rate=mixture.balance_rate,
    )


SIZES_PER_DECADE = 8
"""Sizes of the ladder in a decade."""


@functools.cache
def size_ladder(model: Model, vocab_size: int) -> tuple[tuple[int, Shape], ...]:
    """The shapes nearest to sizes an eighth of a decade apart, with their N, ascending."""
    counts = lattice(model, vocab_size)
    low, high = math.log10(counts[0][0]), math.log10(counts[-1][0])
    steps = range(math.ceil(SIZES_PER_DECADE * low), math.floor(SIZES_PER_DECADE * high) + 1)
    wanted = (10 ** (step / SIZES_PER_DECADE) for step in steps)
    found = {shape for params in wanted if (shape := nearest_shape(model, vocab_size, params))}
    return tuple((n, shape) for n, shape in counts if shape in found)


def on_ladder(params: float, *, per_decade: int = SIZES_PER_DECADE) -> float:
    """The size that is nearest to a size, of those a ladder has in every decade."""
    return 10 ** (round(per_decade * math.log10(params)) / per_decade)


def nearest_shape(
    model: Model, vocab_size: int, params: float, *, taken: frozenset[Shape] = frozenset()
) -> Shape | None:
    """The shape closest to `params` matmul parameters and to the family line.

    Args:
        model: the family and its overrides.
        vocab_size: tokens of the vocabulary.
        params: wanted N, matmul parameters.
        taken: shapes that may not be chosen again.

    Returns:
        The shape, or None when no free shape lies within a factor of 2 of `params`.
    """

    def distance(item: tuple[int, Shape]) -> float:
        count, shape = item
        off_size = abs(math.log(count / params))
        if model.shapes is not None or not model.is_preset:
            return off_size
        off_line = abs(math.log(shape.n_layer / preferred_depth(shape.d_model)))
        return off_size + _DEPTH_TOLERANCE * off_line

    counts = lattice(model, vocab_size)
    first = bisect.bisect_left(counts, 0.5 * params, key=lambda item: item[0])
    last = bisect.bisect_right(counts, 2 * params, key=lambda item: item[0])
    free = [item for item in counts[first:last] if item[1] not in taken]
    return min(free, key=distance)[1] if free else None


def widths() -> list[int]:
    """Widths of the lattice, each at most a fifth above the one before it past the first few."""
    return [
        *range(8, 32, 4),
        *range(32, 128, 8),
        *range(128, 256, 16),
        *range(256, 512, 32),
        *range(512, 1024, 64),
        *range(1024, 2048, 128),
        *range(2048, 8192, 256),
        *range(8192, 16385, 1024),
    ]


def _depths(d_model: int) -> range:
    """Depths within a factor of 1.6 of the family line."""
    line = preferred_depth(d_model)
    return range(max(1, round(line / 1.6)), max(2, round(line * 1.6)) + 1)
