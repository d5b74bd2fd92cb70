"""Designs: what each proposes, what it refuses, and that nothing depends on timing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.laws import CHINCHILLA, SKALING, Surface
from orchestrator.budget import Budget, parse_budget
from orchestrator.design_section import FileDesign
from orchestrator.designs.adaptive import RATIO_LIMITS, Adaptive, prior_law
from orchestrator.designs.base import Measurement, Opened, Progress
from orchestrator.display import SilentDisplay
from orchestrator.errors import BadInput, Exit
from orchestrator.executors.base import Finished, Lost, Started
from orchestrator.executors.synthetic import SyntheticExecutor, Truth
from orchestrator.outcome import Answer
from orchestrator.plan import make_plan
from orchestrator.points import with_points
from orchestrator.rounds import design_of
from orchestrator.service import Outcome, run_sweep
from orchestrator.setting import Setting
from orchestrator.trial import Hardware
from trainer.data.facts import DataFacts

HEAD = (
    "name: small\nbudget: {flops: 8e12}\nmodel: {context: 128}\n"
    "training: {batch_tokens: 512, min_steps: 300}\n"
)
ADAPTIVE = HEAD + "design: {kind: adaptive, levels: 3, tokens_per_parameter: 150, span: 3}\n"
LADDER = (
    HEAD.replace("8e12", "3e13")
    + "design: {kind: ladder, sizes: [3k, 6k, 12k, 24k], tokens_per_parameter: 200}\n"
)
LAW = prior_law(1e12, 100.0)
TRUTH = Truth(law=LAW, noise_sd=0.005, seed=1)
BRIEF = Answer(resamples=0, interim=False, report=False)


def run(setting: Setting, executor: Any) -> Outcome:
    return run_sweep(
        setting,
        make_executor=lambda: executor,
        tracker=None,
        display=SilentDisplay(),
        answer=BRIEF,
    )


def trials_of(outcome: Outcome) -> list[tuple[str, int, str]]:
    return sorted((t.trial_id, t.level, t.why) for t in outcome.state.trials.values())


def test_a_design_without_a_kind_is_isoflop_and_its_digest_has_no_new_keys() -> None:
    plain, named = (parse_budget(HEAD + d) for d in ("", "design: {kind: isoflop}\n"))
    assert plain.digest == named.digest
    assert set(plain.science()["design"]) == {
        "kind", "levels", "level_factor", "sizes", "span", "tokens_per_parameter",
    }  # fmt: skip
    overlapping = parse_budget(HEAD + "design: {overlap: true}\n")
    assert overlapping.science()["design"]["overlap"] is True


@pytest.mark.parametrize(
    ("design", "rule", "place"),
    [
        ("{kind: adaptiv}", "did you mean `adaptive`", "b.yaml:5:10"),
        ("{kind: adaptive, levls: 3}", "did you mean `levels`", "b.yaml:5:26"),
        ("{kind: grid, sizes: [1k, 2k]}", "design.tokens_per_parameter` must be given", "b.yaml:5"),
        ("{kind: grid, levels: 3}", "valid: kind, sizes", "b.yaml:5:22"),
        ("{kind: ladder, sizes: [2k, 1k]}", "must ascend", "b.yaml:5"),
        ("{kind: file}", "`path` or `points`", "b.yaml:5"),
        ("{kind: file, points: [{tokens: 1M}]}", "params. or .shape", "b.yaml:5"),
        ("{kind: file, points: [{parms: 3, tokens: 1M}]}", "did you mean `params`", "b.yaml:5"),
    ],
)
def test_errors_of_every_kind_name_the_place_and_that_kinds_keys(
    design: str, rule: str, place: str
) -> None:
    with pytest.raises(BadInput, match=rule) as error:
        parse_budget(HEAD + f"design: {design}\n", file="b.yaml")
    assert any(fault.place.startswith(place) for fault in error.value.faults)


def test_a_ladder_trains_every_size_at_every_multiple(facts: DataFacts, hardware: Hardware) -> None:
    plan = make_plan(parse_budget(LADDER), facts, hardware)
    assert len(plan.trials) == 20
    for trial in plan.trials:
        multiple = float(trial.why.split("ladder: ")[1].split(" x ")[0])
        assert trial.tokens_per_parameter == pytest.approx(200 * multiple, rel=0.02)


def test_a_narrow_grid_is_refused_with_what_it_would_know_unless_it_is_wanted(
    facts: DataFacts, hardware: Hardware
) -> None:
    grid = "design: {kind: grid, sizes: [6k, 12k, 24k], tokens_per_parameter: [100, 300]"
    with pytest.raises(BadInput, match=r"spans 4x in N .*sd of ln\(D/N\) \d") as error:
        make_plan(parse_budget(HEAD + grid + "}\n"), facts, hardware)
    assert error.value.faults[0].code == "SWP-1204"
    wanted = make_plan(parse_budget(HEAD + grid + ", allow_narrow: true}\n"), facts, hardware)
    assert any("spans 4x" in line for line in wanted.warnings)
    wide = "design: {kind: grid, sizes: [3k, 20k, 100k], tokens_per_parameter: [50, 200, 1000]}\n"
    assert not any(
        "spans" in w for w in make_plan(parse_budget(HEAD + wide), facts, hardware).warnings
    )


def test_too_few_points_are_refused(facts: DataFacts, hardware: Hardware) -> None:
    text = HEAD + "design: {kind: file, points: [{params: 6k, tokens: 1M}]}\n"
    with pytest.raises(BadInput, match="at least 6 trials of 3 sizes"):
        make_plan(parse_budget(text), facts, hardware)


def test_points_of_a_file_are_trained_as_listed(
    tmp_path: Path, facts: DataFacts, hardware: Hardware
) -> None:
    rows = [f"{n},,,,{d}" for n in ("6k", "12k", "24k") for d in ("1M", "2M")]
    csv = "params,d_model,n_layer,n_head,tokens\n" + "\n".join(rows) + "\n,16,2,2,3M\n"
    (tmp_path / "points.csv").write_text(csv)
    named = [{"params": n, "tokens": d} for n in (6e3, 12e3, 24e3) for d in (1e6, 2e6)]
    shape = {"shape": {"d_model": 16, "n_layer": 2, "n_head": 2}, "tokens": 3e6}
    (tmp_path / "points.yaml").write_text(json.dumps([*named, shape]))
    plans = []
    for name in ("points.csv", "points.yaml"):
        budget = with_points(
            parse_budget(HEAD + f"design: {{kind: file, path: {name}}}\n"), tmp_path
        )
        assert isinstance(budget.design, FileDesign)
        plans.append(make_plan(budget, facts, hardware))
    assert [t.trial_id for t in plans[0].trials] == [t.trial_id for t in plans[1].trials]
    assert len(plans[0].trials) == 7
    exact = [t for t in plans[0].trials if t.config.shape.d_model == 16]
    assert any(abs(t.config.tokens - 3e6) < 512 for t in exact)


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("none.csv", None, "must be readable"),
        ("a.csv", "params,tokens\nmany,3\n", "point 1.params"),
        ("a.yaml", "[{tokens: 3}]", "point 1: a point needs"),
        ("a.yaml", "[", "UTF-8 CSV or YAML"),
        ("a.yaml", "[]", "at least one"),
    ],
)
def test_a_bad_list_of_points_is_refused_with_its_row(
    tmp_path: Path, name: str, text: str | None, rule: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=rule):
        with_points(parse_budget(HEAD + f"design: {{kind: file, path: {name}}}\n"), tmp_path)


def test_the_adaptive_plan_spends_its_backbone_first_and_then_batches_within_its_window(
    facts: DataFacts, hardware: Hardware
) -> None:
    budget = parse_budget(ADAPTIVE)
    plan = make_plan(budget, facts, hardware)
    levels, batches = plan.levels[:3], plan.levels[3:]
    assert all(level.even for level in levels)
    assert batches
    assert not any(level.even for level in batches)
    backbone = sum(trial.flops for level in levels for trial in level.trials)
    assert 0.25 < backbone / plan.budget_flops < 0.4
    assert plan.cost_flops <= 0.95 * plan.budget_flops
    dearest = 0.1 * 0.95 * 8e12
    for trial in (trial for level in batches for trial in level.trials):
        assert 0.95 * dearest / 30 <= trial.flops <= dearest * 1.001
        assert RATIO_LIMITS[0] <= trial.tokens_per_parameter <= RATIO_LIMITS[1]
    why = [trial.why for level in batches for trial in level.trials if "->" not in trial.why]
    assert len(why) == 1
    assert "the optimum of the dearest run" in why[0]
    assert len({trial.trial_id for trial in plan.trials}) == len(plan.trials)


def adaptive(budget: Budget, facts: DataFacts) -> Adaptive:
    found = design_of(budget, facts, budget_flops=8e12)
    assert isinstance(found, Adaptive)
    return found


def backbone_progress(
    budget: Budget, facts: DataFacts, hardware: Hardware, truth: Truth = TRUTH
) -> Progress:
    plan = make_plan(budget, facts, hardware)
    trials = [trial for level in plan.levels if level.even for trial in level.trials]
    return Progress(
        rounds=3,
        settled=3,
        opened=tuple(
            Opened(
                level=t.level,
                params=t.counts.matmul,
                tokens=t.config.tokens,
                cost_flops=t.cost_flops,
            )
            for t in trials
        ),
        measurements=tuple(
            Measurement(
                level=t.level,
                params=t.counts.matmul,
                tokens=t.config.tokens,
                loss=float(truth.result(t.config).loss or 0.0),
            )
            for t in trials
        ),
    )


def test_each_chosen_run_shrinks_the_expected_interval(
    facts: DataFacts, hardware: Hardware
) -> None:
    budget = parse_budget(ADAPTIVE)
    asked = adaptive(budget, facts).propose(backbone_progress(budget, facts, hardware))
    assert asked is not None
    assert "the laws fitted to" in asked.centre.reason
    top, *chosen = asked.points
    assert "the optimum of the dearest run" in top.reason
    assert top.flops == max(point.flops or 0.0 for point in asked.points)
    spread = [point.reason.rsplit(" ", 3)[1::2] for point in chosen]
    numbers = [float(value) for pair in spread for value in pair]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > numbers[-1]


def test_batches_are_chosen_by_both_laws_weighed_by_how_well_they_fit(
    facts: DataFacts, hardware: Hardware
) -> None:
    budget = parse_budget(ADAPTIVE)
    design = adaptive(budget, facts)
    bent = Truth(law=prior_law(1e12, 100.0, k=0.4), noise_sd=0.001, seed=1)
    plain, six = (
        design.belief(backbone_progress(budget, facts, hardware, truth)).laws
        for truth in (dataclasses.replace(TRUTH, noise_sd=0.001), bent)
    )
    assert {law.form.name for law in plain} == {CHINCHILLA.name, SKALING.name}
    assert [law.form for law in six] == [SKALING, CHINCHILLA]
    assert six[0].weight > 0.85
    assert six[0].surface.k == pytest.approx(0.4, abs=0.15)
    for laws in (plain, six):
        assert sum(law.weight for law in laws) == pytest.approx(1.0)
        assert laws[1].weight > 0.09


def test_every_third_batch_begins_with_the_run_that_laws_disagree_about(
    facts: DataFacts, hardware: Hardware
) -> None:
    budget = parse_budget(ADAPTIVE)
    progress = backbone_progress(budget, facts, hardware)
    design = adaptive(budget, facts)
    reasons = {}
    for rounds in (3, 4, 5, 6):
        asked = design.propose(dataclasses.replace(progress, rounds=rounds))
        assert asked is not None
        reasons[rounds - 2] = asked.points[0].reason
    assert [batch for batch, why in reasons.items() if "disagree" in why] == [3]


def test_the_prior_law_has_its_optimum_where_it_is_asked_to() -> None:
    for k in (1.0, 0.5):
        law = prior_law(1e15, 40.0, k=k)
        assert law.optimum(1e15).tokens_per_parameter == pytest.approx(40.0)
        assert law.optimum(1e15).loss == pytest.approx(2 * law.E)


def test_an_adaptive_sweep_spends_its_budget_and_no_more(
    make_setting: Callable[..., Setting],
) -> None:
    outcome = run(make_setting(ADAPTIVE), SyntheticExecutor(TRUTH))
    assert outcome.exit_code in (Exit.COMPLETE, Exit.WITH_FAILURES)
    assert 0.85 * 8e12 < outcome.state.charged_flops <= 8e12
    assert outcome.state.counts["completed"] == len(outcome.state.trials) > 25
    assert all(t.why for t in outcome.state.trials.values() if not t.even)


@pytest.mark.parametrize("crash_after", [3, 17, 26])
def test_an_adaptive_sweep_that_died_chooses_what_it_would_have_chosen(
    make_setting: Callable[..., Setting], tmp_path: Path, crash_after: int
) -> None:
    whole = make_setting(ADAPTIVE)
    expected = trials_of(run(whole, SyntheticExecutor(TRUTH)))

    class Died(BaseException):
        pass

    class Dying(SyntheticExecutor):
        left = crash_after

        def next_event(self, timeout_s: float) -> Any:
            event = super().next_event(timeout_s)
            if isinstance(event, Finished):
                self.left -= 1
                if self.left < 0:
                    raise Died
            return event

    again = dataclasses.replace(whole, sweep_dir=tmp_path / "b" / "small", outputs=tmp_path / "b")
    with pytest.raises(Died):
        run(again, Dying(TRUTH))
    assert trials_of(run(again, SyntheticExecutor(TRUTH))) == expected


def test_what_is_chosen_depends_neither_on_the_order_of_ends_nor_on_lost_workers(
    make_setting: Callable[..., Setting], tmp_path: Path
) -> None:
    whole = make_setting(ADAPTIVE)
    expected = trials_of(run(whole, SyntheticExecutor(TRUTH)))

    class Disorderly(SyntheticExecutor):
        """Ends the latest submission first, and loses the first worker."""

        lost = False

        def next_event(self, timeout_s: float) -> Any:
            if len(self._events) >= 2 and isinstance(self._events[-2], Started):
                end = self._events.pop()
                start = self._events.pop()
                self._events.appendleft(end)
                return start
            event = super().next_event(timeout_s)
            if isinstance(event, Finished) and not self.lost:
                self.lost = True
                return Lost(trial_id=event.trial_id, reason="its worker died")
            return event

    other = dataclasses.replace(whole, sweep_dir=tmp_path / "b" / "small", outputs=tmp_path / "b")
    assert trials_of(run(other, Disorderly(TRUTH))) == expected


def test_a_batch_does_not_wait_for_the_end_of_the_one_before_it(
    make_setting: Callable[..., Setting],
) -> None:
    class Counting(SyntheticExecutor):
        waiting: int = 0
        seen: list[int]

        def __init__(self, truth: Truth) -> None:
            super().__init__(truth)
            self.seen = []

        def next_event(self, timeout_s: float) -> Any:
            self.seen.append(len(self._events) // 2)
            return super().next_event(timeout_s)

    executor = Counting(TRUTH)
    run(make_setting(ADAPTIVE), executor)
    # After the backbone two batches of six are in flight at a time, so slots never run dry.
    assert max(executor.seen[32:]) > 6


def test_levels_wait_for_those_below_them_and_batches_for_all_but_two_rounds(
    facts: DataFacts,
) -> None:
    design = adaptive(parse_budget(ADAPTIVE), facts)
    assert [design.lag(number, tuple) for number in (1, 3, 4, 5, 6, 9)] == [0, 0, 1, 2, 2, 2]
    levels = parse_budget(HEAD + "design: {levels: 3, tokens_per_parameter: 150}\n")
    longer = design_of(levels, facts, budget_flops=9e12, first_budget_flops=8e12)
    assert [longer.lag(number, tuple) for number in (3, 4, 5, 6, 9)] == [0, 0, 1, 2, 2]


def test_noise_belongs_to_the_trial_and_to_the_world(facts: DataFacts, hardware: Hardware) -> None:
    config = make_plan(parse_budget(LADDER), facts, hardware).trials[0].config
    assert TRUTH.result(config) == TRUTH.result(config)
    other = dataclasses.replace(TRUTH, seed=2)
    assert other.result(config).loss != TRUTH.result(config).loss
    silent = Truth(law=LAW, noise_sd=0.0, seed=1).result(config)
    assert isinstance(LAW, Surface)
    assert silent.loss == pytest.approx(
        float(
            LAW.loss(
                make_plan(parse_budget(LADDER), facts, hardware).trials[0].counts.matmul,
                config.tokens,
            )
        )
    )
