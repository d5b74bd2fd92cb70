"""Write `docs/validation.md`: `sweep fit` on every published table, beside its published optimum.

Run: `python tests/bench/validate_tables.py TABLES_FOLDER [--out docs/validation.md]`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from analysis.answer import FitReport, fit_table
from analysis.families import FAMILIES
from analysis.family_report import fit_law_to_inputs
from analysis.files import read_frame
from analysis.law_inputs import read_law_inputs
from analysis.numerals import spell
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
    ratio: float | None = None
    """Published D/N at the target; None = none is."""
    tolerance: float = 0.05
    """Relative tolerance on it; the published ratio inside our interval counts as well."""
    law: str | None = None
    """`--law`, where the published ratio is one law's."""
    huber_delta: float | None = None
    """`--huber-delta`, where the published ratio is one objective's."""
    why_refused: str = ""
    """Why the published optimum is refused; '' where it is not."""

    @property
    def label(self) -> str:
        """File and target."""
        label = self.name if self.target is None else f"{self.name} at {self.target:.3g}"
        return f"{label} by {self.law}" if self.law in FAMILIES else label


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the fit said about one table."""

    status: str
    """The fit's status, or `table error`."""
    verdict: str
    """`inside`, `outside`, `refused`, or `-` where no optimum is published."""
    words: str
    """The answer, or the rules that refuse it."""
    law: str | None = None
    """Which law answered."""


NOT_FITTED = {
    "llama3_isoflop_svg_raw.csv": "the openathena_llama_3 tables before cleaning; its token law is "
    "a test",
    "gemstones_hot_100bplus_477.csv": "a longer cut of gemstones_hot_477.csv",
    "olmo_ladder_curves.csv": "curves of the runs of olmo_ladder_final.csv",
    "porian_optimal_pairs.csv": "minima, not runs; fifteen exponents from it are tests",
    "porian_published_fits.csv": "published fits, not runs",
    "routing_curves.csv": "curves of the runs of routing_final.csv",
}
"""Tables that are not tables of final losses, and why."""


CASES = (
    Case(
        name="epoch_chinchilla.csv",
        target=5.76e23,
        published="objective 0.00101827, D/N 17.9 (Huber 1e-3 optimum)",
        ratio=17.9,
        tolerance=0.01,
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
        ratio=41.0,
        why_refused="it lies 3,800 times beyond the runs that were published; at 1e22 FLOPs, as "
        "far as they carry, the same law is `inside`",
    ),
    Case(
        name="openathena_llama_3__raw_loss.csv",
        target=1e22,
        published="its 16.55T brought down to 1e22 FLOPs with the exponent of the points (0.537, "
        "printed as 0.53): D/N 23.5",
        ratio=23.5,
        law="isoflop",
    ),
    Case(
        name="openathena_llama_3__exp_loss.csv",
        target=3.8e25,
        published="the same with exp(loss)",
        ratio=41.0,
        why_refused="the same distance; a change of the loss axis does not shorten it",
    ),
    Case(
        name="scalebench_farseer_scaling_law.csv",
        query="split == 'train'",
        target=3.5e21,
        published="residuals 0.90 % and 0.25 %; D/N 22.8 (6 parameters)",
        ratio=22.8,
    ),
    Case(
        name="olmo_ladder_final.csv",
        mapping={"loss": "loss_c4_en"},
        target=1e22,
        published="E 1.8624, alpha 0.2716, beta 0.1575; D/N 86 [2.9, 1234]: not identified",
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
        published="D/N 28.9 (6 parameters) at the largest run; 2.0 with 5, which is 1.8 to 6.4 by "
        "the objective (Huber widths of 1e-5 to 1e-3: 1.8 to 2.05; least squares: 6.4)",
        ratio=28.9,
    ),
    Case(
        name="steplaw_dense_all.csv",
        mapping={"loss": "smooth_loss"},
        published="a hyper-parameter sweep: not one recipe",
    ),
    Case(
        name="gemstones_slim_chinchilla.csv",
        mapping={"flops": "FLOPs"},
        target=1e21,
        published="28 rows; D/N 3.9 (5 parameters, Huber 1e-4 optimum)",
        ratio=3.95,
        law="chinchilla",
        huber_delta=1e-4,
    ),
    Case(name="gemstones_hot_477.csv", published="constant learning rate: not decayed"),
    Case(name="gemstones_hot_sampled_like_chinchilla.csv", published="constant learning rate"),
    Case(name="gemstones_cool_begin.csv", published="before the cooldown"),
    Case(
        name="gemstones_cool_end.csv",
        target=1e21,
        published="after the cooldown; D/N 16.5 (5 parameters, Huber 1e-4 optimum)",
        ratio=16.5,
        law="chinchilla",
        huber_delta=1e-4,
    ),
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
        name="datablations_contour.csv",
        mapping={"unique_tokens": "tokens_per_epoch"},
        published="R_D* 15.4, R_N* 5.3 (on other runs)",
        law="data_constrained",
    ),
    Case(
        name="scalebench_data_constrained_scaling_law.csv",
        published="R_D* 15.4, R_N* 5.3 (on other runs)",
        law="data_constrained",
    ),
    Case(
        name="scalebench_moe_scaling_law.csv",
        mapping={
            "params": "dense_parameter_count",
            "experts": "num_experts",
            "loss": "loss_validation",
        },
        published="a -0.082, b -0.108, c 0.009, d 1.104 (S-BASE alone)",
        law="moe_experts",
    ),
    Case(
        name="porian_isoflop_points.csv",
        query="table == 'summary_df' and dataset == 'rw' and hparams == 'tuned'",
        target=5.88e23,
        published="a 0.497, D/N 16.5 [13.0, 19.9]",
        ratio=16.5,
        why_refused="it lies 23,000 times beyond the runs",
    ),
    Case(
        name="porian_isoflop_points.csv",
        query="table == 'summary_df' and dataset == 'rw' and hparams == 'tuned'",
        target=1e19,
        published="the same line inside its budgets: D/N 15.5",
        ratio=15.5,
        tolerance=0.15,
        law="isoflop",
        why_refused="the levels reach so far from their minima that no law leaves less than 8 % of "
        "residuals; without replicate seeds that counts as noise, and against it no flank of a "
        "level rises. The exponents of the published minima are reproduced by tests",
    ),
    Case(name="routing_final.csv", published="constant D: no token axis"),
    Case(name="scalebench_moe_scaling_law.csv", published="constant D: no token axis"),
    Case(name="scalebench_sparsity_scaling_law.csv", published="units in billions"),
    Case(name="scalebench_vocab_scaling_law.csv", published="negative normalised losses"),
    Case(name="scalebench_lr_bsz_scaling_law.csv", published="a hyper-parameter sweep"),
    Case(name="steplaw_moe_all.csv", mapping={"loss": "smooth_loss"}, published="mixed sparsity"),
)


def outcome(folder: Path, case: Case, *, resamples: int = 500) -> Outcome:
    """What the fit says about one table, and whether it is what was published."""
    frame = read_frame(folder / case.name)
    if case.query is not None:
        frame = frame.query(case.query).reset_index(drop=True)
    try:
        if case.law in FAMILIES:
            return family_outcome(frame, case)
        table = read_rows(frame, mapping=case.mapping)
    except TableError as error:
        first = error.faults[0]
        text = f"{first.rule}: {first.place}; {len(error.faults)} faults in all"
        return Outcome(status="table error", verdict="refused", words=text)
    report = fit_table(
        table,
        target_flops=case.target,
        resamples=resamples,
        detail=False,
        law=case.law,
        huber_delta=case.huber_delta,
    )
    verdict = "-"
    if not report.optimum:
        verdict = "refused"
    elif case.ratio is not None:
        row = report.optimum[0]
        near = abs(row.tokens / row.params / case.ratio - 1) <= case.tolerance
        held = row.interval.low <= case.ratio <= row.interval.high
        verdict = "inside" if near or held else "outside"
    return Outcome(
        status=report.status, verdict=verdict, words=words(report), law=report.headline_law
    )


def family_outcome(frame: pd.DataFrame, case: Case) -> Outcome:
    """What a law over columns of its own says about one table."""
    assert case.law is not None
    data = read_law_inputs(frame, FAMILIES[case.law], mapping=case.mapping)
    report = fit_law_to_inputs(FAMILIES[case.law], data, target_flops=case.target)
    rules = [f"{c.rule}: {c.message}" for c in report.checks if not c.passed]
    said = [*report.law_lines(), *(rules if report.status == "not_identified" else [])]
    assert report.fit is not None
    return Outcome(
        status=report.status,
        verdict="refused" if report.status == "not_identified" else "-",
        words=f"{'; '.join(said)}; residuals {report.fit.rms:.2%}",
        law=case.law,
    )


def words(report: FitReport) -> str:
    """The answer, or the refusal's rules, in one cell."""
    law = report.laws.get("chinchilla")
    numbers = ""
    if law is not None:
        numbers = (
            f"; 5 parameters: alpha {law['alpha']:.3f}, beta {law['beta']:.3f}, E {law['E']:.4f}, "
            f"D/N {spell(law['tokens_per_parameter'])}, residuals {law['noise_sd']:.2%}"
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
        f"D/N {spell(row.tokens / row.params)} [{spell(row.interval.low)}, "
        f"{spell(row.interval.high)}] at {row.flops:.3g} FLOPs by "
        f"{report.headline_law}, {report.n_points} runs" + numbers
    )


def refusals(outcomes: Sequence[tuple[Case, Outcome]]) -> list[str]:
    """The published optima that are refused, each with its reason; a case without one is a fault.

    Raises:
        ValueError: when a published optimum is refused and nobody says why, or the reverse.
    """
    lines = ["", "Published optima that are refused, and why:", ""]
    for case, found in outcomes:
        refused = found.verdict == "refused" and case.ratio is not None
        if refused != bool(case.why_refused):
            raise ValueError(f"{case.label}: verdict {found.verdict}, why: {case.why_refused!r}")
        if refused:
            rules = ", ".join(re.findall(r"\bR\d(?=: )", found.words))
            lines.append(f"- {case.label} ({rules}): {case.why_refused}.")
    return lines


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
        "The published optimum is `inside` where ours agrees within 5 % (17.9: 1 %; 15.5: 15 %) or",
        "our interval holds it, `refused` where a rule refuses an answer, `-` where none is given.",
        "",
        "| table | published | optimum | status | what `sweep fit` says |",
        "|---|---|---|---|---|",
    ]
    outcomes = [(case, outcome(options.folder, case)) for case in CASES]
    for case, found in outcomes:
        lines.append(
            f"| {case.label} | {case.published} | {found.verdict} | {found.status} | "
            f"{found.words} |"
        )
    lines += refusals(outcomes)
    lines += ["", "Not fitted, because they are no tables of final losses:", ""]
    lines += [f"- `{name}`: {why}" for name, why in NOT_FITTED.items()]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
