"""An experiment's file, what it is changed and compared by; rows M17, R13, X9."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from trainer.__main__ import main
from trainer.config import TrainConfig
from trainer.experiment import Experiment, check_variation, differences, parse_experiment

DIARIES = Path(__file__).resolve().parents[2] / "sweeps" / "diaries"
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


def test_latent_attention_and_experts_are_read() -> None:
    shape = diary("diary3-1").shape
    assert shape.latent is not None
    assert shape.experts is not None
    assert (shape.latent.q_latent, shape.experts.n_routed) == (8, 3)
    text = (DIARIES / "diary3-1.yaml").read_text()
    with pytest.raises(ValueError, match="top_k must not exceed n_routed"):
        parse_experiment(text.replace("top_k: 2", "top_k: 6"))
    with pytest.raises(ValueError, match=r"model.experts has the keys n_routed.*got 'top'"):
        parse_experiment(text.replace("top_k: 2", "top: 2"))


def test_a_single_sequence_through_one_layer_is_two_settings_away(tmp_path: Path) -> None:
    """The fallback of diary 3: the same command with two keys changed."""
    file = tmp_path / "small.yaml"
    file.write_text(SMALL.replace("n_layer: 1", "n_layer: 3"))
    arguments = [str(file), "--data", str(tmp_path / "d"), "--out", str(tmp_path / "o"), "--quiet"]
    settings = ["--set", "model.n_layer=1", "--set", "training.batch_sequences=1"]
    assert main([*arguments, *settings, "--device", "cpu", "--no-samples"]) == 0
    config = TrainConfig.from_json((tmp_path / "o" / "config.json").read_text())
    assert (config.shape.n_layer, config.batch_sequences) == (1, 1)
    assert (config.shape.d_model, config.steps) == (8, 4)


def test_changes_drop_what_the_file_says_of_its_own_run() -> None:
    changed = parse_experiment(
        (DIARIES / "diary1-5.yaml").read_text(), changes={"model.n_layer": 4, "training.seed": 3}
    )
    assert (changed.shape.n_layer, changed.length.seed) == (4, 3)
    assert changed.reported is changed.target is changed.varies is None
    assert changed.title.endswith("; model.n_layer = 4, training.seed = 3")


@pytest.mark.parametrize("key", ["n_layer", "reported.parameters", "model.latent.q_latent"])
def test_a_change_of_no_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"SECTION.KEY=VALUE with a section of data, model"):
        parse_experiment(SMALL, changes={key: 1})


def test_a_hypothesis_changes_the_axes_that_it_names_and_no_other() -> None:
    base, changed = diary("diary3-4.1"), diary("diary3-4.2-rate")
    assert differences(base, changed) == {"optimizer.learning_rate": (1e-5, 1e-4)}
    check_variation(changed, base)
    third = dataclasses.replace(changed, length=dataclasses.replace(changed.length, seed=1))
    with pytest.raises(ValueError, match=r"not named: training.seed; named without .*: none"):
        check_variation(third, base)
    with pytest.raises(ValueError, match=r"named without a difference: optimizer.learning_rate"):
        check_variation(changed, changed)


def test_differences_reach_into_parts_that_one_experiment_has_not() -> None:
    dense = parse_experiment(SMALL)
    routed = diary("diary3-1")
    found = differences(dense, routed)
    assert found["model.experts.top_k"] == (None, 2)
    assert "model.family" not in found


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("diary1-3", "exceeded: perplexity 65.71, declared 80 to 150"),
        ("diary1-4", "met: perplexity 46.33, declared 45 to 55"),
        ("diary1-5", "met: perplexity 38.21, declared 35 to 42"),
        ("diary1-6", "met: perplexity 28.05, declared 25 to 32"),
        ("diary1-7", "missed: perplexity 28.06, declared 26 to 27"),
    ],
)
def test_a_target_declared_before_gives_the_verdict_after(name: str, verdict: str) -> None:
    experiment = diary(name)
    assert experiment.target is not None
    assert experiment.reported is not None
    assert experiment.reported.validation_loss is not None
    assert experiment.target.verdict(experiment.reported.validation_loss) == verdict


@pytest.mark.parametrize("bounds", ["[2]", "[3, 2]", "[0.5, 2]"])
def test_a_target_must_be_a_range_of_perplexities(bounds: str) -> None:
    with pytest.raises(ValueError, match=r"target.perplexity must be the lowest and the highest"):
        parse_experiment(SMALL + f"target: {{perplexity: {bounds}}}\n")


def test_a_run_says_its_verdict_beside_what_was_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL + "target: {perplexity: [1, 2]}\n")
    out = ["--out", str(tmp_path / "o"), "--no-samples", "--device", "cpu", "--plot"]
    assert main([str(file), "--data", str(tmp_path / "d"), *out]) == 0
    assert "missed: perplexity 25" in capsys.readouterr().err
    assert (tmp_path / "o" / "curves.png").exists()


def test_an_experiment_is_described_and_compared_without_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(DIARIES / "diary2-02.yaml"), "--describe"]) == 0
    said = capsys.readouterr().out
    assert "parameters   232,320; without embedding and head 199,296 (85.79%)" in said
    assert "91.84 epochs of 7 batches" in said
    assert "no decay: the learning rate ends at 99.0% of its peak" in said
    other = ["--against", str(DIARIES / "diary3-4.1.yaml")]
    assert main([str(DIARIES / "diary3-4.2-rate.yaml"), *other]) == 0
    assert capsys.readouterr().out == "optimizer.learning_rate: 1e-05 -> 0.0001\n1 differences\n"
    assert main([str(DIARIES / "diary3-1.yaml"), "--describe"]) == 0
    assert "tokens       not known: [corpus-missing]" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "training needs --data and --out"),
        (["--set", "model.n_layer"], "--set takes KEY=VALUE"),
        (["--set", "model.depth=1"], "model has the keys family"),
    ],
)
def test_a_wrong_command_is_a_usage_error(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(DIARIES / "diary2-10.yaml"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_trials_configuration_is_neither_described_nor_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}")
    assert main([str(file), "--describe"]) == 2
    assert "only an experiment (a YAML file) is described" in capsys.readouterr().err
