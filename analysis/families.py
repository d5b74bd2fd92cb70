"""Every law over named inputs, by name; the two-variable surfaces are in `analysis.laws`.

The interface is in `analysis.family`, the formulas in `analysis.dense_families` (Kaplan, Farseer,
over-training), `analysis.moe_families` (experts, granularity, sparsity) and `analysis.run_families`
(repeated data, schedule, batch and steps).
"""

from __future__ import annotations

from analysis.dense_families import FARSEER, KAPLAN, OVERTRAINING
from analysis.family import Family, FamilyFit, fit_family, optimum_along
from analysis.moe_families import MOE_EXPERTS, MOE_GRANULARITY, MOE_SPARSITY
from analysis.run_families import (
    BATCH_STEPS,
    DATA_CONSTRAINED,
    SCHEDULE,
    annealing_areas,
    effective_data,
    optimal_batch,
)

__all__ = [
    "BATCH_STEPS",
    "DATA_CONSTRAINED",
    "FAMILIES",
    "FARSEER",
    "KAPLAN",
    "MOE_EXPERTS",
    "MOE_GRANULARITY",
    "MOE_SPARSITY",
    "OVERTRAINING",
    "SCHEDULE",
    "Family",
    "FamilyFit",
    "annealing_areas",
    "effective_data",
    "fit_family",
    "optimal_batch",
    "optimum_along",
]

FAMILIES = {
    family.name: family
    for family in (
        KAPLAN,
        FARSEER,
        OVERTRAINING,
        DATA_CONSTRAINED,
        MOE_EXPERTS,
        MOE_GRANULARITY,
        MOE_SPARSITY,
        SCHEDULE,
        BATCH_STEPS,
    )
}
"""Every family by name."""
