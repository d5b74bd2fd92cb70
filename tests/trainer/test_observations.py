"""What a model is taught and what it says, recorded unasked; rows S4, T9, X4, X5, X6, X8."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.batches import TokenBatches
from trainer.config import RunOptions, TrainConfig
from trainer.data.shards import TokenData
from trainer.evaluate import Evaluation
from trainer.model.transformer import Transformer
from trainer.observations import (
    CONTINUATION_TOKENS,
    _Words,
    held_out_prompts,
    logit_statistics,
    observe,
    predictions,
)
from trainer.result import FIRST_BATCH_NAME, OBSERVATION_NAMES
from trainer.run import run_trial
from trainer.shapes import preset

SAID = tuple(name for name in OBSERVATION_NAMES if name != FIRST_BATCH_NAME)
"""Files of a trained model, without what it is taught."""

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def model() -> Transformer:
    shape = preset("llama", d_model=16, n_layer=2, n_head=2, vocab_size=256, context=32)
    return Transformer(shape, seed=0, backend="block")


def test_every_run_leaves_its_samples_predictions_and_logits(
    make_config: MakeConfig, options: RunOptions, token_data: TokenData, tmp_path: Path
) -> None:
    run_trial(make_config(), options, tmp_path)
    text = (tmp_path / "samples.txt").read_text()
    held_out = bytes(token_data.validation[:16].tolist()).decode()
    assert held_out in text
    assert text.count("=== prompt") == 2
    assert text.count("--- greedy, 40 tokens, repetition ") == 2
    # The corpus is one of sums, so the lines can be counted.
    assert text.count("lines follow the grammar, ") == 4
    assert text.count("--- top-50, 40 tokens, repetition ") == 2
    for prompt in json.loads((tmp_path / "predictions.json").read_text())["prompts"]:
        assert len(prompt["next"]) == 10
    logits = json.loads((tmp_path / "logits.json").read_text())
    assert sum(logits["counts"]) == logits["positions"] * 256


def test_recording_can_be_turned_off_and_changes_no_loss(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = make_config(dropout=0.1)
    recorded = run_trial(config, options, tmp_path / "on")
    silent = run_trial(config, dataclasses.replace(options, samples=False), tmp_path / "off")
    assert (recorded.loss, recorded.loss_se, recorded.train_loss) == (
        silent.loss, silent.loss_se, silent.train_loss
    )  # fmt: skip
    assert not any((tmp_path / "off" / name).exists() for name in OBSERVATION_NAMES)


def test_the_same_model_is_described_with_the_same_bytes(
    model: Transformer, token_data: TokenData, tmp_path: Path
) -> None:
    state = torch.random.get_rng_state()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        observe(model, token_data, tmp_path / name)
    for name in SAID:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert torch.equal(state, torch.random.get_rng_state())


def test_prompts_depend_on_the_data_and_are_followed_by_what_follows() -> None:
    tokens = np.arange(200, dtype=np.uint16)
    first, second = held_out_prompts(tokens, context=64)
    assert first.tokens == tuple(range(32))
    assert second.tokens == tuple(range(100, 132))
    assert (first.following, second.following) == (32, 132)
    assert [len(p.tokens) for p in held_out_prompts(tokens, context=8)] == [4, 4]
    assert [p.start for p in held_out_prompts(tokens[:5], context=64)] == [0, 0]


def test_listed_probabilities_are_the_softmax_and_sum_to_at_most_one(
    model: Transformer, token_data: TokenData
) -> None:
    prompts = held_out_prompts(token_data.validation, context=32)
    words = _Words(token_data.tokenizer(), token_data.manifest.separator)
    for prompt, found in zip(prompts, predictions(model, prompts, words), strict=True):
        logits = model(torch.tensor([prompt.tokens]))[0, -1].detach().float()
        wanted = logits.softmax(-1).sort(descending=True)
        assert [item["token"] for item in found["next"]] == wanted.indices[:10].tolist()
        shown = [item["probability"] for item in found["next"]]
        assert shown == pytest.approx(wanted.values[:10].tolist(), rel=1e-5)
        assert 0 < sum(shown) <= 1
        assert found["following"]["token"] == prompt.following


def test_logits_are_summed_up_as_they_are(model: Transformer, token_data: TokenData) -> None:
    found = logit_statistics(model, token_data.validation)
    windows = np.asarray(token_data.validation[:512]).astype(np.int64).reshape(16, 32)
    logits = model(torch.from_numpy(windows)).detach().double()
    assert found["positions"] == 512
    assert found["mean"] == pytest.approx(float(logits.mean()), abs=1e-6)
    assert found["sd"] == pytest.approx(float(logits.std()), rel=1e-5)
    assert found["edges"][0] == pytest.approx(float(logits.min()), rel=1e-4)
    assert found["edges"][-1] == pytest.approx(float(logits.max()), rel=1e-4)
    assert len(found["counts"]) == len(found["edges"]) - 1


def test_an_embedding_of_unit_variance_shows_in_the_width_of_the_logits(
    token_data: TokenData,
) -> None:
    """A tied head of unit variance after a norm has logits of sd sqrt(d): 4.0 at d = 16."""
    shape = preset("gpt", d_model=16, n_layer=2, n_head=2, vocab_size=256, context=32)
    model = Transformer(shape, seed=0, backend="block")
    sound = logit_statistics(model, token_data.validation)["sd"]
    with torch.no_grad():
        model.embedding.normal_(generator=torch.Generator().manual_seed(0))
    assert sound < 1.0
    assert logit_statistics(model, token_data.validation)["sd"] == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize(("d_model", "sd"), [(16, 4.0), (128, 11.3)])
def test_the_logits_of_the_first_diarys_initialisation_are_sqrt_d_wide(
    d_model: int, sd: float, token_data: TokenData
) -> None:
    shape = preset("gpt", d_model=d_model, n_layer=1, n_head=2, vocab_size=5000, context=32)
    model = Transformer(shape, seed=0, backend="block")
    with torch.no_grad():
        model.embedding.normal_(generator=torch.Generator().manual_seed(0))
    found = logit_statistics(model, token_data.validation)["sd"]
    assert found == pytest.approx(sd, rel=0.05)


def test_the_first_batch_is_written_down_with_its_targets_shifted_by_one(
    make_config: MakeConfig, options: RunOptions, token_data: TokenData, tmp_path: Path
) -> None:
    config = make_config()
    run_trial(config, options, tmp_path)
    text = (tmp_path / FIRST_BATCH_NAME).read_text()
    batches = TokenBatches(token_data.train, context=32, batch_sequences=4, seed=config.seed)
    for row in batches.at(0):
        given, wanted = bytes(row[:-1].tolist()).decode(), bytes(row[1:].tolist()).decode()
        assert given[1:] == wanted[:-1]
        assert f"--- input\n{given}\n--- target\n{wanted}\n" in text
    assert text.count("=== sequence") == 4


def test_dropout_is_off_while_a_model_is_described(token_data: TokenData, tmp_path: Path) -> None:
    shape = preset("gpt", d_model=16, n_layer=2, n_head=2, vocab_size=256, context=32)
    model = Transformer(shape, seed=0, backend="block", dropout=0.5)
    observe(model.eval(), token_data, tmp_path)
    quiet = [(tmp_path / name).read_bytes() for name in SAID]
    observe(model.train(), token_data, tmp_path)
    assert [(tmp_path / name).read_bytes() for name in SAID] == quiet
    assert model.training


def test_a_large_vocabulary_is_looked_at_in_fewer_places(token_data: TokenData) -> None:
    shape = preset("gpt", d_model=8, n_layer=1, n_head=1, vocab_size=20_000, context=32)
    found = logit_statistics(Transformer(shape, seed=0, backend="block"), token_data.validation)
    assert found["positions"] == 26
    assert sum(found["counts"]) == 26 * 20_000


def test_ids_without_text_are_shown_in_brackets(token_data: TokenData) -> None:
    words = _Words(token_data.tokenizer(), 0)
    assert words.text([97, 0, 98, 300, 255]) == "a[end of document]b[token 300]\ufffd"


def test_a_loop_is_seen_in_the_repetition(token_data: TokenData, tmp_path: Path) -> None:
    """A model that always says the same thing is flagged by its number."""
    shape = preset(
        "gpt", d_model=8, n_layer=1, n_head=1, vocab_size=256, context=32, head_bias=True
    )
    model = Transformer(shape, seed=0, backend="block")
    with torch.no_grad():
        model.head_bias[97] = 1e3
    observe(model, token_data, tmp_path)
    text = (tmp_path / "samples.txt").read_text()
    assert "a" * CONTINUATION_TOKENS in text
    assert "greedy, 40 tokens, repetition 0.973, degenerate: a loop; 0 of 0 lines" in text


def test_a_model_that_always_says_the_same_is_recorded_as_degenerate(
    make_config: MakeConfig,
    options: RunOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mutant: every logit but one's is pushed down, whatever was read."""
    compute = Transformer.logits

    def constant(model: Transformer, hidden: torch.Tensor) -> torch.Tensor:
        bias = torch.zeros(256)
        bias[97] = 1e3
        return compute(model, hidden) + bias

    monkeypatch.setattr(
        "trainer.execution.evaluate", lambda *_, **__: Evaluation(loss=2.0, loss_se=0.1, tokens=512)
    )
    with monkeypatch.context() as patch:
        patch.setattr(Transformer, "logits", constant)
        result = run_trial(make_config(steps=3), options, tmp_path)
    assert result.repetition == 1.0 - 1 / 253
    assert "degenerate greedy text" in [note.split(":")[0] for note in result.notes]
