"""Laws over columns of their own: read from a table, fitted, judged, and what was held is said."""

import numpy as np
import pandas as pd
import pytest

from analysis.columns import TableError
from analysis.families import (
    BATCH_STEPS,
    DATA_CONSTRAINED,
    FAMILIES,
    MOE_GRANULARITY,
    OVERTRAINING,
    SCHEDULE,
    annealing_areas,
)
from analysis.family_report import fit_law_to_inputs
from analysis.law_inputs import read_law_inputs


def repeated(*, passes=(1, 4, 16), noise=0.002, sizes=4):
    """Runs on little text, seen several times, by Muennighoff's law."""
    rng = np.random.default_rng(0)
    N, D, times = (
        v.ravel()
        for v in np.meshgrid(np.geomspace(1e8, 4e9, sizes), np.geomspace(2e9, 6e10, 4), passes)
    )
    U = D / times
    loss = DATA_CONSTRAINED.loss(DATA_CONSTRAINED.published, N=N, D=D, U=U)
    return pd.DataFrame(
        {
            "params": N,
            "tokens": D,
            "unique_tokens": U,
            "loss": loss * np.exp(noise * rng.standard_normal(len(N))),
        }
    )


def fitted(frame, family, **options):
    return fit_law_to_inputs(family, read_law_inputs(frame, family), **options)


def faults_of(frame, family):
    with pytest.raises(TableError) as caught:
        read_law_inputs(frame, family)
    return caught.value.faults


@pytest.fixture(scope="module")
def report():
    return fitted(repeated(), DATA_CONSTRAINED, target_flops=1e21)


def test_repeated_data_give_the_laws_numbers_and_beat_the_plain_law(report):
    for name, true in zip(DATA_CONSTRAINED.parameters, DATA_CONSTRAINED.published, strict=True):
        found = report.fit.theta[DATA_CONSTRAINED.parameters.index(name)]
        assert abs(found - true) < 4 * report.sd[name], name
    assert report.fit.rms < 0.003 < np.sqrt(np.mean(report.plain.residuals**2))
    low, high = report.interval.low, report.interval.high
    assert low < report.optimum.tokens_per_parameter < high
    assert report.held == {}
    assert "the five-parameter law" in report.message
    assert any("U = 6e+10, the largest of the runs" in w for w in report.warnings)
    assert report.to_dict()["headline_law"] == "data_constrained"


def test_its_optimum_is_the_least_loss_on_a_fine_grid_along_the_cost(report):
    N = np.geomspace(1e8, 1e11, 40_001)
    loss = DATA_CONSTRAINED.loss(report.fit.theta, N=N, D=1e21 / (6 * N), U=np.full(len(N), 6e10))
    assert report.optimum.params == pytest.approx(N[loss.argmin()], rel=1e-3)
    assert report.optimum.loss == pytest.approx(loss.min(), rel=1e-9)


def test_without_repeats_the_constants_of_repetition_keep_their_published_values():
    report = fitted(repeated(passes=(1,)), DATA_CONSTRAINED)
    assert set(report.held) == {"R_D*"}
    assert any("no run depends on R_D*: kept at the published value" in w for w in report.warnings)


def test_few_runs_fit_fewer_parameters_and_say_so():
    report = fitted(repeated().iloc[:8], DATA_CONSTRAINED)
    assert report.held == {"R_N*": 5.309743}
    assert "8 runs are too few for all 7 parameters: R_N* at 5.30974 kept" in "".join(
        report.warnings
    )
    one = fitted(repeated().iloc[:4], DATA_CONSTRAINED)
    assert one.status == "not_identified"
    assert one.message.startswith("NOT IDENTIFIED. R1: 4 runs for 3 parameters; needs 5")
    assert one.to_dict()["optimum"] == []


def test_a_parameter_that_ends_at_a_limit_makes_the_answer_weak_and_is_named():
    """Repeats that are worth as much as fresh text drive their worth to the law's limit."""
    frame = repeated(noise=0.0)
    N, D = frame["params"].to_numpy(), frame["tokens"].to_numpy()
    noise = np.random.default_rng(0).standard_normal(len(N))
    fresh = DATA_CONSTRAINED.loss(DATA_CONSTRAINED.published, N=N, D=D, U=D)
    report = fitted(
        frame.assign(loss=fresh * np.exp(0.002 * noise)), DATA_CONSTRAINED, target_flops=1e21
    )
    assert [(c.rule, c.severity) for c in report.checks if not c.passed] == [("R5", "warn")]
    assert report.status == "weak"
    assert "Weak: R5: ended at a limit: R_D*; the runs do not determine it." in report.message
    assert "R_D* 1e+04 (not determined)" in report.law_lines()[0]
    assert report.to_dict()["laws"]["data_constrained"]["at_bound"] == ["R_D*"]
    # What it cannot say about the limit it can say about the rest.
    assert [name for name, sd in report.sd.items() if not sd >= 0] == ["R_D*"]
    assert 1.2 < report.interval.fold < 4


@pytest.mark.parametrize(
    ("noise", "status", "failed"),
    [
        (0.01, "identified", []),
        (0.03, "weak", [("R4", "warn")]),
        (0.05, "not_identified", [("R4", "refuse")]),
    ],
)
def test_a_wide_interval_is_weak_and_a_very_wide_one_refused(noise, status, failed):
    """The 95 % intervals are 2-, 9- and 64-fold; weak begins at 4, refusal at 16."""
    report = fitted(repeated(noise=noise), DATA_CONSTRAINED, target_flops=1e21)
    assert [(c.rule, c.severity) for c in report.checks if not c.passed] == failed
    assert report.status == status
    assert (report.optimum is None) == (status == "not_identified")


def test_the_width_that_is_asked_for_is_the_fits_own():
    """Four runs with 20 % more loss move least squares; a narrow objective hardly sees them."""
    frame = repeated()
    frame.loc[::12, "loss"] *= 1.2
    apart = [
        np.abs(fitted(frame, DATA_CONSTRAINED, huber_delta=width).fit.residuals)
        for width in (None, 1e-3)
    ]
    squares, narrow = (np.median(size) for size in apart)
    assert narrow < 0.003 < 0.008 < squares


def test_batch_and_steps_are_read_and_steps_follow_from_tokens():
    rng = np.random.default_rng(1)
    N, M, K = (
        v.ravel()
        for v in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(3e4, 2e6, 4), [2e3, 1e4, 5e4])
    )
    loss = BATCH_STEPS.loss(BATCH_STEPS.published, N=N, M=M, K=K)
    loss = loss * np.exp(0.001 * rng.standard_normal(len(N)))
    frame = pd.DataFrame({"params": N, "batch_tokens": M, "tokens": M * K, "loss": loss})
    report = fitted(frame, BATCH_STEPS)
    assert report.fit.theta[[2, 4, 6]] == pytest.approx([0.35, 0.5, 0.5], abs=0.1)
    assert "the table has no 'steps': K = D / M" in report.warnings
    assert "the table has no 'flops': C = 6 N D" in report.warnings
    assert any("the law's best batch at" in w for w in report.warnings)
    stepped = fitted(frame.drop(columns="tokens").assign(steps=K), BATCH_STEPS)
    assert "the table has no 'tokens': D = M K" in stepped.warnings
    assert stepped.optimum == report.optimum


def test_a_schedule_is_read_off_whole_curves():
    step = np.arange(100, 4001, 100)
    frames = []
    for name, decay in (("a", 2000), ("b", 3000)):
        every = np.arange(1, 4001)
        rate = 0.01 * np.minimum(every / 100, 1) * np.clip((4000 - every) / (4000 - decay), 0, 1)
        rate = np.where(every < decay, 0.01 * np.minimum(every / 100, 1), rate)
        first, second = annealing_areas(rate)
        loss = SCHEDULE.loss([2.6, 0.5, 0.5, 3.0], S1=first[step - 1], S2=second[step - 1])
        frames.append(
            pd.DataFrame(
                {
                    "trajectory_id": name,
                    "steps": step,
                    "learning_rate": rate[step - 1],
                    "loss": loss,
                }
            )
        )
    frame = pd.concat(frames)
    report = fitted(frame, SCHEDULE, target_flops=1e20)
    assert report.fit.theta == pytest.approx([2.6, 0.5, 0.5, 3.0], rel=0.02)
    assert report.optimum is None
    assert any("no optimum at a compute" in w for w in report.warnings)
    (fault,) = faults_of(frame[frame["steps"] % 2000 == 0], SCHEDULE)
    assert fault.rule == "no-curve"
    assert "at least 4 rows with growing steps; found 2 rows" in fault.message


def test_active_parameters_set_the_cost_of_a_mixture():
    rng = np.random.default_rng(2)
    N, D, G = (
        v.ravel()
        for v in np.meshgrid(np.geomspace(1e8, 1e10, 5), np.geomspace(1e9, 1e11, 5), [1, 4, 16])
    )
    loss = MOE_GRANULARITY.loss(MOE_GRANULARITY.published, N=N, D=D, G=G)
    loss = loss * np.exp(0.0005 * rng.standard_normal(len(N)))
    columns = {"params_total": N, "tokens": D, "granularity": G, "loss": loss}
    dense = fitted(pd.DataFrame(columns), MOE_GRANULARITY, target_flops=8e20)
    sparse = fitted(
        pd.DataFrame({**columns, "params_active": N / 8}), MOE_GRANULARITY, target_flops=1e20
    )
    assert "a token costs what 0.125 of the parameters cost, the active share" in sparse.warnings
    # An eighth of the compute pays for the same run where an eighth of the parameters is active.
    assert sparse.optimum.params == pytest.approx(dense.optimum.params, rel=1e-6)
    assert sparse.optimum.tokens == pytest.approx(dense.optimum.tokens, rel=1e-6)


def test_the_over_training_form_takes_what_every_table_has():
    frame = repeated(passes=(1,)).drop(columns="unique_tokens")
    report = fitted(frame, OVERTRAINING)
    assert abs(report.fit.theta[3] - 0.35266 / 2) < 3 * report.sd["eta"] < 0.3
    assert "the table has no 'flops': C = 6 N D" in report.warnings


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_column_that_a_law_lacks_is_named_in_one_pass(name):
    faults = faults_of(pd.DataFrame({"los": [1.0]}), FAMILIES[name])
    assert {f.rule for f in faults} == {"missing-column"}
    text = "\n".join(map(str, faults))
    assert "--map loss=los" in text
    if "X" in FAMILIES[name].inputs:
        assert "the moe_experts law needs 'experts'" in text
    assert len(faults) == 1 + len(FAMILIES[name].inputs)


def test_bad_cells_and_an_empty_table_are_faults_and_excluded_rows_stay_out():
    frame = repeated()
    bad = frame.astype({"unique_tokens": object})
    bad.loc[1, "unique_tokens"] = "2,5"
    (fault,) = faults_of(bad, DATA_CONSTRAINED)
    assert fault.place == "row 2, column unique_tokens"
    assert "point, not a comma" in fault.remedy
    assert faults_of(frame.iloc[:0], DATA_CONSTRAINED)[0].rule == "empty-table"
    bad["excluded"] = ["", "diverged", *[""] * (len(bad) - 2)]
    data = read_law_inputs(bad, DATA_CONSTRAINED)
    assert len(data.loss) == len(frame) - 1
    assert data.notes[0] == f"1 of {len(frame)} rows are excluded, with reasons"
