"""How long a plan takes, how much of its slots stands idle, and what is said of it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence

import pytest

from orchestrator.budget import Budget, parse_budget
from orchestrator.display import SilentDisplay
from orchestrator.executors.base import Job
from orchestrator.outcome import Answer
from orchestrator.placement import Placement
from orchestrator.plan import Plan, make_plan, settle
from orchestrator.rounds import Level
from orchestrator.service import run_sweep
from orchestrator.setting import Setting
from orchestrator.throughput import GPU
from orchestrator.timetable import duration_s, idle_share, slot_s
from orchestrator.trial import Hardware
from tests.bench.clocked import Clocked
from tests.orchestrator.conftest import completed
from trainer.data.facts import DataFacts

HEAD = """\
name: x
budget: {{flops: 8e12}}
model: {{context: 128}}
training: {{batch_tokens: 512, min_steps: 20, seeds: {seeds}}}
design: {{tokens_per_parameter: 150, span: 3, {design}}}
"""
TEN = "levels: 4, sizes: 10"


def budget_of(design: str, *, seeds: Sequence[int] = (0,)) -> Budget:
    return parse_budget(HEAD.format(design=design, seeds=list(seeds)))


def even(hardware: Hardware, slots: int) -> Hardware:
    """Hardware on which trials of equal compute take equal time."""
    speed = dataclasses.replace(GPU, step_overhead_s=0.0, layer_overhead_s=0.0)
    return dataclasses.replace(hardware, slots=slots, throughput=speed)


@pytest.fixture
def levels_of(
    budget: Budget, facts: DataFacts, hardware: Hardware
) -> Callable[..., tuple[Level, ...]]:
    """Rounds of given durations; each waits for as many as are named, or for all before it."""
    like = make_plan(budget, facts, hardware).levels[0]

    def make(*rounds: Sequence[float], waits_for: Sequence[int] = ()) -> tuple[Level, ...]:
        return tuple(
            dataclasses.replace(
                like,
                level=number,
                waits_for=waits_for[number - 1] if waits_for else number - 1,
                trials=tuple(
                    dataclasses.replace(like.trials[0], estimated_s=seconds) for seconds in round_
                ),
            )
            for number, round_ in enumerate(rounds, start=1)
        )

    return make


def test_trials_go_to_the_first_free_slot_and_rounds_wait_for_those_before_them(
    levels_of: Callable[..., tuple[Level, ...]],
) -> None:
    assert duration_s(levels_of([3, 3, 2, 2, 2]), 2) == 7
    assert duration_s(levels_of([3, 3, 2, 2, 2], [1]), 2) == 8
    assert duration_s(levels_of([5]), 8) == 5
    assert duration_s(levels_of([], [1]), 2) == 1
    assert duration_s((), 2) == 0


def test_a_round_that_waits_for_fewer_fills_the_slots_beside_the_one_before_it(
    levels_of: Callable[..., tuple[Level, ...]],
) -> None:
    rounds = ([1, 1, 1], [2, 2, 2], [4, 4])
    assert duration_s(levels_of(*rounds), 2) == 2 + 4 + 4
    assert duration_s(levels_of(*rounds, waits_for=[0, 1, 1]), 2) == 2 + 4 + 6 - 2
    # The third waits for the second's end even where a slot is free before it.
    assert duration_s(levels_of([1], [5, 1], [1], waits_for=[0, 1, 2]), 2) == 7


def test_a_trial_that_takes_several_slots_waits_until_so_many_are_free(
    levels_of: Callable[..., tuple[Level, ...]],
) -> None:
    (level,) = levels_of([3, 2, 2])
    large = dataclasses.replace(level.trials[0], slots=2)
    # Beside the first runs one of the others; the large one waits for both.
    mixed = dataclasses.replace(level, trials=(level.trials[0], level.trials[1], large))
    assert duration_s([mixed], 2) == 3 + 3
    assert slot_s([mixed]) == 3 + 2 + 2 * 3
    assert idle_share([mixed], 2) == pytest.approx(1 / 12)
    # On fewer slots than it takes there are no others beside it.
    assert duration_s([dataclasses.replace(level, trials=(large,))], 1) == 3


def test_a_plan_by_size_takes_as_long_as_its_gpus_allow(
    facts: DataFacts, hardware: Hardware
) -> None:
    text = HEAD.format(design="levels: 3, sizes: 8", seeds=[0])
    sizes = sorted(t.counts.matmul for t in make_plan(parse_budget(text), facts, hardware).trials)
    middle = sizes[len(sizes) // 2]
    placed = Placement(gpus=((middle, 0.25), (math.inf, 1.0)))
    here = dataclasses.replace(even(hardware, 8), placement=placed)
    plan = make_plan(parse_budget(text), facts, here)
    assert {trial.slots for trial in plan.trials} == {1, 4}
    # Two GPUs, whatever runs on them.
    assert plan.estimated_s >= plan.device_hours * 3600 / 2
    assert "run.slots" not in plan.idle


def test_the_idle_share_is_what_the_trials_leave_of_all_slots_until_the_end(
    levels_of: Callable[..., tuple[Level, ...]],
) -> None:
    assert idle_share(levels_of([1] * 10), 4) == pytest.approx(1 - 10 / 12)
    assert idle_share(levels_of([1] * 10), 8) == pytest.approx(1 - 10 / 16)
    assert idle_share(levels_of([1] * 8), 4) == 0
    assert idle_share((), 4) == 0


@pytest.mark.parametrize("design", [TEN, f"{TEN}, overlap: true"])
def test_the_loop_takes_as_long_as_the_plan_says(
    design: str, make_setting: Callable[..., Setting]
) -> None:
    setting = make_setting(HEAD.format(design=design, seeds=[0]))
    setting = dataclasses.replace(setting, hardware=even(setting.hardware, 4))
    plan = make_plan(setting.budget, setting.data.facts, setting.hardware)
    per_s = setting.hardware.throughput.flops_per_s
    executor = Clocked(
        lambda job: plan.levels[level_of(plan, job)].flops / per_s, completed, slots=4
    )
    run_sweep(
        dataclasses.replace(setting, plan=plan),
        make_executor=lambda: executor,
        tracker=None,
        display=SilentDisplay(),
        answer=Answer(resamples=20, interim=False, report=False),
    )
    assert executor.now == pytest.approx(plan.estimated_s, rel=0.05)


def level_of(plan: Plan, job: Job) -> int:
    """Index of the level whose compute a job spends; its shape may have moved since the plan."""
    from trainer.flops import training_flops_per_token

    flops = training_flops_per_token(job.config.shape).total * job.config.tokens
    return min(range(len(plan.levels)), key=lambda i: abs(plan.levels[i].flops - flops))


def test_a_plan_that_leaves_slots_idle_says_how_much_and_why(
    facts: DataFacts, hardware: Hardware
) -> None:
    plan = make_plan(budget_of(TEN), facts, even(hardware, 4))
    assert idle_share(plan.levels, 4) == pytest.approx(1 / 6, abs=0.01)  # three waves for ten
    (line,) = (line for line in plan.warnings if "idle" in line)
    assert line == plan.idle
    assert line.startswith(
        "about 16 % of the time of 4 slots is idle: a level of 10 trials ends with 2 on the 4, and "
        "the next waits for it. "
    )


@pytest.mark.parametrize(
    ("design", "slots"),
    [("levels: 4, sizes: 8", 4), ("levels: 4, sizes: 8", 8), (TEN, 2), (TEN, 1), (TEN, 5)],
)
def test_nothing_is_said_where_the_slots_divide_the_trials_of_a_level(
    design: str, slots: int, facts: DataFacts, hardware: Hardware
) -> None:
    assert make_plan(budget_of(design), facts, even(hardware, slots)).idle == ""


@pytest.mark.parametrize(
    ("design", "slots", "seeds", "changed", "said"),
    [
        (TEN, 4, [0], "levels: 4, sizes: 8", r"design.sizes: 8 leaves (\d+) %"),
        (TEN, 4, [0], f"{TEN}, overlap: true", r"design.overlap: true leaves (\d+) %"),
        (TEN, 8, [0], f"{TEN}, overlap: true", r"design.overlap: true leaves (\d+) %"),
        # Two seeds each: four sizes would do, too few for a parabola, and then eight.
        (
            "levels: 3, sizes: 5",
            8,
            [0, 1],
            "levels: 3, sizes: 8",
            r"design.sizes: 8 leaves (\d+) %",
        ),
    ],
)
def test_a_named_mend_leaves_what_is_said(
    design: str,
    slots: int,
    seeds: list[int],
    changed: str,
    said: str,
    facts: DataFacts,
    hardware: Hardware,
) -> None:
    here = even(hardware, slots)
    plan = make_plan(budget_of(design, seeds=seeds), facts, here)
    found = re.search(said, plan.idle)
    assert found, plan.idle
    mended = make_plan(budget_of(changed, seeds=seeds), facts, here)
    assert 100 * idle_share(mended.levels, slots) == pytest.approx(float(found[1]), abs=0.5)
    assert mended.estimated_s * slots * (1 - idle_share(mended.levels, slots)) == pytest.approx(
        slot_s(mended.levels)
    )


def test_slots_that_are_not_missed_are_named(facts: DataFacts, hardware: Hardware) -> None:
    budget = budget_of(TEN)
    plan = make_plan(budget, facts, even(hardware, 8))
    assert "run.slots: 5, in about the same time, leaves 1 %" in plan.idle
    fewer = make_plan(budget, facts, even(hardware, 5))
    assert fewer.estimated_s == pytest.approx(plan.estimated_s, rel=0.05)
    # On four slots every one is needed.
    assert "run.slots" not in make_plan(budget, facts, even(hardware, 4)).idle


def test_levels_that_were_given_are_not_mended_beyond_the_budget(
    facts: DataFacts, hardware: Hardware
) -> None:
    given = "levels: [4e11, 6e11, 8e11], sizes: {}"
    plan = make_plan(budget_of(given.format(4)), facts, even(hardware, 8))
    assert plan.cost_flops < plan.budget_flops
    assert "design.sizes" not in plan.idle
    assert "a level has 4 trials, and the next waits for it" in plan.idle
    cheap = "levels: [1e11, 2e11, 3e11], sizes: 5"
    assert "design.sizes: 8 leaves" in make_plan(budget_of(cheap), facts, even(hardware, 8)).idle


def test_a_design_of_one_round_is_told_of_its_longest_trial_and_waits_for_nothing(
    facts: DataFacts, hardware: Hardware
) -> None:
    design = "{kind: ladder, sizes: [5k, 10k, 20k, 40k], multiples: [1, 2, 4, 8]}"
    budget = parse_budget(
        "name: x\nbudget: {flops: 8e12}\nmodel: {context: 128}\n"
        f"training: {{batch_tokens: 512, min_steps: 20}}\ndesign: {design}\n"
    )
    idle = make_plan(budget, facts, even(hardware, 8)).idle
    assert re.search(r"in a round of 16 trials the longest takes \d\.\d times their mean", idle)
    assert "next" not in idle
    assert "overlap" not in idle


def test_three_sizes_never_have_a_minimum_and_so_their_levels_do_not_overlap(
    facts: DataFacts, hardware: Hardware
) -> None:
    few = "levels: 3, sizes: 3, overlap: true"
    alone = make_plan(budget_of(few), facts, hardware)
    assert [level.waits_for for level in alone.levels] == [0, 1, 2]
    twice = make_plan(budget_of(few, seeds=[0, 1]), facts, hardware)
    assert [level.waits_for for level in twice.levels] == [0, 1, 1]


def test_advice_about_idle_slots_ends_where_it_would_give_up_runs_that_are_paid_for(
    facts: DataFacts, hardware: Hardware
) -> None:
    plan = make_plan(budget_of(TEN), facts, even(hardware, 4))
    left = settle(plan, [plan.trials[0].trial_id])
    assert plan.idle in plan.warnings
    assert left.idle == ""
    assert not any("idle" in line for line in left.warnings)
