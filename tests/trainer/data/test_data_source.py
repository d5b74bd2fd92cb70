"""`DataSource`: spelling of corpora and tokenizers, faults that need no file (rows T4, T5)."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.data.errors import DataError
from trainer.data.source import DataSource, corpus_kind, faults_of


@pytest.mark.parametrize(
    ("corpus", "kind"),
    [
        ("embedded", "embedded"),
        ("synthetic:simple", "synthetic"),
        ("roneneldan/TinyStories", "hub"),
        ("HuggingFaceFW/fineweb-edu:sample-10BT", "hub"),
        ("hub:imdb", "hub"),
        ("data/train.txt", "local"),
        ("data/train.jsonl", "local"),
        ("./data/train", "local"),
        ("/data/train", "local"),
        ("data/*.txt", "local"),
        ("a/b/c", "local"),
        ("train.txt", "local"),
    ],
)
def test_corpus_kind_follows_from_the_spelling(corpus: str, kind: str) -> None:
    assert corpus_kind(corpus) == kind
    assert DataSource(corpus=corpus).corpus_kind == kind


def test_several_corpora_are_local_even_when_one_looks_like_a_hub_name() -> None:
    assert DataSource(corpus=("data/train", "data/more")).corpus_kind == "local"


def test_hub_name_splits_into_name_and_configuration() -> None:
    hub = DataSource(corpus="Salesforce/wikitext:wikitext-2-raw-v1", validation="split:test").hub
    assert (hub.name, hub.config) == ("Salesforce/wikitext", "wikitext-2-raw-v1")


def test_importing_the_source_needs_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import trainer.data.source;"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names) - {'trainer'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_root()
    )
    assert done.stdout.strip() == "[]"


def _root() -> Path:
    return Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("fields", "rule", "words"),
    [
        ({"corpus": ""}, "corpus-unknown", "none of them empty"),
        ({"corpus": ()}, "corpus-unknown", "one or more"),
        ({"corpus": ("a.txt", "embedded")}, "corpus-unknown", "local paths only"),
        ({"corpus": "synthetic:simpel"}, "corpus-unknown", "did you mean 'simple'"),
        ({"corpus": "synthetic:markov?entropie=1"}, "option-unknown", "did you mean 'entropy'"),
        ({"corpus": "synthetic:markov?entropy=x"}, "option-value", "positive number"),
        ({"corpus": "synthetic:markov?entropy=9"}, "option-value", "below ln"),
        ({"corpus": "synthetic:markov?symbols=99"}, "option-value", "2 to 62"),
        ({"corpus": "synthetic:markov?order=9"}, "option-value", "order"),
        ({"corpus": "synthetic:simple?lines=1.5"}, "option-value", "whole number"),
        ({"corpus": "synthetic:simple?lines=0"}, "option-value", "whole number"),
        ({"tokenizer": "bytes"}, "tokenizer-unknown", "did you mean 'byte'"),
        ({"tokenizer": "charr"}, "tokenizer-unknown", "did you mean 'char'"),
        ({"tokenizer": "bpe"}, "tokenizer-unknown", "bpe:SIZE"),
        ({"tokenizer": "bpe:256"}, "tokenizer-unknown", "at least 257"),
        ({"tokenizer": "bpe:4k"}, "tokenizer-unknown", "bpe:SIZE"),
        ({"tokenizer": "bpee:4096"}, "tokenizer-unknown", "did you mean"),
        ({"tokenizer": " "}, "tokenizer-unknown", "byte, char"),
        ({"validation_fraction": 0.0}, "option-value", r"\(0, 0.5\]"),
        ({"validation_fraction": 0.51}, "option-value", r"\(0, 0.5\]"),
        ({"validation_fraction": float("nan")}, "option-value", r"\(0, 0.5\]"),
        ({"validation": "x.txt"}, "option-value", "holds out its own"),
        ({"corpus": "a.txt", "validation": "a.txt"}, "validation-overlap", "is both"),
        ({"corpus": "a.txt", "validation": "split:test"}, "option-value", "only a hub"),
        ({"corpus": "a.txt", "validation": " "}, "corpus-unknown", "must not be empty"),
        ({"document": "page"}, "option-value", "auto, line"),
        ({"separator": "eos"}, "option-value", "auto, none"),
    ],
)
def test_a_field_that_breaks_a_rule_is_refused_by_name(
    fields: dict[str, object], rule: str, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        DataSource(**fields)  # type: ignore[arg-type]
    assert caught.value.rule == rule


def test_all_faults_are_listed_in_one_pass() -> None:
    faults = faults_of(corpus="synthetic:x", tokenizer="bytes", validation_fraction=2.0)
    rules = [fault.rule for fault in faults]
    assert rules == ["corpus-unknown", "tokenizer-unknown", "option-value"]


def test_a_sound_source_has_no_faults() -> None:
    assert faults_of(corpus="train.txt", validation="val.txt", tokenizer="bpe:4096") == ()


def test_relative_paths_are_taken_from_a_given_folder(tmp_path: Path) -> None:
    source = DataSource(corpus=("a.txt", "/b.txt"), validation="c.txt", tokenizer="./tok").resolved(
        tmp_path
    )
    assert source.corpus == (str(tmp_path / "a.txt"), "/b.txt")
    assert source.validation == str(tmp_path / "c.txt")
    assert source.tokenizer == str(tmp_path / "tok")


@pytest.mark.parametrize("corpus", ["embedded", "owner/name", "synthetic:simple"])
def test_names_are_not_taken_for_paths(corpus: str, tmp_path: Path) -> None:
    source = DataSource(corpus=corpus, tokenizer="owner/tokenizer")
    assert source.resolved(tmp_path) == source


def test_an_error_says_rule_place_value_and_remedy_and_survives_pickling() -> None:
    error = DataError("a-rule", "a place", "it must be x; got y", "Write x")
    assert str(error) == "[a-rule] a place: it must be x; got y. Write x."
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.rule, copy.place, copy.message, copy.remedy) == error.args
