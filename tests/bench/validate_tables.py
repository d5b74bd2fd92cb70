"""Write `docs/validation.md`: `sweep fit` on every published table, beside its published optimum.

Run: `python tests/bench/validate_tables.py TABLES_FOLDER [--out docs/validation.md]`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from analysis.answer import FitReport, fit_table
from analysis.files import read_frame
from analysis.table import TableError, read_rows


@dataclass(frozen=True, kw_only=True)
class Case:
    """One published table."""

    name: str
    """File name."""
    mapping: dict[str, str] = field(default_factory=dict)
    """`--map`."""
    query: str | None = None
    """Rows kept, as a pandas query; None = all."""
    target: float | None = None
    """`--target`; None = the largest run."""
    published: str = ""
    """What is published about it."""


CASES = (
    Case(
        name="epoch_chinchilla.csv",
        target=5.76e23,
        published="objective 0.00101827, D/N 17.9 (Huber 1e-3 optimum)",
    ),
    Case(name="kyo_takano_chinchilla_subset.csv", target=5.76e23, published="the same, filtered"),
    Case(
        name="openathena_epochai_chinchilla__massivetext__chinchilla.csv",
        mapping={"excluded": "outlier"},
        published="isoFLOP subset of the same",
    ),
    Case(
        name="openathena_ml_scalefit__massivetext__chinchilla.csv",
        mapping={"excluded": "outlier"},
        published="alpha 0.351, beta 0.459 by linear MSE on 217 rows that are not here",
    ),
    Case(
        name="openathena_llama_3__raw_loss.csv",
        target=3.8e25,
        published="D* = 0.29 C^0.53: 402B, 16.55T, D/N 41 (loss axis unknown)",
    ),
    Case(
        name="openathena_llama_3__exp_loss.csv",
        target=3.8e25,
        published="the same with exp(loss)",
    ),
    Case(
        name="scalebench_farseer_scaling_law.csv",
        query="split == 'train'",
        target=3.5e21,
        published="residuals 0.90 % and 0.25 %; D/N 22.8 (6 parameters)",
    ),
    Case(
        name="olmo_ladder_final.csv",
        mapping={"loss": "loss_c4_en"},
        target=1e22,
        published="E 1.8624, alpha 0.2716, beta 0.1575; D/N not identified",
    ),
    Case(
        name="gadre_overtraining.csv",
        mapping={"loss": "loss_c4_val", "params": "N", "tokens": "D"},
        query="train_data == 'c4_original'",
        published="104 models, tied exponents",
    ),
    Case(
        name="steplaw_dense_best_per_ND.csv",
        mapping={"loss": "smooth_loss"},
        published="D/N 2.0 (5 parameters), 28.9 (6) at the largest run",
    ),
    Case(
        name="steplaw_dense_all.csv",
        mapping={"loss": "smooth_loss"},
        published="a hyper-parameter sweep: not one recipe",
    ),
    Case(name="gemstones_slim_chinchilla.csv", mapping={"flops": "FLOPs"}, published="28 rows"),
    Case(name="gemstones_hot_477.csv", published="constant learning rate: not decayed"),
    Case(name="gemstones_hot_sampled_like_chinchilla.csv", published="constant learning rate"),
    Case(name="gemstones_cool_begin.csv", published="before the cooldown"),
    Case(name="gemstones_cool_end.csv", published="after the cooldown"),
    Case(name="gemstones_lr_ablation_hot_477.csv", published="two learning rates"),
    Case(
        name="datablations_contour.csv",
        mapping={"unique_tokens": "tokens_per_epoch"},
        published="repeated data: needs the data-constrained law",
    ),
    Case(
        name="scalebench_data_constrained_scaling_law.csv",
        published="repeated data: needs the data-constrained law",
    ),
    Case(
        name="porian_isoflop_points.csv",
        query="table == 'summary_df' and dataset == 'rw' and hparams == 'tuned'",
        target=5.88e23,
        published="a 0.497, D/N 16.5 [13.0, 19.9]",
    ),
    Case(name="routing_final.csv", published="constant D: no token axis"),
    Case(name="scalebench_moe_scaling_law.csv", published="constant D: no token axis"),
    Case(name="scalebench_sparsity_scaling_law.csv", published="units in billions"),
    Case(name="scalebench_vocab_scaling_law.csv", published="negative normalised losses"),
    Case(name="scalebench_lr_bsz_scaling_law.csv", published="a hyper-parameter sweep"),
    Case(name="steplaw_moe_all.csv", mapping={"loss": "smooth_loss"}, published="mixed sparsity"),
)


def outcome(folder: Path, case: Case) -> tuple[str, str]:
    """Status and words for one table."""
    frame = read_frame(folder / case.name)
    if case.query is not None:
        frame = frame.query(case.query).reset_index(drop=True)
    try:
        table = read_rows(frame, mapping=case.mapping)
    except TableError as error:
        first = error.faults[0]
        return "table error", f"{first.rule}: {first.place}; {len(error.faults)} faults in all"
    report = fit_table(table, target_flops=case.target, resamples=500, detail=False)
    return report.status, words(report)


def words(report: FitReport) -> str:
    """The answer, or the refusal's rules, in one cell."""
    law = report.laws.get("chinchilla")
    numbers = ""
    if law is not None:
        numbers = (
            f"; 5 parameters: alpha {law['alpha']:.3f}, beta {law['beta']:.3f}, E {law['E']:.4f}, "
            f"D/N {law['tokens_per_parameter']:.3g}, residuals {law['noise_sd']:.2%}"
        )
    if not report.optimum:
        rules = "; ".join(
            f"{c.rule}: {c.message}"
            for c in report.checks
            if not c.passed and c.severity == "refuse"
        )
        return rules + numbers
    row = report.optimum[0]
    return (
        f"D/N {row.tokens / row.params:.3g} [{row.interval.low:.3g}, {row.interval.high:.3g}] at "
        f"{row.flops:.3g} FLOPs by {report.headline_law}, {report.n_points} runs" + numbers
    )


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/validation.md"))
    options = parser.parse_args()
    lines = [
        "# Validation on published tables",
        "",
        "Written by `tests/bench/validate_tables.py`; intervals are 90 %. Exact reproductions of",
        "published numbers are in `tests/analysis/test_published.py`.",
        "",
        "| table | published | status | what `sweep fit` says |",
        "|---|---|---|---|",
    ]
    for case in CASES:
        status, text = outcome(options.folder, case)
        lines.append(f"| {case.name} | {case.published} | {status} | {text} |")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
