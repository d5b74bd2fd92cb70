"""An experiment's file, and the files of both diaries; rows M1, M4, M17, T1-T6, R3, X1."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path

import pytest

from trainer.__main__ import main
from trainer.config import RunOptions, TrainConfig
from trainer.conversions import perplexity
from trainer.data.shards import TokenData, prepare
from trainer.experiment import Experiment, parse_experiment
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
}
SMALL = """\
title: small
data: {corpus: "synthetic:simple?lines=300", tokenizer: byte, validation_fraction: 0.2}
model: {family: femto, d_model: 8, n_layer: 1, n_head: 2, vocab_size: 256, context: 16}
optimizer: {learning_rate: 0.001}
schedule: {name: linear, warmup_steps: 2}
training: {steps: 4, batch_sequences: 2, validation_tokens: 64}
"""


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


def test_every_experiment_of_the_diaries_has_its_file() -> None:
    assert {path.stem for path in DIARIES.glob("*.yaml")} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_diarys_experiment_builds_the_model_it_was_run_with(name: str) -> None:
    experiment = diary(name)
    assert experiment.reported is not None
    assert experiment.reported.parameters == PARAMETERS[name]
    model = Transformer(experiment.shape, seed=0, init=experiment.length.init)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    check_schedule(experiment.length.steps, experiment.schedule)
    config = experiment.config(data_digest="d", vocab_size=experiment.shape.vocab_size)
    assert TrainConfig.from_json(config.to_json()) == config
    assert config.tokens == experiment.reported.tokens


@pytest.mark.parametrize("name", [name for name in PARAMETERS if name.startswith("diary2")])
def test_an_experiment_of_diary_2_finds_its_tokens(name: str, tmp_path: Path) -> None:
    """Dry run: the tokens are there, with the stated vocabulary and enough held-out text."""
    config, data_dir = prepared(with_text(diary(name), tmp_path), tmp_path)
    data = TokenData.open(data_dir)
    assert config.validation_tokens < data.manifest.validation_tokens
    assert data.manifest.train_tokens > config.shape.context


def test_the_learning_rates_of_diary_2_are_those_of_its_program() -> None:
    schedule = diary("diary2-02").schedule
    rates = [0.001 * multiplier(step - 1, 60_000, schedule) for step in (100, 629, 50_100, 59_000)]
    assert rates == pytest.approx([0.001, 0.00098953, 0.00001, 0.00001], rel=1e-4)


def test_the_learning_rate_of_diary_1_is_constant() -> None:
    experiment = diary("diary1-1")
    steps = experiment.length.steps
    assert {multiplier(s, steps, experiment.schedule) for s in (0, 1, steps // 2, steps - 1)} == {1}


def test_the_reported_losses_of_diary_1_are_its_perplexities() -> None:
    reported = [diary(f"diary1-{n}").reported for n in range(1, 6)]
    losses = [r.validation_loss for r in reported if r is not None and r.validation_loss]
    assert [round(perplexity(loss), 2) for loss in losses] == [464.66, 364.71, 65.71, 46.33, 38.21]


def test_a_hypothesis_of_the_diaries_changes_what_it_names() -> None:
    """Diary 1: 1 to 2 changes data and length, 4 to 5 the depth (and the batch that was run)."""
    first, second, fourth, fifth = (diary(f"diary1-{n}") for n in (1, 2, 4, 5))
    assert first.shape == second.shape
    assert (first.optimizer, first.schedule) == (second.optimizer, second.schedule)
    assert first.data != second.data
    assert dataclasses.replace(fourth.shape, n_layer=8) == fifth.shape
    assert (fourth.data, fourth.optimizer) == (fifth.data, fifth.optimizer)


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


def test_an_experiment_trains_from_its_file(tmp_path: Path) -> None:
    """Its paths are taken from the file's own folder."""
    file = tmp_path / "small.yaml"
    (tmp_path / "words.txt").write_text("".join(f"line number {n}\n" for n in range(200)))
    corpus = 'corpus: "synthetic:simple?lines=300"'
    file.write_text(SMALL.replace(corpus, "corpus: words.txt, document: line"))
    arguments = [str(file), "--data", str(tmp_path / "d"), "--out", str(tmp_path / "o"), "--quiet"]
    assert main([*arguments, "--no-samples", "--device", "cpu"]) == 0
    assert (tmp_path / "o" / "result.json").exists()
    assert not (tmp_path / "o" / "samples.txt").exists()


def test_a_wrong_file_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL.replace("steps: 4", "steps: four"))
    assert main([str(file), "--data", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "training.steps must be a whole number, got 'four'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: small", "title: [1]", "title must be one line of text"),
        ("title: small", "tilte: small", "the file has the keys title, data.*got 'tilte'"),
        ("title: small\n", "", "the file must have the key 'title'"),
        ("family: femto", "family: big", "model.family must be one of gpt, llama.*got 'big'"),
        ("d_model: 8, ", "", "model must have the key 'd_model'"),
        ("d_model: 8", "d_modle: 8", "model has the keys family.*got 'd_modle'"),
        ("n_head: 2", "n_head: 3", "n_head must divide d_model"),
        ("0.001", "1e-3", r"learning_rate must be a number, got '1e-3' \(write 0.001 or 1.0e-3"),
        ("name: linear", "name: sine", "schedule.name must be one of cosine, wsd.*got 'sine'"),
        ("steps: 4", "steps: true", "training.steps must be a whole number, got True"),
        ("tokenizer: byte, ", "", "data must have the key 'tokenizer'"),
        ("training: {", "training: {unit: 3, ", "training has the keys steps.*got 'unit'"),
        ("training: {steps: 4", "training: 4 #", "training must be a mapping of keys to values"),
        ("title: small", "title: [", "an experiment must be YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_key(old: str, new: str, message: str) -> None:
    assert old in SMALL
    with pytest.raises(ValueError, match=message):
        parse_experiment(SMALL.replace(old, new, 1))


def test_reported_counts_must_be_those_of_the_file() -> None:
    with pytest.raises(ValueError, match=r"reported.parameters must be .*which has 5,2\d\d, got 7"):
        parse_experiment(SMALL + "reported: {parameters: 7, tokens: 128}\n")
    text = (DIARIES / "diary2-10.yaml").read_text().replace("steps: 528", "steps: 529")
    with pytest.raises(ValueError, match=r"must be steps .* = 1,083,392, got 1,081,344"):
        parse_experiment(text)


def test_the_vocabulary_must_be_the_tokenizers() -> None:
    with pytest.raises(ValueError, match=r"model.vocab_size must be .* 15, got 256"):
        parse_experiment(SMALL).config(data_digest="d", vocab_size=15)


def test_points_of_a_schedule_and_lists_of_files_are_read() -> None:
    points = "{name: points, points: [[0, 0], [4, 1.0]]}"
    text = SMALL.replace("{name: linear, warmup_steps: 2}", points)
    text = text.replace('"synthetic:simple?lines=300"', "[a.txt, b.txt]")
    experiment = parse_experiment(text)
    assert experiment.schedule.points == ((0, 0), (4, 1.0))
    assert experiment.data.corpora == ("a.txt", "b.txt")
