"""The files of the three diaries' experiments, read and dry-run.

Rows M1, M4, M16, M17, T2, T5, T6, T7, T8, T11, R3, R4, X1; the runs for real are in
`test_diary_runs.py`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from trainer.batches import TokenBatches, batches_per_epoch
from trainer.config import RunOptions, TrainConfig
from trainer.conversions import perplexity
from trainer.data.shards import TokenData, prepare
from trainer.description import Exposure, describe
from trainer.experiment import Experiment, check_variation, parse_experiment
from trainer.model.transformer import Transformer
from trainer.result import Interrupted
from trainer.run import run_trial
from trainer.schedule import check_schedule, multiplier

ROOT = Path(__file__).resolve().parents[2]
DIARIES = ROOT / "sweeps" / "diaries"
TEXTS = ROOT.parent / "shared" / "data" / "text"
PARAMETERS = {
    "diary1-1": 869_153,
    "diary1-2": 869_153,
    "diary1-3": 7_342_033,
    "diary1-4": 16_206_673,
    "diary1-5": 19_365_713,
    "diary1-6": 63_873_617,
    "diary1-7": 63_611_473,
    "diary2-01": 201_231,
    "diary2-02": 232_320,
    "diary2-03": 331_904,
    "diary2-04": 331_904,
    "diary2-05": 6_443_776,
    "diary2-06": 232_320,
    "diary2-07": 232_320,
    "diary2-08": 331_904,
    "diary2-09": 506_976,
    "diary2-10": 67_136,
    "diary2-11": 1_253_376,
    "diary2-12": 2_652_406,
    # Ours: canonical latent attention, experts of two matrices, a linear router.
    "diary3-1": 186_792_736,
    "diary3-2": 186_792_736,
    "diary3-3.1": 186_792_832,
    "diary3-3.2": 186_792_832,
    "diary3-3.3": 186_792_832,
    "diary3-4.1": 161_620_840,
    "diary3-4.2": 333_423_944,
    "diary3-4.2-context": 161_620_840,
    "diary3-4.2-depth": 333_423_944,
    "diary3-4.2-rate": 161_620_840,
    "diary3-5-schedule": 333_423_944,
    "diary3-6-bf16": 333_423_944,
    "diary3-7-width": 674_825_696,
    "diary3-7-depth": 376_374_720,
    "diary3-8-working": 674_825_696,
    "diary3-9-final": 469_264_496,
    "matched-gelu": 135_600,
    "matched-swiglu": 135_600,
}


def diary(name: str) -> Experiment:
    return parse_experiment((DIARIES / f"{name}.yaml").read_text())


def with_text(experiment: Experiment, folder: Path) -> Experiment:
    """The same experiment with its text in a folder, where the text is at hand."""
    places = {
        "ragit.txt": "ragit-rust/dataset.txt",
        "femtogpt-english.txt": "femtogpt-english/dataset.txt",
    }
    if experiment.data.corpus_kind == "local":
        name = Path(experiment.data.corpora[0]).name
        if not (TEXTS / places[name]).exists():
            pytest.skip(f"no {places[name]} among the shared texts")
        (folder / "text").mkdir()
        shutil.copy(TEXTS / places[name], folder / "text" / name)
    return dataclasses.replace(experiment, data=experiment.data.resolved(folder))


def prepared(experiment: Experiment, folder: Path) -> tuple[TrainConfig, Path]:
    data_dir = prepare(experiment.data, cache_root=folder / "tokens")
    manifest = TokenData.open(data_dir).manifest
    config = experiment.config(data_digest=manifest.digest, vocab_size=manifest.vocab_size)
    return config, data_dir


def names(diary_number: int) -> list[str]:
    return [name for name in PARAMETERS if name.startswith(f"diary{diary_number}")]


def test_every_experiment_of_the_diaries_has_its_file() -> None:
    assert {path.stem for path in DIARIES.glob("*.yaml")} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_file_states_the_model_that_is_built_and_its_run_fits(name: str) -> None:
    experiment = diary(name)
    assert experiment.reported is not None
    assert experiment.reported.parameters == PARAMETERS[name]
    with torch.device("meta"):
        model = Transformer(experiment.shape, seed=0, init=experiment.length.init)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    check_schedule(experiment.length.steps, experiment.schedule)
    config = experiment.config(data_digest="d", vocab_size=experiment.shape.vocab_size)
    assert TrainConfig.from_json(config.to_json()) == config
    assert config.tokens == experiment.reported.tokens


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_hypothesis_changes_the_axes_that_its_file_names(name: str) -> None:
    experiment = diary(name)
    if experiment.varies is not None:
        check_variation(experiment, diary(experiment.varies.base.removesuffix(".yaml")))


@pytest.mark.parametrize("name", [n for n in PARAMETERS if not n.startswith("diary3")])
def test_the_models_of_the_first_two_diaries_take_a_sequence(name: str) -> None:
    """Dry run without weights: a whole sequence goes in, a logit per token comes out."""
    shape = diary(name).shape
    with torch.device("meta"):
        model = Transformer(shape, seed=0, backend="sdpa", init=diary(name).length.init)
        logits = model(torch.zeros(1, shape.context, dtype=torch.long))
    assert logits.shape == (1, shape.context, shape.vocab_size)


@pytest.mark.parametrize(
    "name",
    [
        *("diary1-1", "diary2-01", "diary2-02", "diary2-03", "diary2-10"),
        *("matched-gelu", "matched-swiglu"),
    ],
)
def test_the_first_loss_of_the_small_ones_is_a_uniform_guess(name: str) -> None:
    shape = diary(name).shape
    model = Transformer(shape, seed=0, backend="block", init=diary(name).length.init).eval()
    ids = torch.randint(0, shape.vocab_size, (2, 65), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = float(model.loss(ids[:, :-1], ids[:, 1:]))
    assert loss == pytest.approx(math.log(shape.vocab_size), abs=0.1)


def test_the_third_diarys_model_cut_to_one_layer_guesses_uniformly() -> None:
    """Width, latents and experts as they are; one layer, and a context that a test can afford."""
    changes = {"model.n_layer": 1, "model.context": 16}
    for name in ("diary3-1", "diary3-3.3"):
        cut = parse_experiment((DIARIES / f"{name}.yaml").read_text(), changes=changes)
        model = Transformer(cut.shape, seed=0, backend="block", init=cut.length.init).eval()
        ids = torch.randint(0, 32_000, (1, 17), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            loss = float(model.loss(ids[:, :-1], ids[:, 1:]))
        assert loss == pytest.approx(math.log(32_000), abs=0.5)


@pytest.mark.parametrize("name", [*names(2), "matched-gelu"])
def test_an_experiment_of_diary_2_finds_its_tokens(name: str, tmp_path: Path) -> None:
    """Dry run: the tokens are there, with the stated vocabulary and enough held-out text."""
    config, data_dir = prepared(with_text(diary(name), tmp_path), tmp_path)
    data = TokenData.open(data_dir)
    assert config.validation_tokens < data.manifest.validation_tokens
    assert data.manifest.train_tokens > config.shape.context


@pytest.mark.parametrize("name", [*names(1), *names(3)])
def test_a_file_names_its_text_and_tokenizer_beside_itself(name: str) -> None:
    """No absolute path, and every place lies under the folder of the files."""
    source = diary(name).data.resolved(Path("/folder"))
    assert source.corpora[0].startswith("/folder/text/")
    assert source.validation is not None
    assert source.validation.startswith("/folder/text/")
    assert source.tokenizer == "gpt2" or source.tokenizer.startswith("/folder/text/")
    assert source.document == "line"


def gpt2_tokenizer(folder: Path, *, size: int) -> Path:
    """GPT-2's tokenizer cut to its first merges: `size` tokens with the end of text."""
    merges = (TEXTS / "gpt2-tokenizer" / "vocab.bpe").read_text(encoding="utf-8").splitlines()
    vocabulary = json.loads((TEXTS / "gpt2-tokenizer" / "encoder.json").read_text("utf-8"))
    kept = {token: number for token, number in vocabulary.items() if number < size - 1}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({**kept, "<|endoftext|>": size - 1}), "utf-8")
    # 256 bytes come first; line 0 is the version.
    (folder / "merges.txt").write_text("\n".join(merges[: 1 + size - 257]) + "\n", "utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"})
    )
    return folder


@pytest.mark.parametrize("name", ["diary1-1", "diary3-4.1"])
def test_a_large_experiment_goes_from_its_file_to_a_step_zero(name: str, tmp_path: Path) -> None:
    """Dry run with stand-ins for the texts: tokens, configuration and batch as in the real one."""
    if not TEXTS.is_dir():
        pytest.skip("the shared text corpora are not on this machine")
    experiment = diary(name)
    size = experiment.shape.vocab_size
    tokenizer = gpt2_tokenizer(tmp_path / "text" / f"bpe-{size}", size=size)
    texts = ("wikitext-2-raw/wiki.test.raw", "wikitext-2-raw/wiki.valid.raw")
    if name.startswith("diary3"):
        texts = ("overfit-100-lines/overfit.txt", "tinyshakespeare/input.txt")
    assert experiment.data.validation is not None
    for text, place in zip(
        texts, (*experiment.data.corpora, experiment.data.validation), strict=True
    ):
        shutil.copy(TEXTS / text, tmp_path / place)
    source = dataclasses.replace(experiment.data.resolved(tmp_path), tokenizer=str(tokenizer))
    config, data_dir = prepared(dataclasses.replace(experiment, data=source), tmp_path)
    data = TokenData.open(data_dir)
    assert data.manifest.vocab_size == config.shape.vocab_size == size
    assert config.validation_tokens < data.manifest.validation_tokens
    batch = TokenBatches(
        data.train, context=config.shape.context, batch_sequences=config.batch_sequences, seed=0
    ).at(0)
    assert batch.shape == (config.batch_sequences, config.shape.context + 1)
    assert batch.max() < size
    if name == "diary1-1":
        assert data.manifest.validation_tokens == 242_643
        assert describe(experiment, unique_tokens=242_643).steps_per_epoch == 60


def test_batches_of_an_epoch_follow_from_the_counts() -> None:
    """Experiments 1, 2 and 5 of diary 1, training and validation."""
    found = [
        batches_per_epoch(tokens, context=512, batch_sequences=batch)
        for batch, train in ((8, 2_347_038), (32, 115_716_078), (16, 115_716_078))
        for tokens in (train, 242_643)
    ]
    assert found == [573, 60, 7_063, 15, 14_126, 30]


def test_exposure_tells_unique_seen_and_epochs_apart() -> None:
    """Diary 1, experiment 1: 209 epochs of 2,347,038 tokens, not the 242,643 of validation."""
    exposure = Exposure(unique=2_347_038, seen=209 * 2_347_038)
    assert (exposure.seen, exposure.epochs) == (490_530_942, 209)
    described = describe(diary("diary1-1"), unique_tokens=2_347_038)
    assert described.exposure is not None
    # Whole windows and batches: 6,270 tokens less than 209 times all of them.
    assert described.exposure.seen == 209 * 573 * 8 * 512 == 490_524_672
    assert described.exposure.epochs == pytest.approx(209, abs=0.003)
    said = "\n".join(described.lines())
    assert "without embedding and head 6,592 (0.76%)" in said
    assert "2.7 unique and 564.4 seen tokens per parameter" in said


@pytest.mark.parametrize(
    ("name", "body", "share"),
    [("diary1-1", 6_592, 0.76), ("diary1-3", 793_344, 10.8), ("diary1-4", 3_159_552, 19.5)],
)
def test_the_first_diarys_models_are_mostly_embedding(name: str, body: int, share: float) -> None:
    described = describe(diary(name), unique_tokens=None)
    assert described.counts.body == body
    assert 100 * described.counts.body / described.counts.total == pytest.approx(share, abs=0.06)
    assert "mostly embedding" in [remark.name for remark in described.remarks]


@pytest.mark.parametrize("name", names(2))
def test_no_run_of_diary_2_decays_its_learning_rate(name: str) -> None:
    described = describe(diary(name), unique_tokens=None)
    assert 0.964 < described.last_rate < 0.998
    assert "no decay" in [remark.name for remark in described.remarks]


@pytest.mark.parametrize(
    ("name", "remarks"),
    [
        ("diary2-05", ["no decay", "starved"]),
        ("diary3-1", ["no decay", "narrow queries"]),
        ("diary3-4.1", ["no decay", "narrow queries", "nothing to route"]),
        ("diary3-9-final", ["narrow queries", "nothing to route"]),
        ("matched-swiglu", []),
    ],
)
def test_what_to_doubt_is_said_before_the_run(name: str, remarks: list[str]) -> None:
    found = describe(diary(name), unique_tokens=None).remarks
    assert [remark.name for remark in found] == remarks


def test_text_seen_many_times_is_said_before_the_run() -> None:
    repeated, fresh = (
        describe(diary("matched-gelu"), unique_tokens=unique).remarks
        for unique in (56_000, 1_638_400)
    )
    assert [remark.name for remark in repeated] == ["repeated text"]
    assert fresh == ()


def test_the_learning_rates_of_diary_2_are_those_of_its_program() -> None:
    """0 before the first update, 0.001 at 100, then down by 0.00099 over 50,000 steps."""
    schedule = diary("diary2-02").schedule
    steps = (0, 100, 629, 50_100, 59_000)
    rates = [0.001 * multiplier(step - 1, 60_000, schedule) for step in steps]
    assert rates == pytest.approx([0.0, 0.001, 0.00098953, 0.00001, 0.00001], rel=1e-4)


def test_the_learning_rate_of_diary_1_is_constant() -> None:
    experiment = diary("diary1-1")
    steps = experiment.length.steps
    assert {multiplier(s, steps, experiment.schedule) for s in (0, 1, steps // 2, steps - 1)} == {1}


def test_the_knots_of_diary_3_are_reached_and_held_to_the_end() -> None:
    experiment = diary("diary3-9-final")
    steps, peak = experiment.length.steps, experiment.optimizer.learning_rate
    rates = [
        peak * multiplier(step - 1, steps, experiment.schedule)
        for step in (2_500, 5_000, 6_000, 15_000, steps)
    ]
    assert rates == pytest.approx([5e-5, 1e-4, 5e-5, 1e-5, 1e-5])


def test_the_reported_losses_of_diary_1_are_its_perplexities() -> None:
    reported = [diary(name).reported for name in names(1)]
    losses = [r.validation_loss for r in reported if r is not None and r.validation_loss]
    stated = [464.66, 364.71, 65.71, 46.33, 38.21, 28.05, 28.06]
    assert [round(perplexity(loss), 2) for loss in losses] == stated


def test_the_third_diarys_counts_differ_from_ours_by_its_attention_alone() -> None:
    """184,654,336 with its latent attention of 2,168,832, two-matrix experts, a linear router."""
    gelu = diary("diary3-2").reported
    assert gelu is not None
    assert gelu.parameters - 12 * (2_347_032 - 2_168_832) == 184_654_336


def test_matched_parameters_are_equal_to_the_last_one() -> None:
    gelu, swiglu = (diary(f"matched-{name}") for name in ("gelu", "swiglu"))
    for name in ("total", "body", "matmul"):
        counts = [getattr(describe(e, unique_tokens=None).counts, name) for e in (gelu, swiglu)]
        assert counts[0] == counts[1]
    assert describe(gelu, unique_tokens=None).flops == describe(swiglu, unique_tokens=None).flops


def test_the_first_60_steps_of_diary_2_experiment_10_learn(tmp_path: Path) -> None:
    """The run itself, cut short: half of its warmup, from ln V downwards."""
    config, data_dir = prepared(diary("diary2-10"), tmp_path)
    options = RunOptions(data_dir=data_dir, device="cpu", log_points=config.steps, samples=False)
    asked = itertools.count(1)
    with pytest.raises(Interrupted, match="after step 60"):
        run_trial(config, options, tmp_path / "out", should_stop=lambda: next(asked) == 60)
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert len(losses) == 60
    assert losses[0] == pytest.approx(math.log(256), abs=0.01)
    assert losses[-1] < 5.45
