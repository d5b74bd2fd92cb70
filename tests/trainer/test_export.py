"""Exported folders load with `AutoModelForCausalLM`, give our logits and generate our text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer.export import IsosweepConfig, IsosweepForCausalLM, export
from trainer.generate import generate
from trainer.model.transformer import Transformer
from trainer.shapes import preset

SIZES = {"d_model": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "context": 24}


@pytest.mark.parametrize(
    ("family", "overrides", "kind"),
    [
        ("gpt", {}, "GPT2LMHeadModel"),
        ("gpt", {"activation": "relu", "tied_head": False}, "GPT2LMHeadModel"),
        ("llama", {}, "LlamaForCausalLM"),
        ("llama", {"n_kv_head": 1, "tied_head": True}, "LlamaForCausalLM"),
        ("gpt", {"head_bias": True}, "IsosweepForCausalLM"),
        ("gpt", {"position": "rotary"}, "IsosweepForCausalLM"),
        ("llama", {"rotary_layout": "interleaved"}, "IsosweepForCausalLM"),
        ("femto", {}, "IsosweepForCausalLM"),
        ("deepseek", {}, "IsosweepForCausalLM"),
    ],
)
def test_an_exported_model_is_the_same_function(
    family: str, overrides: dict, kind: str, tmp_path: Path
) -> None:
    model = Transformer(preset(family, **{**SIZES, **overrides}), seed=0, backend="block").eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    assert export(model, tmp_path / "model") == kind
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert type(loaded).__name__ == kind
    ids = torch.randint(0, 50, (2, 20), generator=generator)
    with torch.no_grad():
        assert (loaded(ids).logits - model(ids)).abs().max() < 1e-5
    prompt = [1, 2, 3]
    text = loaded.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, 3, dtype=torch.long),
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
    )
    assert text[0, 3:].tolist() == generate(model, prompt, count=12)


def test_padding_and_labels_of_our_own_class() -> None:
    shape = preset("femto", **SIZES)
    config = IsosweepConfig(shape=dataclasses.asdict(shape))
    model = IsosweepForCausalLM(config)
    ids = torch.arange(20).view(2, 10)
    expected = model.model.loss(ids[:, :-1], ids[:, 1:])
    assert model(ids, labels=ids).loss.item() == pytest.approx(expected.item(), rel=1e-6)
    with pytest.raises(ValueError, match="takes no padding"):
        model(ids, attention_mask=torch.zeros_like(ids))


def test_the_tokenizers_files_are_copied_beside_the_model(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    export(Transformer(preset("gpt", **SIZES), seed=0), tmp_path / "m", tokenizer_dir=tokenizer)
    assert (tmp_path / "m" / "tokenizer.json").read_text() == "{}"
