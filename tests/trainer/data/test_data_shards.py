"""Preparing, mapping and checking token files; concurrency and crashes (rows T4, T10, T11)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.data import shards
from trainer.data.errors import DataError
from trainer.data.manifest import MANIFEST_NAME, DataManifest, digest_of, dtype_for
from trainer.data.shards import Progress, TokenData, find_prepared, prepare
from trainer.data.source import DataSource

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ROOT = Path(__file__).resolve().parents[3]


def _open(source: DataSource, cache: Path) -> TokenData:
    return TokenData.open(prepare(source, cache_root=cache))


def _source(path: Path, **fields: object) -> DataSource:
    return DataSource(corpus=str(path), **fields)  # type: ignore[arg-type]


def _run(code: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **options,  # type: ignore[call-overload]
    )


# What a prepared folder holds


def test_bytes_of_both_splits_are_the_text_and_separators_stand_between_gaps(
    corpus_file: Path, cache: Path
) -> None:
    data = _open(_source(corpus_file), cache)
    text = corpus_file.read_bytes()
    train = bytes(data.train.astype(np.uint8))
    validation = bytes(data.validation.astype(np.uint8))
    assert all(part in text for part in train.split(b"\0") + validation.split(b"\0"))
    assert len(train.replace(b"\0", b"")) + len(validation.replace(b"\0", b"")) == len(text)
    assert 0 < train.count(b"\0") <= validation.count(b"\0") + 1
    assert not train.startswith(b"\0")
    assert not train.endswith(b"\0")


def test_a_file_with_validation_of_its_own_gives_exactly_its_bytes(
    corpus_file: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "val.txt").write_text("held out\n", encoding="utf-8")
    data = _open(_source(corpus_file, validation=str(tmp_path / "val.txt")), cache)
    assert bytes(data.train.astype(np.uint8)) == corpus_file.read_bytes()
    assert bytes(data.validation.astype(np.uint8)) == b"held out\n"


def test_documents_are_separated_unless_asked_not_to(tmp_path: Path, cache: Path) -> None:
    rows = "\n".join(json.dumps({"text": f"row {i}"}) for i in range(200))
    (tmp_path / "a.jsonl").write_text(rows, encoding="utf-8")
    marked = _open(_source(tmp_path / "a.jsonl"), cache)
    plain = _open(_source(tmp_path / "a.jsonl", separator="none"), cache)
    documents = marked.manifest.train_documents
    assert np.count_nonzero(np.asarray(marked.train) == 0) == documents - 1
    assert np.array_equal(marked.train[marked.train != 0], plain.train)
    assert (marked.manifest.separator, plain.manifest.separator) == (0, None)
    assert marked.manifest.train_bytes == plain.manifest.train_bytes + documents - 1


def test_counts_are_kept_apart_by_split_and_have_units(corpus_file: Path, cache: Path) -> None:
    data = _open(_source(corpus_file, separator="none"), cache)
    manifest = data.manifest
    text = corpus_file.read_text(encoding="utf-8")
    assert manifest.train_tokens == data.train.size
    assert manifest.validation_tokens == data.validation.size
    assert manifest.train_tokens + manifest.validation_tokens == len(text)
    assert manifest.train_bytes + manifest.validation_bytes == len(text)
    assert manifest.train_words + manifest.validation_words == len(text.split())
    assert manifest.train_distinct_tokens == len(set(data.train.tolist()))
    assert manifest.validation_distinct_tokens == len(set(data.validation.tolist()))
    assert manifest.validation_documents == 9
    assert manifest.bytes_per_token == 1.0
    assert {"*_tokens", "*_words", "*_bytes"} <= set(manifest.units)


def test_entropies_of_both_splits_are_in_the_manifest(corpus_file: Path, cache: Path) -> None:
    data = _open(_source(corpus_file), cache)
    for split, h1 in (
        ("train", data.manifest.train_unigram_entropy),
        ("validation", data.manifest.validation_unigram_entropy),
    ):
        p = np.bincount(getattr(data, split)) / getattr(data, split).size
        assert h1 == pytest.approx(-(p[p > 0] * np.log(p[p > 0])).sum())
    assert data.manifest.train_bigram_entropy < data.manifest.train_unigram_entropy
    assert data.manifest.uniform_entropy == pytest.approx(math.log(256))


def test_synthetic_corpora_record_their_entropy_rate(cache: Path) -> None:
    data = _open(DataSource(corpus="synthetic:simple", tokenizer="char"), cache)
    assert data.manifest.vocab_size == 15
    assert data.manifest.entropy_rate == pytest.approx(1.24134, abs=1e-5)
    assert data.manifest.train_documents == data.manifest.validation_documents == 1
    text = data.tokenizer().decode(data.train[:20].tolist())
    assert text.startswith(b"kidu;\nfejaki;\n")


def test_shared_fraction_is_recorded_and_too_much_is_refused(
    corpus_file: Path, cache: Path, tmp_path: Path
) -> None:
    lines = corpus_file.read_text(encoding="utf-8").splitlines()
    other = tmp_path / "val.txt"
    other.write_text("\n".join(f"{line} of its own" for line in lines[:90]), encoding="utf-8")
    data = _open(_source(corpus_file, validation=str(other)), cache)
    assert data.manifest.shared_fraction == 0.0
    other.write_text("\n".join(lines[:90]), encoding="utf-8")
    with pytest.raises(DataError, match="must not share text"):
        prepare(_source(corpus_file, validation=str(other)), cache_root=cache)


def test_large_text_gives_the_tokens_of_encoding_it_at_once(shared_text: Path, cache: Path) -> None:
    """249,887 GPT-2 tokens in the whole file: cutting it into parts changes none of them."""
    folder = shared_text / "wikitext-2-raw"
    source = _source(
        folder / "wiki.valid.raw",
        validation=str(folder / "wiki.test.raw"),
        tokenizer=str(shared_text / "gpt2-tokenizer"),
    )
    manifest = _open(source, cache).manifest
    assert (manifest.train_tokens, manifest.validation_tokens) == (249_887, 286_221)
    assert manifest.train_unigram_entropy == pytest.approx(7.1729, abs=6e-5)


def test_lines_without_separators_give_the_diarys_token_counts(
    shared_text: Path, cache: Path
) -> None:
    folder = shared_text / "wikitext-2-raw"
    source = _source(
        folder / "wiki.test.raw",
        validation=str(folder / "wiki.valid.raw"),
        tokenizer=str(shared_text / "gpt2-tokenizer"),
        document="line",
        separator="none",
    )
    manifest = _open(source, cache).manifest
    assert (manifest.train_tokens, manifest.validation_tokens) == (277_853, 242_643)
    assert manifest.validation_unigram_entropy == pytest.approx(7.2629, abs=6e-5)
    assert manifest.bytes_per_token == manifest.train_bytes / manifest.train_tokens


def test_char_vocabulary_is_the_corpus_own_and_new_characters_in_validation_are_refused(
    corpus_file: Path, cache: Path, tmp_path: Path
) -> None:
    data = _open(_source(corpus_file, tokenizer="char"), cache)
    assert data.manifest.vocab_size == len(set(corpus_file.read_text(encoding="utf-8")))
    (tmp_path / "val.txt").write_text("quick Ω\n", encoding="utf-8")
    with pytest.raises(DataError, match="'Ω'") as caught:
        prepare(
            _source(corpus_file, tokenizer="char", validation=str(tmp_path / "val.txt")),
            cache_root=cache,
        )
    assert caught.value.rule == "character-unknown"


def test_a_tokenizer_trained_here_learns_from_training_text_only(
    corpus_file: Path, cache: Path, tmp_path: Path
) -> None:
    validation = tmp_path / "val.txt"
    digests = set()
    for text in ("zzzz " * 500, "qqqq " * 500):
        validation.write_text(text, encoding="utf-8")
        source = _source(corpus_file, tokenizer="bpe:300", validation=str(validation))
        data = _open(source, cache)
        assert data.manifest.vocab_size == 300
        assert data.tokenizer().digest == data.manifest.tokenizer_digest
        digests.add(data.manifest.tokenizer_digest)
    assert len(digests) == 1


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "uint16"), (65_537, "uint32")])
def test_tokens_take_two_bytes_up_to_the_id_65535(vocab_size: int, dtype: str) -> None:
    assert dtype_for(vocab_size) == dtype


def test_a_large_vocabulary_is_stored_in_four_bytes(
    corpus_file: Path, cache: Path, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel(vocab={"<unk>": 0, "quick": 70_000}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "words").mkdir()
    backend.save(str(tmp_path / "words" / "tokenizer.json"))
    data = _open(_source(corpus_file, tokenizer=str(tmp_path / "words")), cache)
    assert (data.train.dtype, data.manifest.dtype) == (np.dtype("<u4"), "uint32")
    assert set(np.unique(data.train)) == {0, 70_000}
    assert (data.data_dir / "train.bin").stat().st_size == 4 * data.manifest.train_tokens


# The manifest


FINITE = st.floats(allow_nan=False, allow_infinity=False)
MANIFESTS = st.builds(
    DataManifest,
    train_unigram_entropy=FINITE,
    train_bigram_entropy=FINITE,
    validation_unigram_entropy=FINITE,
    validation_bigram_entropy=FINITE,
    digest=st.text(),
    vocab_size=st.integers(1, 1 << 31),
    dtype=st.sampled_from(["uint16", "uint32"]),
    source=st.text(),
    bytes_per_token=FINITE,
    separator=st.none() | st.integers(0, 1 << 31),
    entropy_rate=st.none() | st.floats(0, 10),
    shared_fraction=st.none() | st.floats(0, 1),
)


@UNTIMED
@given(MANIFESTS)
def test_a_manifest_comes_back_from_its_json(manifest: DataManifest) -> None:
    assert DataManifest.from_json(manifest.to_json()) == manifest


def test_a_manifest_never_holds_a_number_that_json_has_not(corpus_file: Path, cache: Path) -> None:
    manifest = _open(_source(corpus_file), cache).manifest
    with pytest.raises(ValueError, match="JSON"):
        dataclasses.replace(manifest, bytes_per_token=math.inf).to_json()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.pop("digest"), r"missing \['digest'\]"),
        (lambda record: record.update(extra=1), r"unknown \['extra'\]"),
        (lambda record: record.update(schema="trainer.data/9"), "got 'trainer.data/9'"),
    ],
)
def test_a_manifest_of_another_version_is_refused(
    corpus_file: Path, cache: Path, change, words: str
) -> None:
    folder = prepare(_source(corpus_file), cache_root=cache)
    record = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    change(record)
    (folder / MANIFEST_NAME).write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(DataError, match=words) as caught:
        TokenData.open(folder)
    assert caught.value.rule == "manifest-damaged"
    assert caught.value.place == str(folder / MANIFEST_NAME)


def test_a_manifest_that_is_no_json_is_refused(corpus_file: Path, cache: Path) -> None:
    folder = prepare(_source(corpus_file), cache_root=cache)
    (folder / MANIFEST_NAME).write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="not JSON"):
        TokenData.open(folder)


def test_a_folder_without_a_manifest_is_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold a manifest") as caught:
        TokenData.open(tmp_path)
    assert caught.value.rule == "tokens-missing"


# Opening


def test_tokens_cannot_be_written_through_the_map(corpus_file: Path, cache: Path) -> None:
    data = _open(_source(corpus_file), cache)
    with pytest.raises(ValueError, match="read-only"):
        data.train[0] = 1


@pytest.mark.parametrize("name", ["train.bin", "validation.bin"])
@pytest.mark.parametrize("change", [-1, -2, 1, 2])
def test_a_token_file_of_another_size_is_refused_by_name(
    corpus_file: Path, cache: Path, name: str, change: int
) -> None:
    folder = prepare(_source(corpus_file), cache_root=cache)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:change] if change < 0 else data + b"x" * change)
    with pytest.raises(DataError, match="bytes; the file has") as caught:
        TokenData.open(folder)
    assert (caught.value.rule, caught.value.place) == ("tokens-damaged", str(folder / name))
    with pytest.raises(DataError, match="bytes; the file has"):
        prepare(_source(corpus_file), cache_root=cache)


def test_a_missing_token_file_is_refused_by_name(corpus_file: Path, cache: Path) -> None:
    folder = prepare(_source(corpus_file), cache_root=cache)
    (folder / "validation.bin").unlink()
    with pytest.raises(DataError, match="it is not there") as caught:
        TokenData.open(folder)
    assert caught.value.place == str(folder / "validation.bin")


@pytest.mark.parametrize("name", ["train.bin", "validation.bin"])
def test_verify_finds_a_flipped_bit(corpus_file: Path, cache: Path, name: str) -> None:
    folder = prepare(_source(corpus_file), cache_root=cache)
    TokenData.open(folder).verify()
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(DataError, match="SHA-256") as caught:
        TokenData.open(folder).verify()
    assert caught.value.place == str(folder / name)


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe:300"])
def test_bytes_of_validation_tokens_are_those_of_their_text(
    corpus_file: Path, cache: Path, tokenizer: str
) -> None:
    data = _open(_source(corpus_file, tokenizer=tokenizer), cache)
    assert data.validation_bytes(data.manifest.validation_tokens) == (
        data.manifest.validation_bytes
    )
    head = data.validation_bytes(100)
    assert 100 <= head < data.manifest.validation_bytes
    if tokenizer != "bpe:300":
        assert head == 100


# Identity


def test_digest_is_of_tokens_and_tokenizer_not_of_paths(corpus_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "other.md"
    copy.parent.mkdir()
    copy.write_bytes(corpus_file.read_bytes())
    first = _open(_source(corpus_file), tmp_path / "one")
    second = _open(_source(copy), tmp_path / "two")
    assert first.manifest.digest == second.manifest.digest
    assert first.data_dir.name == second.data_dir.name
    assert first.manifest.digest == digest_of(
        train_sha256=hashlib.sha256(first.train.tobytes()).hexdigest(),
        validation_sha256=hashlib.sha256(first.validation.tobytes()).hexdigest(),
        tokenizer_digest=first.tokenizer().digest,
        vocab_size=256,
    )


def test_whatever_changes_the_tokens_changes_folder_and_digest(
    corpus_file: Path, cache: Path
) -> None:
    sources = [
        _source(corpus_file),
        _source(corpus_file, seed=1),
        _source(corpus_file, validation_fraction=0.2),
        _source(corpus_file, tokenizer="char"),
        _source(corpus_file, tokenizer="bpe:300"),
        _source(corpus_file, tokenizer="bpe:301"),
        _source(corpus_file, document="line"),
        _source(corpus_file, separator="none"),
    ]
    opened = [_open(source, cache) for source in sources]
    assert len({data.data_dir for data in opened}) == len(sources)
    assert len({data.manifest.digest for data in opened}) == len(sources)


def test_every_part_of_the_digest_counts() -> None:
    parts = {"train_sha256": "a", "validation_sha256": "b", "tokenizer_digest": "c"}
    first = digest_of(**parts, vocab_size=3)
    others = [digest_of(**{**parts, name: "x"}, vocab_size=3) for name in parts]
    assert len({first, digest_of(**parts, vocab_size=4), *others}) == 5


def test_changed_content_under_the_same_path_is_prepared_anew(
    corpus_file: Path, cache: Path
) -> None:
    first = _open(_source(corpus_file), cache)
    corpus_file.write_text("other " * 5000, encoding="utf-8")
    assert _open(_source(corpus_file), cache).manifest.digest != first.manifest.digest


# The cache


def test_a_second_call_finds_the_tokens_without_tokenising(
    corpus_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_prepared(_source(corpus_file), cache_root=cache) is None
    folder = prepare(_source(corpus_file), cache_root=cache)
    monkeypatch.delattr(shards, "_write")
    assert prepare(_source(corpus_file), cache_root=cache) == folder
    assert find_prepared(_source(corpus_file), cache_root=cache) == folder


def test_progress_reaches_the_size_of_the_corpus(
    corpus_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BATCH_BYTES", 10_000)
    seen: list[Progress] = []
    prepare(_source(corpus_file, tokenizer="char"), cache_root=cache, on_progress=seen.append)
    size = corpus_file.stat().st_size
    assert {progress.stage for progress in seen} == {"learning the tokenizer", "tokenising"}
    done = [progress.bytes_done for progress in seen if progress.stage == "tokenising"]
    assert done == sorted(done)
    assert len(done) > 5
    assert done[-1] == size
    assert all(progress.bytes_total == size for progress in seen)


def test_batches_and_pieces_do_not_show_in_the_tokens(
    corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _source(corpus_file, tokenizer="bpe:400")
    whole = _open(source, tmp_path / "whole")
    monkeypatch.setattr(shards, "BATCH_BYTES", 3_000)
    monkeypatch.setattr(shards, "PIECE_BYTES", 700)
    cut = _open(source, tmp_path / "cut")
    assert cut.manifest == whole.manifest


def test_text_is_encoded_in_bounded_batches(
    corpus_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.data.tokenizers import ByteTokenizer

    monkeypatch.setattr(shards, "BATCH_BYTES", 3_000)
    sizes: list[int] = []
    encode = ByteTokenizer.encode

    def watched(self: ByteTokenizer, texts, /):
        sizes.append(sum(map(len, texts)))
        return encode(self, texts)

    monkeypatch.setattr(ByteTokenizer, "encode", watched)
    prepare(_source(corpus_file), cache_root=cache)
    assert max(sizes) < 4_000
    assert len(sizes) > 20


def test_an_error_leaves_nothing_behind(corpus_file: Path, cache: Path) -> None:
    corpus_file.write_bytes(corpus_file.read_bytes() + b"\xff")
    with pytest.raises(DataError, match="must be UTF-8"):
        prepare(_source(corpus_file), cache_root=cache)
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.parametrize("text", ["", "short"])
def test_a_corpus_without_enough_text_is_refused(tmp_path: Path, cache: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="must hold text") as caught:
        prepare(_source(tmp_path / "a.txt"), cache_root=cache)
    assert caught.value.rule in ("corpus-empty", "validation-empty")


def test_a_corpus_that_changes_while_it_is_tokenised_is_refused(
    corpus_file: Path, cache: Path
) -> None:
    def append(_: Progress) -> None:
        corpus_file.write_text("other text\n" * 9000, encoding="utf-8")

    with pytest.raises(DataError, match="it changed") as caught:
        prepare(_source(corpus_file), cache_root=cache, on_progress=append)
    assert caught.value.rule == "corpus-changed"
    assert find_prepared(_source(corpus_file), cache_root=cache) is None


CRASH = """
import os, signal, sys
from pathlib import Path
from trainer.data import shards
from trainer.data.source import DataSource

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

where = sys.argv[3]
owner = shards if where != "replace" else shards.os
setattr(shards._SplitWriter if where == "close" else owner, where, die)
shards.prepare(DataSource(corpus=sys.argv[1]), cache_root=Path(sys.argv[2]))
"""


@pytest.mark.parametrize("where", ["close", "_manifest", "_sync_folder", "replace"])
def test_a_killed_preparer_leaves_nothing_that_is_taken_for_whole(
    corpus_file: Path, cache: Path, tmp_path: Path, where: str
) -> None:
    process = _run(CRASH, str(corpus_file), str(cache), where)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    source = _source(corpus_file)
    assert any(path.name.endswith(".partial") for path in cache.iterdir())
    assert find_prepared(source, cache_root=cache) is None
    data = _open(source, cache)
    data.verify()
    assert data.manifest == _open(source, tmp_path / "undisturbed").manifest
    assert not any(path.name.endswith(".partial") for path in cache.iterdir())


PREPARE = """
import sys
from pathlib import Path
from trainer.data import shards
from trainer.data.source import DataSource

write = shards._write
def watched(*args, **kwargs):
    print("writes", flush=True)
    sys.stdin.readline()
    write(*args, **kwargs)
shards._write = watched
print("starts", flush=True)
print(shards.prepare(DataSource(corpus=sys.argv[1]), cache_root=Path(sys.argv[2])))
"""


def test_two_processes_preparing_one_source_do_the_work_once(
    corpus_file: Path, cache: Path
) -> None:
    first = _run(PREPARE, str(corpus_file), str(cache))
    assert first.stdout is not None
    assert [first.stdout.readline() for _ in range(2)] == ["starts\n", "writes\n"]
    second = _run(PREPARE, str(corpus_file), str(cache))
    assert second.stdout is not None
    assert second.stdout.readline() == "starts\n"
    folder, _ = first.communicate("go on\n", timeout=60)
    other, _ = second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert folder == other
    TokenData.open(Path(folder.strip())).verify()
