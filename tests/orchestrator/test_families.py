"""Every family of a budget: accepted, counted, planned, and refused with its reason."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from orchestrator.budget import parse_budget
from orchestrator.errors import BadInput
from orchestrator.lattice import lattice, nearest_shape
from orchestrator.model_section import scaled
from orchestrator.model_sizes import with_model_sizes
from orchestrator.plan import make_plan
from orchestrator.trial import Hardware, trial_record
from trainer.data.facts import DataFacts
from trainer.flops import training_flops_per_token
from trainer.foreign import ForeignShape
from trainer.shapes import ModelShape, count_parameters

HEAD = "name: x\nbudget: {flops: 1e12}\n"
REST = """
training: {learning_rate: 0.003, batch_tokens: 128, min_steps: 20}
design: {levels: [2e10, 1e11, 3e11], sizes: 3, span: 2, tokens_per_parameter: 10}
"""
MINE = """
from torch import nn

def build(width, depth, vocab_size):
    layers = [nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)]
    return nn.Sequential(nn.Embedding(vocab_size, width), *layers, nn.Linear(width, vocab_size))
"""
SIZES = f"sizes: {[{'width': w, 'depth': 2} for w in (16, 24, 32, 48, 64, 96, 128, 192)]}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A budget's folder with a module and a configuration beside it."""
    base = tmp_path_factory.mktemp("budget")
    (base / "module_of_mine.py").write_text(MINE)
    (base / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_positions": 64}))
    return base


@pytest.mark.parametrize("family", ["gpt", "llama", "femto", "deepseek"])
def test_sizes_of_a_family_grow_along_its_line_and_plan(
    family: str, facts: DataFacts, hardware: Hardware
) -> None:
    budget = parse_budget(f"{HEAD}model: {{family: {family}, context: 64}}{REST}")
    shapes = [nearest_shape(budget.model, 256, 10**exponent) for exponent in (4.5, 6, 7.5, 9)]
    widths = [shape.d_model for shape in shapes if isinstance(shape, ModelShape)]
    depths = [shape.n_layer for shape in shapes if shape]
    assert widths == sorted(set(widths))
    assert depths == sorted(set(depths))
    for trial in make_plan(budget, facts, hardware).trials:
        assert trial.flops <= trial.flops_target
        assert trial.counts == count_parameters(trial.config.shape)
        assert trial.config.init == "scaled"


@pytest.mark.parametrize("family", ["deepseek", "llama, experts: {}"])
def test_a_mixture_is_stored_whole_and_paid_by_what_a_token_meets(
    family: str, facts: DataFacts, hardware: Hardware
) -> None:
    budget = parse_budget(f"{HEAD}model: {{family: {family}, context: 64}}{REST}")
    for trial in make_plan(budget, facts, hardware).trials:
        counts, shape = trial.counts, trial.config.shape
        assert isinstance(shape, ModelShape)
        assert shape.experts is not None
        idle = 6 * 3 * shape.d_model * shape.experts.d_expert * shape.n_layer
        assert counts.total - counts.active == counts.matmul - counts.matmul_active == idle
        assert training_flops_per_token(shape).matmul == 6 * counts.matmul_active
        record = trial_record(trial)["params"]
        assert record["active"] == counts.active < record["total"]


def test_experts_replace_the_dense_layer_in_proportion_to_it() -> None:
    text = "experts: {n_routed: 6, n_shared: 0, top_k: 3, expert_width: 0.25, router: softmax}"
    budget = parse_budget(f"{HEAD}model: {{family: gpt, {text}}}")
    for _, shape in lattice(budget.model, 256)[::40]:
        assert isinstance(shape, ModelShape)
        assert shape.experts is not None
        assert (shape.experts.n_routed, shape.experts.met, shape.experts.router) == (
            6,
            3,
            "softmax",
        )
        assert shape.experts.d_expert == max(8, shape.d_model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("family: lama", "must be gpt, llama, femto, deepseek, hf or `package.module:build`"),
        ("family: hf", "family `hf` needs `config`"),
        ("family: gpt, config: x", "`config` is no key of family `gpt`"),
        ("family: hf, config: x, norm: rmsnorm", "`norm` is no key of family `hf`"),
        ("family: hf, config: x, code_path: .", "`code_path` is no key of family `hf`"),
        ("family: 'a.b:c'", "a family of your own needs `sizes` or `scale`"),
        ("family: 'a:c', scale: {d: wide}", "a rule is `width`, `depth` or `heads`"),
        ("family: 'a:c', scale: {d: width}, sizes: [{}, {}, {}]", "exclude each other"),
        ("experts: {top_k: 9}", "top_k must not exceed n_routed, got top_k 9 and n_routed 8"),
        ("experts: {n_routd: 9}", "did you mean `n_routed`"),
    ],
)
def test_a_model_section_that_cannot_be_is_refused(model: str, message: str) -> None:
    with pytest.raises(BadInput) as error:
        parse_budget(f"{HEAD}model: {{{model}}}\n")
    assert message in str(error.value)


def test_rules_of_scale_follow_the_line() -> None:
    size = {"width": 48, "depth": 3, "heads": 4}
    rules = {"width": 48, "4 * width": 192, "2.5 width": 120, "depth": 3, "heads / 8": 1}
    assert {rule: scaled(rule, **size) for rule in rules} == rules


HF = "family: hf, context: 64"


@pytest.mark.parametrize(
    "model",
    [
        HF + ", config: {model_type: llama, num_key_value_heads: 8}",
        HF + ", config: ., scale: {hidden_size: width, n_layer: depth, n_head: heads}",
        f"family: 'module_of_mine:build', context: 64, code_path: ., {SIZES}",
        "family: 'module_of_mine:build', context: 64, code_path: ., "
        "scale: {width: width, depth: 2 * depth}",
    ],
    ids=["hf", "hf file", "user sizes", "user scale"],
)
def test_a_family_of_other_code_is_counted_and_planned(
    model: str, base: Path, facts: DataFacts, hardware: Hardware
) -> None:
    budget = with_model_sizes(parse_budget(f"{HEAD}model: {{{model}}}{REST}"), base, 256)
    counts = [shape.counts.matmul for shape in budget.model.counted]
    assert counts == sorted(set(counts))
    trials = make_plan(budget, facts, hardware).trials
    assert len({trial.config.shape for trial in trials}) >= 3
    for trial in trials:
        shape = trial.config.shape
        assert isinstance(shape, ForeignShape)
        assert trial.config.init == "own"
        assert trial.flops <= trial.flops_target
        assert shape.vocab_size == 256


def test_usual_fields_keep_the_configurations_own_proportions(base: Path) -> None:
    config = (
        "{model_type: llama, hidden_size: 64, intermediate_size: 96, num_attention_heads: 8, "
        "num_key_value_heads: 2}"
    )
    budget = parse_budget(f"{HEAD}model: {{{HF}, config: {config}}}{REST}")
    for shape in with_model_sizes(budget, base, 256).model.counted:
        fields = json.loads(shape.arguments)
        assert abs(fields["intermediate_size"] - 1.5 * fields["hidden_size"]) <= 4
        heads, shared = fields["num_attention_heads"], fields["num_key_value_heads"]
        assert heads % shared == 0
        assert shared <= max(1, heads / 4)
        assert fields["head_dim"] * heads == fields["hidden_size"]


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        (HF + ", config: {model_type: lama}", "SWP-1221", "near it: llama"),
        (HF + ", config: nowhere.json", "SWP-1221", "must be a file here"),
        (HF + ", config: {model_type: llama, vocab_size: 99}", "SWP-1221", "vocab_size must be"),
        (HF.replace("64", "128") + ", config: .", "SWP-1221", "at least the context, 128, got 64"),
        (HF + ", config: ., scale: {hiden: width}", "SWP-1221", "gpt2 has no field hiden"),
        (HF + ", config: {model_type: mamba}", "SWP-1221", "name the fields that scale"),
        ("family: 'module_of_nobody:build', scale: {width: width}", "SWP-1221", "code_path"),
        (
            HF + ", config: ., sizes: [{n_embd: 24}, {n_embd: 36}, {n_embd: 36, resid_pdrop: 0}]",
            "SWP-1222",
            "sizes must differ in matmul parameters",
        ),
    ],
)
def test_a_family_of_other_code_that_cannot_be_is_refused(
    model: str, code: str, message: str, base: Path
) -> None:
    with pytest.raises(BadInput) as error:
        with_model_sizes(parse_budget(f"{HEAD}model: {{{model}}}{REST}"), base, 256)
    assert [fault.code for fault in error.value.faults] == [code]
    assert message in str(error.value)


def test_what_was_built_is_part_of_the_sweep_and_old_sweeps_stay_the_same(base: Path) -> None:
    plain = parse_budget(HEAD)
    assert set(plain.science()["model"]) == {
        *("family", "context", "position", "norm", "activation", "tied_head", "shapes")
    }
    budget = parse_budget(
        f"{HEAD}model: {{family: 'module_of_mine:build', code_path: ., {SIZES}}}{REST}"
    )
    counted = with_model_sizes(budget, base, 256)
    edited = counted.model.with_counted(
        [dataclasses.replace(shape, source="0" * 64) for shape in counted.model.counted]
    )
    assert counted.digest != counted.model_copy(update={"model": edited}).digest
    moved = counted.model.with_counted(
        [dataclasses.replace(shape, folder="elsewhere") for shape in counted.model.counted]
    )
    assert counted.digest == counted.model_copy(update={"model": moved}).digest


def test_a_listed_shape_of_other_code_is_refused(
    base: Path, facts: DataFacts, hardware: Hardware
) -> None:
    point = "{shape: {d_model: 16, n_layer: 1, n_head: 1}, tokens: 1M}"
    text = f"{HEAD}model: {{family: 'module_of_mine:build', code_path: ., {SIZES}}}\n"
    text += f"design: {{kind: file, points: [{point}]}}\n"
    with pytest.raises(BadInput, match="has `params`, got a shape"):
        make_plan(with_model_sizes(parse_budget(text), base, 256), facts, hardware)
