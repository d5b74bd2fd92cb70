"""Plans: exact compute, real shapes, re-centring, money."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator.budget import Budget, parse_budget
from orchestrator.design_section import IsoflopDesign
from orchestrator.designs.isoflop import Measurement, centre, centre_params, level_flops, sizes
from orchestrator.errors import BadInput
from orchestrator.lattice import head_count, lattice, nearest_shape
from orchestrator.plan import make_plan
from orchestrator.throughput import CPU_CORE, StepTime, calibrate
from orchestrator.trial import Hardware
from trainer.data.facts import DataFacts
from trainer.flops import training_flops_per_token
from trainer.shapes import count_parameters

GOLDEN = Path(__file__).parent / "golden" / "plan_small.json"


def test_every_trial_spends_its_level_to_within_one_step(
    budget: Budget, facts: DataFacts, hardware: Hardware
) -> None:
    for trial in make_plan(budget, facts, hardware).trials:
        per_step = training_flops_per_token(trial.config.shape).total * trial.config.batch_tokens
        assert trial.flops <= trial.flops_target
        assert trial.flops > trial.flops_target - per_step
        assert trial.config.tokens == trial.config.steps * trial.config.batch_tokens


def test_sizes_of_a_level_are_distinct_real_shapes_around_its_centre(
    budget: Budget, facts: DataFacts, hardware: Hardware
) -> None:
    for level in make_plan(budget, facts, hardware).levels:
        shapes = {trial.config.shape for trial in level.trials}
        assert len(shapes) == len(level.trials) == 5
        ratios = sorted(trial.tokens_per_parameter for trial in level.trials)
        assert ratios[0] < level.centre.tokens_per_parameter < ratios[-1]
        for shape in shapes:
            assert shape.d_model % shape.n_head == 0


def test_the_plan_of_a_budget_is_the_one_on_record(
    budget: Budget, facts: DataFacts, hardware: Hardware
) -> None:
    found = json.loads(json.dumps(make_plan(budget, facts, hardware).to_dict()))
    for trial in (trial for level in found["levels"] for trial in level["trials"]):
        del trial["trial_id"], trial["shape"]
    assert found == json.loads(GOLDEN.read_text())


def test_the_longest_trials_of_a_level_come_first(
    budget: Budget, facts: DataFacts, hardware: Hardware
) -> None:
    for level in make_plan(budget, facts, hardware).levels:
        times = [trial.estimated_s for trial in level.trials]
        assert times == sorted(times, reverse=True)


def test_a_number_of_levels_is_laid_out_to_cost_the_budget_less_its_reserve(
    facts: DataFacts, hardware: Hardware
) -> None:
    budget = parse_budget(
        "name: x\nbudget: {flops: 1e14}\nmodel: {context: 128}\ntraining: {batch_tokens: 512}\n"
        "design: {levels: 4, sizes: 5, span: 2, tokens_per_parameter: 100}\n"
    )
    plan = make_plan(budget, facts, hardware)
    assert len(plan.levels) == 4
    assert 0.85e14 < plan.cost_flops <= 0.96e14
    factors = [b.flops / a.flops for a, b in zip(plan.levels, plan.levels[1:], strict=False)]
    assert all(3 < factor < 3.4 for factor in factors)


def test_every_seed_of_a_size_is_planned(facts: DataFacts, hardware: Hardware) -> None:
    text = (
        "name: x\nbudget: {flops: 8e12}\nmodel: {context: 128}\n"
        "training: {batch_tokens: 512, seeds: [0, 1]}\n"
        "design: {levels: [1e11], sizes: 3, span: 2, tokens_per_parameter: 150}\n"
    )
    trials = make_plan(parse_budget(text), facts, hardware).trials
    assert len({trial.trial_id for trial in trials}) == 6
    assert sorted(trial.config.seed for trial in trials) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("spending", ["cpu_hours: 0.05", "gpus: 2, wall_clock: 2min"])
def test_hours_become_the_compute_whose_plan_takes_them_here(
    spending: str, facts: DataFacts, hardware: Hardware
) -> None:
    text = (
        f"name: x\nbudget: {{{spending}, price_per_hour: 2}}\nmodel: {{context: 128}}\n"
        "training: {batch_tokens: 512, min_steps: 50}\n"
        "design: {levels: 2, sizes: 3, span: 2, tokens_per_parameter: 150}\n"
    )
    plan = make_plan(parse_budget(text), facts, hardware)
    if "cpu_hours" in spending:
        assert plan.device_hours == pytest.approx(0.05, rel=0.15)
    else:
        assert plan.estimated_s == pytest.approx(120 * 0.95, rel=0.15)
    assert plan.price == pytest.approx(2 * plan.device_hours)


def test_a_budget_too_small_for_any_answer_says_the_least_that_works(
    facts: DataFacts, hardware: Hardware
) -> None:
    text = "name: x\nbudget: {flops: 1e9}\nmodel: {context: 128}\ntraining: {batch_tokens: 512}\n"
    with pytest.raises(BadInput, match=r"at least 3 sizes of 500 steps") as error:
        make_plan(parse_budget(text), facts, hardware)
    said = error.value.faults[0].remedy.split("about ")[1].split(" FLOPs")[0]
    make_plan(parse_budget(text.replace("1e9", said)), facts, hardware)


def test_warnings_name_few_steps_repeated_data_and_clamped_rules(
    budget: Budget, facts: DataFacts, hardware: Hardware
) -> None:
    short = dataclasses.replace(facts, train_tokens=500_000)
    text = " ".join(make_plan(budget, short, hardware).warnings)
    assert "fewer than 1000 steps" in text
    assert "more than once" in text
    assert "More than 4 epochs" in text
    assert "clamped" in text


def level_of(losses: list[float], ratio: float = 100.0) -> list[Measurement]:
    params = [1000 * 2**k for k in range(len(losses))]
    middle = params[len(params) // 2]
    return [
        Measurement(level=1, params=n, tokens=ratio * middle**2 / n, loss=loss)
        for n, loss in zip(params, losses, strict=True)
    ]


def test_the_next_level_is_centred_on_the_measured_minimum(budget: Budget) -> None:
    found = centre(budget.design, level_of([2.4, 2.2, 2.1, 2.2, 2.4]))
    assert found.tokens_per_parameter == pytest.approx(100)
    assert found.reason == "the minimum of level 1"


@pytest.mark.parametrize(
    ("losses", "moves"), [([2.1, 2.2, 2.3, 2.4, 2.5], 1), ([2.5, 2.4, 2.3, 2.2, 2.1], -1)]
)
def test_a_minimum_at_the_edge_moves_the_centre_beyond_it(
    budget: Budget, losses: list[float], moves: int
) -> None:
    measured = level_of(losses)
    best = min(measured, key=lambda m: m.loss)
    edge = best.tokens / best.params
    found = centre(budget.design, measured)
    assert (found.tokens_per_parameter > edge) == (moves > 0)
    assert "beyond the edge" in found.reason


def test_a_bad_start_finds_its_way_back_within_two_levels(budget: Budget) -> None:
    """The true optimum is at D/N = 100; the design begins at 6 (8x off in ratio and more)."""
    design = budget.design.model_copy(update={"tokens_per_parameter": 6.0})
    measured: list[Measurement] = []
    for level, flops in enumerate((1e11, 3e11, 1e12), start=1):
        middle = centre(design, measured)
        for n in sizes(design, flops, middle.tokens_per_parameter, lambda params: 6 * params):
            d = flops / (6 * n)
            loss = 1 + 100 * (n**-0.5 + (d / 100) ** -0.5)
            measured.append(Measurement(level=level, params=n, tokens=d, loss=loss))
    assert centre(design, measured).tokens_per_parameter == pytest.approx(100, rel=0.1)


def test_the_centre_solves_for_the_compute(budget: Budget) -> None:
    params = centre_params(1e12, 50, lambda n: 6 * n + 1e4)
    assert params * 50 * (6 * params + 1e4) == pytest.approx(1e12)


def test_given_levels_are_taken_as_they_are(budget: Budget) -> None:
    assert level_flops(budget.design, 1.0, 1) == (1e11, 3.2e11, 1.02e12)


@pytest.mark.parametrize("width", [8, 16, 20, 64, 288, 576, 1024, 4096])
def test_heads_divide_the_width_and_are_even_for_rotary(width: int) -> None:
    heads = head_count(width)
    assert width % heads == 0
    assert (width // heads) % 2 == 0


def test_the_lattice_has_a_shape_near_every_size_and_none_twice(budget: Budget) -> None:
    for params in (3e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10):
        shape = nearest_shape(budget.model, 32_000 if params > 1e7 else 256, params)
        assert shape is not None
        assert count_parameters(shape).matmul == pytest.approx(params, rel=0.25)
    first = nearest_shape(budget.model, 256, 1e4)
    assert first is not None
    assert nearest_shape(budget.model, 256, 1e4, taken=frozenset({first})) != first
    assert nearest_shape(budget.model, 256, 1e2) is None


def test_explicit_shapes_are_the_only_ones_used(facts: DataFacts, hardware: Hardware) -> None:
    shapes = [{"d_model": d, "n_layer": 2, "n_head": d // 8} for d in (8, 16, 24, 32, 40)]
    text = (
        "name: x\nbudget: {flops: 8e12}\n"
        f"model: {{context: 128, shapes: {json.dumps(shapes)}}}\n"
        "training: {batch_tokens: 512}\n"
        "design: {levels: [3e11], sizes: 4, span: 2.5, tokens_per_parameter: 150}\n"
    )
    budget = parse_budget(text)
    assert len(lattice(budget.model, 256)) == 5
    used = {trial.config.shape.d_model for trial in make_plan(budget, facts, hardware).trials}
    assert used <= {8, 16, 24, 32, 40}


def test_measured_step_times_move_the_throughput() -> None:
    true = dataclasses.replace(
        CPU_CORE, flops_per_s=1e10, step_overhead_s=9e-4, layer_overhead_s=4.5e-3
    )
    steps = [
        StepTime(n_layer=n, flops_per_step=f, seconds=true.step_s(n_layer=n, flops_per_step=f))
        for n, f in ((1, 3e7), (2, 2e8), (4, 2e9))
    ]
    found = calibrate(CPU_CORE, steps)
    assert found.measured
    assert found.flops_per_s == pytest.approx(1e10, rel=1e-6)
    assert found.layer_overhead_s == pytest.approx(4.5e-3, rel=1e-6)
    assert calibrate(CPU_CORE, []) is CPU_CORE
    one = calibrate(CPU_CORE, steps[:1])
    assert one.step_s(n_layer=1, flops_per_step=3e7) == pytest.approx(steps[0].seconds)


def test_a_plan_without_a_digest_has_no_identities(
    budget: Budget, facts: DataFacts, hardware: Hardware
) -> None:
    record: Any = make_plan(budget, dataclasses.replace(facts, digest=None), hardware).to_dict()
    assert all(t["trial_id"] is None for level in record["levels"] for t in level["trials"])


def test_sizes_that_would_reach_beyond_what_can_be_trained_are_moved_not_lost() -> None:
    design = IsoflopDesign(sizes=5, span=3)
    six = (6.0).__mul__
    free = sizes(design, 1e11, 150, six)
    assert free[2] == pytest.approx(math.sqrt(1e11 / 6 / 150))
    small = sizes(design, 1e11, 150, six, trainable=(1e5, 1e9))
    assert (small[0], small[-1]) == pytest.approx((1e5, 9e5))
    large = sizes(design, 1e11, 150, six, trainable=(10, 5e3))
    assert (large[0], large[-1]) == pytest.approx((5e3 / 9, 5e3))
    narrow = sizes(design, 1e11, 150, six, trainable=(1e5, 2e5))
    assert (narrow[0], narrow[-1]) == pytest.approx((1e5, 2e5))
    # The nearest shape is taken for a size a little below the smallest one.
    assert sizes(design, 1e11, 150, six, trainable=(1.5 * free[0], 1e9)) == pytest.approx(free)


def test_a_level_after_one_whose_best_size_was_the_smallest_keeps_all_its_sizes(
    facts: DataFacts, hardware: Hardware
) -> None:
    """Found on a stranger's first sweep: its second level was centred where no shapes are."""
    text = (
        "name: x\nbudget: {flops: 3e12}\nmodel: {context: 128}\n"
        "training: {batch_tokens: 512}\n"
        "design: {levels: [4e10, 1.2e11], sizes: 5, span: 3, tokens_per_parameter: 150}\n"
    )
    budget = parse_budget(text)
    first = make_plan(budget, facts, hardware).levels[0]
    smallest_is_best = [
        Measurement(
            level=1, params=t.counts.matmul, tokens=t.config.tokens, loss=2 + t.counts.matmul / 1e5
        )
        for t in first.trials
    ]
    second = make_plan(budget, facts, hardware, measurements=smallest_is_best).levels[1]
    assert "smallest" in second.centre.reason
    assert len(second.trials) == 5


def test_a_plan_says_how_much_disk_its_checkpoints_tokens_and_records_take(
    budget: Budget, facts: DataFacts, hardware: Hardware
) -> None:
    plan = make_plan(budget, facts, hardware)
    tokens = 2 * (facts.train_tokens + facts.validation_tokens)
    states = sum(2 * 12 * trial.counts.total for trial in plan.trials)
    assert plan.disk_bytes == pytest.approx(tokens + states + 5e5 * len(plan.trials))
    more = dataclasses.replace(facts, train_tokens=facts.train_tokens + 10**9)
    assert make_plan(budget, more, hardware).disk_bytes == pytest.approx(plan.disk_bytes + 2e9)
