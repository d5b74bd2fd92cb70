"""What a planner learns of a corpus, fast and without heavy imports; the embedded corpus."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.data import facts as facts_module
from trainer.data.corpora import EmbeddedCorpus
from trainer.data.errors import DataError
from trainer.data.facts import DataFacts, facts, require
from trainer.data.shards import TokenData, prepare
from trainer.data.source import DataSource

ROOT = Path(__file__).resolve().parents[3]


def _source(path: Path, **fields: object) -> DataSource:
    return DataSource(corpus=str(path), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("tokenizer", ["byte", "char"])
@pytest.mark.parametrize("separator", ["auto", "none"])
def test_facts_are_exact_before_preparing(
    corpus_file: Path, cache: Path, tokenizer: str, separator: str
) -> None:
    source = _source(corpus_file, tokenizer=tokenizer, separator=separator)
    before = facts(source, cache_root=cache)
    assert before.exact
    assert before.digest is None
    manifest = TokenData.open(prepare(source, cache_root=cache)).manifest
    after = facts(source, cache_root=cache)
    assert after.exact
    assert after.digest == manifest.digest
    assert after.train_tokens == manifest.train_tokens == before.train_tokens
    assert after.validation_tokens == manifest.validation_tokens == before.validation_tokens
    assert after.vocab_size == manifest.vocab_size == before.vocab_size
    assert before.bytes_per_token == pytest.approx(manifest.bytes_per_token)


def test_facts_of_a_trained_vocabulary_are_estimated_then_exact(
    shared_text: Path, cache: Path
) -> None:
    source = _source(shared_text / "femtogpt-english" / "dataset.txt", tokenizer="bpe:566")
    before = facts(source, cache_root=cache)
    assert not before.exact
    assert before.vocab_size == 566
    manifest = TokenData.open(prepare(source, cache_root=cache)).manifest
    assert before.train_tokens == pytest.approx(manifest.train_tokens, rel=0.05)
    assert facts(source, cache_root=cache).train_tokens == manifest.train_tokens


def test_facts_of_a_ready_tokenizer_are_estimated_from_a_sample(shared_text: Path) -> None:
    tokenizer = str(shared_text / "gpt2-tokenizer")
    found = facts(_source(shared_text / "peps" / "train.txt.xz", tokenizer=tokenizer))
    assert found.vocab_size == 50_257
    assert not found.exact
    assert found.train_tokens == pytest.approx(3_734_869 * 0.95, rel=0.1)


@pytest.mark.parametrize(("size", "ratio"), [(257, 1.0), (566, 2.0), (50_257, 4.4), (10**6, 4.4)])
def test_bytes_per_token_of_a_vocabulary_are_interpolated(size: int, ratio: float) -> None:
    assert facts_module._bpe_bytes_per_token(size) == pytest.approx(ratio)


def test_bytes_per_token_grow_with_the_vocabulary() -> None:
    ratios = [facts_module._bpe_bytes_per_token(size) for size in (300, 1000, 8192, 32_000)]
    assert ratios == sorted(ratios)
    assert 3.5 < ratios[2] < 4.4


@pytest.mark.parametrize("tokenizer", ["byte", "char"])
def test_large_files_are_estimated_without_reading_them_through(
    corpus_file: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str
) -> None:
    source = _source(corpus_file, tokenizer=tokenizer, separator="none")
    exact = facts(source)
    monkeypatch.setattr(facts_module, "READ_THROUGH_BYTES", 1000)
    monkeypatch.setattr(facts_module, "SAMPLE_BYTES", 10_000)
    estimate = facts(source)
    assert not estimate.exact
    assert estimate.train_tokens == pytest.approx(exact.train_tokens, rel=0.02)
    assert estimate.validation_tokens == pytest.approx(exact.validation_tokens, rel=0.2)


def test_validation_files_of_their_own_are_counted(corpus_file: Path, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("held out\n" * 9, encoding="utf-8")
    found = facts(_source(corpus_file, validation=str(tmp_path / "val.txt")))
    assert (found.train_tokens, found.validation_tokens) == (corpus_file.stat().st_size, 81)


def test_an_empty_corpus_is_refused_as_prepare_refuses_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("", encoding="utf-8")
    for tokenizer in ("byte", "char", "bpe:300"):
        with pytest.raises(DataError, match="must hold text") as caught:
            facts(_source(tmp_path / "a.txt", tokenizer=tokenizer))
        assert caught.value.rule == "corpus-empty"


HEAVY = """
import sys
from trainer.data.facts import facts
from trainer.data.source import DataSource
found = facts(DataSource(corpus=sys.argv[1]))
print(found.exact, found.train_tokens > 100, sorted(
    {"torch", "transformers", "datasets", "tokenizers", "pyarrow", "pandas"} & set(sys.modules)))
"""


@pytest.mark.parametrize("corpus", ["embedded", "file", "synthetic:simple"])
def test_facts_of_byte_sources_import_nothing_heavy(corpus: str, corpus_file: Path) -> None:
    name = str(corpus_file) if corpus == "file" else corpus
    done = subprocess.run(
        [sys.executable, "-c", HEAVY, name], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "True True []"


# require


def _facts(train: int, validation: int) -> DataFacts:
    return DataFacts(
        train_tokens=train,
        validation_tokens=validation,
        vocab_size=256,
        bytes_per_token=1.0,
        digest=None,
        exact=True,
    )


def test_a_corpus_of_one_batch_and_a_window_is_enough() -> None:
    require(_facts(8 * 128 + 1, 129), context=128, batch_sequences=8)


@pytest.mark.parametrize(
    ("train", "validation", "rule"),
    [(8 * 128, 129, "corpus-too-short"), (8 * 128 + 1, 128, "validation-too-short")],
)
def test_a_shorter_corpus_is_refused_with_the_least_that_works(
    train: int, validation: int, rule: str
) -> None:
    with pytest.raises(DataError, match=r"1,025 tokens|128 \+ 1 tokens") as caught:
        require(_facts(train, validation), context=128, batch_sequences=8)
    assert caught.value.rule == rule


# The embedded corpus


def test_the_embedded_corpus_is_about_ten_megabytes_of_python_source() -> None:
    found = facts(DataSource())
    total = found.train_tokens + found.validation_tokens
    assert found.exact
    assert total > 5_000_000
    assert 0.02 < found.validation_tokens / total < 0.10


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A small standard library with everything that is to be left out."""
    kept = [f"{name}.py" for name in "zbca"] + [f"pack/{i}.py" for i in range(40)]
    left_out = [
        "site-packages/x.py",
        "dist-packages/x.py",
        "test/x.py",
        "pack/tests/x.py",
        "idlelib/idle_test/x.py",
        "__pycache__/x.py",
        "_sysconfigdata__linux_x86_64.py",
        "notes.txt",
    ]
    for name in kept + left_out:
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n", encoding="utf-8")
    (tmp_path / "lib" / "latin.py").write_bytes(b"# \xe9\n")
    return tmp_path / "lib"


def _embedded(root: Path, *, seed: int = 0) -> EmbeddedCorpus:
    return EmbeddedCorpus(root=root, seed=seed, validation_fraction=0.2)


def test_the_embedded_corpus_leaves_out_packages_tests_and_machine_data(library: Path) -> None:
    names = [name for name, _ in _embedded(library).files()]
    expected = sorted([f"{name}.py" for name in "abcz"] + [f"pack/{i}.py" for i in range(40)])
    assert names == expected
    assert _embedded(library).skipped_documents() == 1


def test_an_embedded_file_keeps_its_split_when_its_content_changes(library: Path) -> None:
    before = [d.validation for d in _embedded(library).documents()]
    fingerprint = _embedded(library).fingerprint()
    assert 2 <= sum(before) <= 16
    for number, path in enumerate(sorted(library.rglob("*.py"))):
        path.write_text(f"changed = {number}\n", encoding="utf-8")
    (library / "latin.py").unlink()
    assert [d.validation for d in _embedded(library).documents()] == before
    assert _embedded(library).fingerprint() != fingerprint
    assert [d.validation for d in _embedded(library, seed=1).documents()] != before


def test_embedded_fingerprint_follows_relative_paths(library: Path) -> None:
    fingerprint = _embedded(library).fingerprint()
    moved = library.with_name("elsewhere")
    library.rename(moved)
    assert _embedded(moved).fingerprint() == fingerprint
    (moved / "a.py").rename(moved / "aa.py")
    assert _embedded(moved).fingerprint() != fingerprint


def test_a_python_without_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is none") as caught:
        _embedded(tmp_path).fingerprint()
    assert caught.value.rule == "corpus-empty"
