"""The `design:` section of a budget: which (N, D) points it is spent on, one section per kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from orchestrator.model_section import Shape
from orchestrator.section import Section
from orchestrator.units import Count, Flops


class IsoflopDesign(Section):
    """Levels of equal compute, several sizes in each, re-centred level by level."""

    kind: Literal["isoflop"] = "isoflop"
    """`isoflop`: levels of equal compute. Others: `adaptive`, `grid`, `ladder`, `file`."""
    levels: Annotated[int, Field(ge=1, le=20)] | tuple[Flops, ...] = 4
    """Number of levels (their compute follows from the budget), or the levels themselves, FLOPs."""
    level_factor: Annotated[float, Field(gt=1, le=100)] = 3.1622776601683795
    """Compute ratio between neighbouring levels."""
    sizes: Annotated[int, Field(ge=3, le=50)] = 8
    """Model sizes per level; 5 or more let a parabola be judged, 8 leave none of 2, 4 or 8 slots
    idle."""
    span: Annotated[float, Field(gt=1, le=100)] = 4.0
    """Sizes reach from centre / span to centre * span."""
    tokens_per_parameter: Annotated[float, Field(gt=0, le=1e6)] = 20.0
    """Where the first level is centred; later ones follow the measurements. About 20 for BPE
    tokens, about 100 for bytes."""
    overlap: bool = False
    """Whether a level begins beside the one below it, as soon as the one below that has an interior
    minimum, on which it is then centred: fewer idle workers, a centre that is one level older."""

    @model_validator(mode="after")
    def _levels_ascend(self) -> Self:
        if isinstance(self.levels, tuple):
            if not self.levels:
                raise ValueError("`levels` must name at least one compute level")
            if list(self.levels) != sorted(set(self.levels)):
                raise ValueError("`levels` must ascend and differ, cheapest first")
        return self


class AdaptiveDesign(Section):
    """An isoFLOP backbone, then batches chosen by how much they sharpen the answer per FLOP."""

    kind: Literal["adaptive"]
    """`adaptive`: a backbone of levels, then the runs that shrink the interval most."""
    backbone: Annotated[float, Field(ge=0.2, le=0.9)] = 0.4
    """Share of the budget spent on the levels before anything is chosen."""
    levels: Annotated[int, Field(ge=2, le=10)] = 4
    """Levels of the backbone."""
    level_factor: Annotated[float, Field(gt=1, le=100)] = 4.0
    """Compute ratio between neighbouring levels."""
    sizes: Annotated[int, Field(ge=3, le=50)] = 5
    """Model sizes per level."""
    span: Annotated[float, Field(gt=1, le=100)] = 4.0
    """Sizes of a level reach from centre / span to centre * span."""
    tokens_per_parameter: Annotated[float, Field(gt=0, le=1e6)] = 20.0
    """Where the first level is centred; everything later follows the measurements."""
    batch: Annotated[int, Field(ge=1, le=100)] = 6
    """Runs chosen at a time."""
    dearest: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Most that one run may cost, as a share of the budget."""
    cost_range: Annotated[float, Field(gt=1, le=1000)] = 30.0
    """The cheapest run that may be chosen costs the dearest one's divided by this: far below, laws
    fitted to cheap runs bend."""
    ratio_window: Annotated[float, Field(gt=1, le=100)] = 10.0
    """Runs are chosen with D/N within this factor of the current estimate, and in 2 to 3000."""
    audit_every: Annotated[int, Field(ge=0, le=100)] = 3
    """Every so many batches one run is placed where the laws disagree most; 0: never."""


class GridDesign(Section):
    """Every size at every number of tokens per parameter."""

    kind: Literal["grid"]
    """`grid`: sizes x tokens per parameter."""
    sizes: Annotated[tuple[Count, ...], Field(min_length=2)]
    """Sizes N, matmul parameters, such as [1M, 4M, 16M]; the nearest real shape is trained."""
    tokens_per_parameter: Annotated[tuple[Count, ...], Field(min_length=2)]
    """Values of D/N, such as [5, 20, 80]."""
    allow_narrow: bool = False
    """Plan a grid that spans less than 30x in N or in D all the same."""

    @model_validator(mode="after")
    def _values_ascend(self) -> Self:
        _ascending("sizes", self.sizes)
        _ascending("tokens_per_parameter", self.tokens_per_parameter)
        return self


class LadderDesign(Section):
    """Sizes, each trained at several multiples of the Chinchilla-optimal tokens."""

    kind: Literal["ladder"]
    """`ladder`: sizes x multiples of `tokens_per_parameter`."""
    sizes: Annotated[tuple[Count, ...], Field(min_length=2)]
    """Sizes N, matmul parameters, such as [1M, 4M, 16M]; the nearest real shape is trained."""
    multiples: Annotated[tuple[Count, ...], Field(min_length=1)] = (0.5, 1.0, 2.0, 5.0, 10.0)
    """A run's tokens are multiple * tokens_per_parameter * N."""
    tokens_per_parameter: Annotated[float, Field(gt=0, le=1e6)] = 20.0
    """D/N of multiple 1: 20 for BPE tokens (Hoffmann et al. 2022), about 100 for bytes."""

    @model_validator(mode="after")
    def _values_ascend(self) -> Self:
        _ascending("sizes", self.sizes)
        _ascending("multiples", self.multiples)
        return self


class ListedPoint(Section):
    """One run of a `file` design."""

    params: Count | None = None
    """Size N, matmul parameters; the nearest real shape is trained."""
    shape: Shape | None = None
    """Exact shape, instead of `params`."""
    tokens: Count
    """Training tokens D."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.params is None) == (self.shape is None):
            raise ValueError("a point needs `params` or `shape`, one of them")
        return self


class FileDesign(Section):
    """Explicit points, from a file or written in the budget."""

    kind: Literal["file"]
    """`file`: a list of points."""
    path: str | None = None
    """CSV (columns params, tokens; or d_model, n_layer, n_head, tokens) or YAML list of points."""
    points: tuple[ListedPoint, ...] | None = None
    """The points themselves, instead of `path`: [{params: 1M, tokens: 20M}, ...]."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.path is None and not self.points:
            raise ValueError("`path` or `points` must be given")
        return self


def _ascending(name: str, values: tuple[float, ...]) -> None:
    if list(values) != sorted(set(values)):
        raise ValueError(f"`{name}` must ascend and differ, smallest first")


DESIGNS: dict[str, type[Section]] = {
    "isoflop": IsoflopDesign,
    "adaptive": AdaptiveDesign,
    "grid": GridDesign,
    "ladder": LadderDesign,
    "file": FileDesign,
}
"""Kinds of designs by name; a design that names no kind is `isoflop`."""


def kind_of(value: object) -> str:
    """Kind of a design, as a mapping or as a value."""
    if isinstance(value, Mapping):
        return str(value.get("kind", "isoflop"))
    return str(getattr(value, "kind", "isoflop"))


Design = Annotated[
    Annotated[IsoflopDesign, Tag("isoflop")]
    | Annotated[AdaptiveDesign, Tag("adaptive")]
    | Annotated[GridDesign, Tag("grid")]
    | Annotated[LadderDesign, Tag("ladder")]
    | Annotated[FileDesign, Tag("file")],
    Discriminator(kind_of),
]
"""Which (N, D) points the budget is spent on."""
