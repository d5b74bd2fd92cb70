"""Models of other code: counted by building, trained by our loop, refused before any training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from trainer.batches import inputs_and_targets
from trainer.config import OptimizerConfig, RunOptions, TrainConfig
from trainer.counting import count_transformers, count_user
from trainer.diagnose import diagnose
from trainer.export import export
from trainer.flops import training_flops_per_token
from trainer.foreign import ForeignShape
from trainer.model.build import build_model
from trainer.optim import Optimizer
from trainer.result import Interrupted, RunStatus
from trainer.run import run_trial
from trainer.shapes import Experts, LatentAttention, ModelShape, count_parameters, preset
from trainer.transformers_config import check_fields, read_config, whole_config

MakeConfig = Callable[..., TrainConfig]

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
LLAMA = {"model_type": "llama", "intermediate_size": 88, "num_key_value_heads": 1}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "num_key_value_heads": 2,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 40,
    "first_k_dense_replace": 0,
}
MODULE = """
import torch
from torch import nn

class Recurrent(nn.Module):
    def __init__(self, width, vocab_size, dropout):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.cell = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, tokens):
        return self.head(self.dropout(self.cell(self.embedding(tokens))[0]))

class Backwards(Recurrent):
    def forward(self, tokens):
        return super().forward(tokens.flip(1)).flip(1)

class Tied(nn.Module):
    def __init__(self, width, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, width)
        self.mix = nn.Linear(width, width)

    def forward(self, tokens):
        return self.mix(self.table(tokens)) @ self.table.weight.T

def build(width, vocab_size, dropout=0.0):
    return Recurrent(width, vocab_size, dropout)

def backwards(width, vocab_size):
    return Backwards(width, vocab_size, 0.0)

def tied(width, vocab_size):
    return Tied(width, vocab_size)

def reads_values(width, vocab_size):
    assert torch.ones(1).item() == 1.0
    return Recurrent(width, vocab_size, 0.0)

def few_logits(width):
    return Recurrent(width, 7, 0.0)

def no_logits(width):
    return nn.Sequential(nn.Embedding(256, width), nn.Flatten(0))

def no_parameters(width):
    return nn.Identity()

def no_module(width):
    return width

def broken(width):
    return nn.Linear(width, width)

number = 3
"""


def hf_shape(config: dict[str, Any], **fields: Any) -> ForeignShape:
    whole = whole_config(config, {**SIZES, **fields}, vocab_size=256, context=32)
    return count_transformers(whole, context=32)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module `one_of_mine`."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "one_of_mine.py").write_text(MODULE)
    return folder


def my_shape(folder: Path, name: str = "build", **arguments: Any) -> ForeignShape:
    arguments = {"width": 16, **arguments}
    family = f"one_of_mine:{name}"
    return count_user(family, arguments, vocab_size=256, context=32, folder=str(folder))


@pytest.fixture(params=["hf", "user"])
def shape(request: pytest.FixtureRequest, folder: Path) -> ForeignShape:
    """A shape of each kind, with noise of its own."""
    if request.param == "hf":
        return hf_shape({**LLAMA, "attention_dropout": 0.1})
    return my_shape(folder, dropout=0.1)


def own(make_config: MakeConfig, shape: ForeignShape, **changes: Any) -> TrainConfig:
    return make_config(shape=shape, init="own", **changes)


LATENT = LatentAttention(q_latent=16, kv_latent=8, d_content=16, d_rotary=8, d_value=16)
EXPERTS = Experts(n_routed=8, n_shared=1, top_k=2, d_expert=40)
OURS: dict[str, Any] = {"d_model": 32, "n_layer": 3, "n_head": 2, "vocab_size": 256, "context": 32}


@pytest.mark.parametrize(
    ("config", "ours"),
    [
        (LLAMA, preset("llama", **OURS, d_ff=88, n_kv_head=1)),
        (
            {**LLAMA, "tie_word_embeddings": True},
            preset("llama", **OURS, d_ff=88, n_kv_head=1, tied_head=True),
        ),
        ({"model_type": "gpt2"}, preset("gpt", **OURS)),
        (DEEPSEEK, preset("deepseek", **OURS, latent=LATENT, experts=EXPERTS)),
    ],
    ids=["llama", "tied llama", "gpt2", "deepseek_v3"],
)
def test_a_transformers_class_is_counted_as_the_same_model_of_ours(
    config: dict[str, Any], ours: ModelShape
) -> None:
    theirs = hf_shape(config)
    assert theirs.counts == count_parameters(ours)
    assert training_flops_per_token(theirs) == training_flops_per_token(ours)
    assert (theirs.d_model, theirs.n_layer) == (ours.d_model, ours.n_layer)


def test_a_module_of_the_users_is_counted_component_by_component(folder: Path) -> None:
    counts = my_shape(folder).counts
    gru = 2 * 3 * 16 * 16
    assert counts.embedding == 256 * 16
    assert counts.head == 256 * 16 + 256
    assert counts.body == gru + 2 * 3 * 16
    assert counts.matmul == gru + 256 * 16
    assert counts.active == counts.total == counts.body + counts.embedding + counts.head
    assert my_shape(folder, "reads_values").counts == counts


def test_a_head_that_borrows_the_embeddings_weights_is_counted(folder: Path) -> None:
    counts = my_shape(folder, "tied").counts
    assert counts.matmul == counts.matmul_active == 16 * 16 + 256 * 16
    assert counts.total == 16 * 16 + 16 + 256 * 16
    assert counts.head == 0


def test_a_run_whose_model_has_another_size_than_counted_does_not_start(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = hf_shape(LLAMA)
    counts = dataclasses.replace(shape.counts, total=shape.counts.total + 1)
    wrong = own(make_config, dataclasses.replace(shape, counts=counts))
    with pytest.raises(AssertionError, match="parameters where"):
        run_trial(wrong, options, tmp_path / "foreign")
    monkeypatch.setattr("trainer.model.build.count_parameters", lambda _: counts)
    for family in ("gpt", "llama", "femto", "deepseek"):
        with pytest.raises(AssertionError, match="parameters where"):
            run_trial(make_config(family=family), options, tmp_path / family)


def test_the_identity_holds_the_whole_configuration_and_the_source(
    make_config: MakeConfig, folder: Path, tmp_path: Path
) -> None:
    first = own(make_config, hf_shape(LLAMA))
    assert first.trial_id == own(make_config, hf_shape(LLAMA)).trial_id
    assert first.trial_id != own(make_config, hf_shape(LLAMA, rms_norm_eps=1e-4)).trial_id
    assert json.loads(first.shape.arguments)["hidden_act"] == "silu"  # type: ignore[union-attr]
    mine = own(make_config, my_shape(folder))
    counted = dataclasses.replace(mine.shape, folder=str(tmp_path), weight_flops=1.0)
    assert dataclasses.replace(mine, shape=counted).trial_id == mine.trial_id
    edited = dataclasses.replace(mine.shape, source="0" * 64)
    assert dataclasses.replace(mine, shape=edited).trial_id != mine.trial_id
    for config in (first, mine):
        again = TrainConfig.from_json(config.to_json())
        assert again == config
        assert count_parameters(again.shape) == count_parameters(config.shape)


def test_a_killed_run_ends_as_the_undisturbed_one(
    make_config: MakeConfig, options: RunOptions, shape: ForeignShape, tmp_path: Path
) -> None:
    config = own(make_config, shape)
    whole = run_trial(config, options, tmp_path / "whole")
    assert whole.status is RunStatus.COMPLETED
    assert whole.loss is not None
    assert whole.loss < 5.4
    assert whole.flops == config.tokens * training_flops_per_token(shape).total
    calls = iter([False] * 10 + [True])
    with pytest.raises(Interrupted):
        run_trial(config, options, tmp_path / "killed", should_stop=lambda: next(calls))
    assert run_trial(config, options, tmp_path / "killed").loss == whole.loss


def test_the_loss_is_the_cross_entropy_of_the_modules_own_logits(
    make_config: MakeConfig, shape: ForeignShape
) -> None:
    model = build_model(own(make_config, shape)).eval()
    ids = torch.randint(0, 256, (3, 33), generator=torch.Generator().manual_seed(0))
    tokens, targets = inputs_and_targets(ids)
    expected = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(model.loss(tokens, targets), expected)


def test_looked_up_tables_are_not_decayed_and_muon_is_refused(
    make_config: MakeConfig, folder: Path
) -> None:
    model = build_model(own(make_config, my_shape(folder)))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    Optimizer(model, OptimizerConfig(learning_rate=0.1, weight_decay=0.5)).step(0.1)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"module.cell.weight_ih_l0", "module.cell.weight_hh_l0", "module.head.weight"}
    with pytest.raises(ValueError, match="muon knows the matrices of our own models only"):
        Optimizer(model, OptimizerConfig(name="muon", learning_rate=0.1))


def test_an_exported_model_of_transformers_loads_and_generates(
    make_config: MakeConfig, folder: Path, tmp_path: Path
) -> None:
    model = build_model(own(make_config, hf_shape(LLAMA))).eval()
    assert export(model, tmp_path / "model") == "LlamaForCausalLM"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    ids = torch.arange(12)[None]
    torch.testing.assert_close(loaded(ids).logits, model(ids))
    said = loaded.generate(ids, max_new_tokens=4, do_sample=False, attention_mask=ids >= 0)
    assert said.shape == (1, 16)
    with pytest.raises(ValueError, match="only models of transformers can be exported"):
        export(build_model(own(make_config, my_shape(folder))), tmp_path / "mine")


def test_the_diagnosis_flags_a_module_that_looks_ahead(
    make_config: MakeConfig, folder: Path, token_data: Any
) -> None:
    sound = diagnose(own(make_config, my_shape(folder)), token_data.train)
    assert [check.name for check in sound] == ["first loss", "targets", "causality"]
    assert all(check.passed for check in sound)
    found = diagnose(own(make_config, my_shape(folder, "backwards")), token_data.train)
    assert [check.name for check in found if not check.passed] == ["causality"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "lama"}, "got 'lama'; near it: llama"),
        ({"model_type": "clip"}, "must name a causal language model"),
        ({**LLAMA, "auto_map": {"AutoModel": "x.Y"}}, "must not bring code or kernels, got auto"),
        ({**LLAMA, "rope": {"attn_implementation": "k/k"}}, "got rope.attn_implementation"),
        ({**LLAMA, "hiden_size": 3}, "llama has no field hiden_size; near it: hidden_size"),
        ("absent", "must be a file here"),
        ("broken.json", "must be JSON"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(
    config: Any, message: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=message):
        read_config(config, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 100}, "vocab_size must be at least the tokenizer's ids, 256, got 100"),
        ({"n_positions": 16}, "max_position_embeddings must be at least the context, 32, got 16"),
        ({"num_attention_heads": 3}, "that can be built"),
    ],
)
def test_a_size_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hf_shape({"model_type": "gpt2"}, **fields)


def test_a_file_of_a_configuration_is_read_with_its_classs_own_names(tmp_path: Path) -> None:
    stored = {"model_type": "gpt2", "n_embd": 64, "n_layer": 9, "architectures": ["X"], "_name": 1}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    config = read_config(str(tmp_path), Path())
    check_fields(config, ["hidden_size", "n_embd"])
    whole = whole_config(config, {"hidden_size": 32, "n_head": 2}, vocab_size=99, context=16)
    assert (whole["n_embd"], whole["n_layer"], whole["n_positions"]) == (32, 9, 16)
    assert whole["vocab_size"] == 99
    assert not {"hidden_size", "architectures", "_name"} & set(whole)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("nowhere_at_all:build", "the module nowhere_at_all must be importable"),
        ("one_of_mine:absent", "must be a function, got nothing of that name"),
        ("one_of_mine:number", "must be a function, got int"),
        ("one_of_mine:few_logits", "a logit for each of the tokenizer's 256 ids, got 7"),
        ("one_of_mine:no_logits", r"must return logits \[B, T, V\]"),
        ("one_of_mine:no_parameters", "must return logits"),
        ("one_of_mine:no_module", "must return a torch.nn.Module, got int"),
        ("one_of_mine:broken", r"must compute tokens \[1, 4\]: RuntimeError"),
        ("one_of_mine:Tied", "must build a module of the arguments"),
    ],
)
def test_a_module_that_cannot_be_used_is_refused(family: str, message: str, folder: Path) -> None:
    arguments = {"width": 16, **({"depth": 1} if family.endswith("Tied") else {})}
    with pytest.raises(ValueError, match=message):
        count_user(family, arguments, vocab_size=256, context=32, folder=str(folder))


def test_namesakes_in_two_folders_are_two_modules(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one_of_mine.py").write_text(MODULE.replace("nn.GRU", "nn.RNN"))
    here, there = my_shape(folder), my_shape(tmp_path)
    assert here.source != there.source
    assert here.counts.matmul - there.counts.matmul == 2 * 2 * 16 * 16
    assert my_shape(folder).counts == here.counts


def test_code_that_changed_since_the_plan_is_refused(make_config: MakeConfig, folder: Path) -> None:
    shape = dataclasses.replace(my_shape(folder), source="0" * 64)
    with pytest.raises(ValueError, match="must be that of the plan"):
        build_model(own(make_config, shape))
    with pytest.raises(ValueError, match="init must be own"):
        build_model(make_config(shape=shape))
