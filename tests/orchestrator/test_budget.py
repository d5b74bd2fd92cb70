"""The budget's schema: defaults, refusals with places, identity."""

from __future__ import annotations

import json

import pytest

from orchestrator.budget import changed_keys, json_schema, parse_budget
from orchestrator.design_section import DESIGNS
from orchestrator.errors import BadInput

MINIMAL = "name: x\nbudget: {flops: 1e18}\n"


def faults_of(text: str) -> list[tuple[str, str]]:
    with pytest.raises(BadInput, match="error") as error:
        parse_budget(text, file="b.yaml")
    return [(fault.code, fault.place) for fault in error.value.faults]


def test_a_minimal_budget_has_every_default() -> None:
    budget = parse_budget(MINIMAL)
    assert budget.budget.flops == 1e18
    assert budget.design.kind == "isoflop"
    assert budget.data.corpus == "embedded"


def test_all_faults_of_a_file_are_named_in_one_pass_in_the_order_of_lines() -> None:
    text = (
        "name: a b\n"
        "budget: {flops: -1e18}\n"
        "desing: {levels: 3}\n"
        "model: {family: lama, contxt: 5}\n"
        "training: {learning_rate: steplw}\n"
    )
    assert faults_of(text) == [
        ("SWP-1104", "b.yaml:1:1"),
        ("SWP-1104", "b.yaml:2:10"),
        ("SWP-1101", "b.yaml:3:1"),
        ("SWP-1104", "b.yaml:4:9"),
        ("SWP-1101", "b.yaml:4:23"),
        ("SWP-1104", "b.yaml:5:12"),
    ]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("name: x\n", "`budget` must be given"),
        ("budget: {flops: 1}\n", "`name` must be given"),
        ("name: x\nbudget: {}\n", "exactly one of"),
        ("name: x\nbudget: {flops: 1e18, gpu_hours: 3}\n", "got flops, gpu_hours"),
        ("name: x\nbudget: {gpus: 8}\n", "must be given together"),
        ("name: x\nbudget: {flops: .inf}\n", "finite"),
        ("name: x\nbudget: {flops: 0}\n", "greater than 0"),
        (f"name: x\nbudget: {{flops: {'9' * 400}}}\n", "finite"),
        (f"name: x\nbudget: {{flops: 1}}\ntraining: {{min_steps: {'9' * 5000}}}\n", "finite"),
        (f"name: x\nbudget: {{flops: 0x{'f' * 400}}}\n", "finite"),
        ("name: x\nbudget: {flops: lots}\n", "an amount of compute"),
        ("name: x\nbudget: {flops: true}\n", "an amount of compute"),
        ("name: x\nbudget: {gpus: 8, wall_clock: 24}\n", "with its unit"),
        ("name: ../../x\nbudget: {flops: 1}\n", "1 to 64 letters"),
        ("name: x\nbudget: {flops: 1}\ndesgn: {}\n", "did you mean `design`"),
        # Names that pydantic gives to its own steps are keys like others when somebody writes them.
        ("n[]ame: x\nbudget: {flops: 1}\n", "`n..ame` is no key of a budget"),
        ("name: x\nbudget: {flops: 1}\nmodel: {int: 1}\n", "`model.int` is no key of a budget"),
        ("name: x\nbudget: {flops: 1}\ndesign: {levels: [3, 2]}\n", "must ascend"),
        ("name: x\nbudget: {flops: 1}\ndesign: {sizes: no}\n", "got 'no'"),
        (
            "name: x\nbudget: {flops: 1}\n"
            "model: {shapes: [{d_model: 100, n_layer: 2, n_head: 8}]}\n",
            "nearest widths: 96 and 104",
        ),
        ("name: x\nbudget: {flops: 1}\ntraining: {seeds: [1.5]}\n", "integer"),
        ("name: x\nbudget: {flops: 1}\ntraining: {batch_tokens: -4}\n", "at least 1 token"),
    ],
)
def test_each_bad_value_is_told_what_the_rule_is(text: str, rule: str) -> None:
    with pytest.raises(BadInput, match=rule.replace("`", ".")):
        parse_budget(text)


def test_what_cannot_change_a_plan_is_not_part_of_the_digest() -> None:
    base = parse_budget(MINIMAL)
    cosmetic = parse_budget(
        "name: y\nbudget: {flops: 1e18, price_per_hour: 3}\nrun: {executor: inline}\n"
        "tracking: {enabled: false}\n"
    )
    changed = parse_budget(MINIMAL + "training: {warmup_fraction: 0.1}\n")
    assert cosmetic.digest == base.digest
    assert changed.digest != base.digest
    assert changed_keys(base.science(), changed.science()) == [
        "training.warmup_fraction: 0.05 -> 0.1"
    ]


def test_the_schema_describes_every_field_for_editors() -> None:
    schema = json_schema()
    json.dumps(schema)
    designs = [design.__name__ for design in DESIGNS.values()]
    for section in ("Spending", "Data", "Model", "Training", "Execution", "Tracking", *designs):
        for name, field in schema["$defs"][section]["properties"].items():
            assert field.get("description"), f"{section}.{name} has no description"
