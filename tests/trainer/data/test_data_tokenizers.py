"""Tokenizers: byte, char, BPE trained here, GPT-2, Hugging Face folders (rows T1-T3, T7)."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from trainer.data.backend import hf_identity, open_hf, train_bpe
from trainer.data.bpe import byte_alphabet, learn_merges
from trainer.data.errors import DataError
from trainer.data.source import DataSource
from trainer.data.tokenizers import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    load_tokenizer,
    tokenizer_identity,
)

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SAMPLE = "The naïve café, 1 234 €: 😀\n\n\tdef f(x):\n        return x  # ok\n"


def _round_trip(tokenizer: Tokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer.encode([text.encode()])[0].tolist()).decode()


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_bpe([(SAMPLE * 3).encode()], size=300, place="here")


# Byte


def test_every_byte_is_its_own_token() -> None:
    every = bytes(range(256))
    tokens = ByteTokenizer().encode([every])[0]
    assert tokens.tolist() == list(range(256))
    assert ByteTokenizer().decode(tokens.tolist()) == every


@UNTIMED
@given(st.binary(max_size=300))
def test_bytes_come_back(data: bytes) -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode([data])[0].tolist()) == data


def test_byte_vocabulary_is_256_and_its_separator_is_no_character_of_text() -> None:
    assert ByteTokenizer().vocab_size == 256
    assert ByteTokenizer().separator == 0
    assert b"\0" not in SAMPLE.encode()


# Char


@UNTIMED
@given(st.text(min_size=1, max_size=200))
def test_characters_come_back(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    tokenizer = CharTokenizer(characters="".join(sorted(set(text + "x"))))
    assert _round_trip(tokenizer, text) == text
    assert tokenizer.encode([text.encode()])[0].size == len(text)


def test_character_ids_are_places_in_the_sorted_set() -> None:
    tokenizer = CharTokenizer(characters="abé😀")
    assert tokenizer.encode(["b😀aé".encode()])[0].tolist() == [1, 3, 0, 2]
    assert (tokenizer.vocab_size, tokenizer.separator) == (4, None)


@pytest.mark.parametrize(("text", "name"), [("abz", "'z'"), ("aA", "'A'"), ("😀", "U\\+1F600")])
def test_a_character_outside_the_vocabulary_is_refused_by_name(text: str, name: str) -> None:
    with pytest.raises(DataError, match=name) as caught:
        CharTokenizer(characters="abc").encode([b"abc", text.encode()])
    assert caught.value.rule == "character-unknown"


# Byte-pair encoding


def test_merges_equal_the_published_reference(shared_text: Path) -> None:
    folder = shared_text / "bpe-reference"
    tokenizer = train_bpe([(folder / "corpus.en").read_bytes()], size=500, place="corpus.en")
    merges = json.loads(tokenizer.backend.to_str())["model"]["merges"]
    lines = (folder / "train-bpe-reference-merges.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 243
    assert merges == [line.split(" ") for line in lines]
    reference = json.loads((folder / "train-bpe-reference-vocab.json").read_text("utf-8"))
    assert set(tokenizer.backend.get_vocab()) == set(reference)


def test_bpe_vocabulary_is_exactly_as_asked_and_saved_and_loaded_alike(
    trained: Tokenizer, tmp_path: Path
) -> None:
    assert trained.vocab_size == 300
    trained.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.name, loaded.vocab_size, loaded.separator) == ("bpe:300", 300, 0)
    assert loaded.digest == trained.digest
    first, second = (t.encode([SAMPLE.encode()])[0].tolist() for t in (trained, loaded))
    assert first == second


@UNTIMED
@given(text=st.text(max_size=200))
def test_bpe_gives_any_text_back(trained: Tokenizer, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    assert _round_trip(trained, text) == text


@UNTIMED
@given(
    st.lists(st.sampled_from(["a" * n for n in range(1, 12)] + ["ab", "ba"]), min_size=1),
    st.integers(0, 12),
)
def test_vocabulary_is_exact_or_refused_with_what_the_words_reach(
    words: list[str], symbols: int
) -> None:
    counted = [(word.encode(), words.count(word)) for word in sorted(set(words))]
    reachable = len({a + b for a, b in _slow_merges(dict(counted), 1000)})
    if symbols > reachable:
        with pytest.raises(DataError, match=f"exhausted at {257 + reachable}"):
            learn_merges(counted, symbols=symbols, place="here")
        return
    merges = learn_merges(counted, symbols=symbols, place="here")
    assert len({a + b for a, b in merges}) == symbols
    assert len(merges) >= symbols


def _slow_merges(words: dict[bytes, int], count: int) -> list[tuple[bytes, bytes]]:
    """Direct reading of the algorithm: count all pairs anew before each merge."""
    split = {word: [word[i : i + 1] for i in range(len(word))] for word in words}
    merges = []
    for _ in range(count):
        pairs: dict[tuple[bytes, bytes], int] = {}
        for word, symbols in split.items():
            for pair in pairwise(symbols):
                pairs[pair] = pairs.get(pair, 0) + words[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word, symbols in split.items():
            joined, i = [], 0
            while i < len(symbols):
                if tuple(symbols[i : i + 2]) == best:
                    joined.append(best[0] + best[1])
                    i += 2
                else:
                    joined.append(symbols[i])
                    i += 1
            split[word] = joined
    return merges


@UNTIMED
@given(
    st.dictionaries(
        st.binary(min_size=1, max_size=8).map(lambda b: bytes(c % 3 for c in b)),
        st.integers(1, 5),
        min_size=1,
        max_size=8,
    )
)
def test_incremental_counting_learns_what_counting_anew_learns(words: dict[bytes, int]) -> None:
    expected = _slow_merges(words, 6)
    learned = learn_merges(words.items(), symbols=len({a + b for a, b in expected}), place="here")
    assert learned == expected[: len(learned)]
    assert {a + b for a, b in learned} == {a + b for a, b in expected}


def test_ties_go_to_the_lexicographically_greater_pair() -> None:
    assert learn_merges([(b"ab", 1), (b"xy", 1)], symbols=1, place="") == [(b"x", b"y")]
    assert learn_merges([(b"ab", 2), (b"xy", 1)], symbols=1, place="") == [(b"a", b"b")]


def test_text_too_short_for_the_vocabulary_is_refused_with_what_it_reaches() -> None:
    with pytest.raises(DataError, match="exhausted at 259") as caught:
        train_bpe([b"abc"], size=400, place="corpus.txt")
    assert caught.value.rule == "vocabulary-unreachable"
    assert "at most bpe:259" in caught.value.remedy


def test_byte_alphabet_is_that_of_the_tokenizers_library() -> None:
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert len(set(byte_alphabet())) == 256
    assert byte_alphabet()[ord("A")] == "A"
    assert byte_alphabet()[ord(" ")] == "Ġ"


# GPT-2 and Hugging Face folders


def test_gpt2_counts_242643_tokens_on_the_stripped_lines_of_wikitext(shared_text: Path) -> None:
    tokenizer = open_hf(str(shared_text / "gpt2-tokenizer"))
    text = (shared_text / "wikitext-2-raw" / "wiki.valid.raw").read_text(encoding="utf-8")
    lines = [line.strip().encode() for line in text.split("\n") if line.strip()]
    assert sum(len(ids) for ids in tokenizer.encode(lines)) == 242_643
    assert (tokenizer.vocab_size, tokenizer.separator) == (50_257, 50_256)


def test_gpt2_gives_known_ids_and_text_back(shared_text: Path) -> None:
    tokenizer = open_hf(str(shared_text / "gpt2-tokenizer"))
    ids = tokenizer.encode([b"Hello world, tokenization!"])[0].tolist()
    assert ids == [15496, 995, 11, 11241, 1634, 0]
    assert _round_trip(tokenizer, SAMPLE) == SAMPLE


def test_the_overfit_set_has_3401_gpt2_tokens_line_by_line(shared_text: Path) -> None:
    tokenizer = open_hf(str(shared_text / "gpt2-tokenizer"))
    data = (shared_text / "overfit-100-lines" / "overfit.txt").read_bytes()
    assert sum(len(ids) for ids in tokenizer.encode(data.splitlines())) == 3401


def test_gpt2_is_read_under_either_pair_of_names(shared_text: Path, tmp_path: Path) -> None:
    source = shared_text / "gpt2-tokenizer"
    for old, new in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")):
        (tmp_path / new).write_bytes((source / old).read_bytes())
    assert open_hf(str(tmp_path)).digest == open_hf(str(source)).digest


def _word_level(folder: Path, **config: object) -> Path:
    """Save a small tokenizer that truncates, pads and knows an end-of-text token."""
    vocabulary = {"<unk>": 0, "one": 1, "two": 2, "<eos>": 3}
    backend = Backend(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<eos>"])
    backend.enable_truncation(2)
    backend.enable_padding(length=9, pad_token="<unk>")
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    if config:
        record = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
        (folder / "tokenizer_config.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_a_hugging_face_folder_is_loaded_with_its_end_of_text_token(tmp_path: Path) -> None:
    tokenizer = open_hf(str(_word_level(tmp_path / "words", eos_token="<eos>")))
    assert (tokenizer.name, tokenizer.vocab_size, tokenizer.separator) == ("words", 4, 3)
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).digest == tokenizer.digest


@pytest.mark.parametrize("config", [{}, {"eos_token": "<eos>"}])
def test_truncation_and_padding_of_a_tokenizer_are_switched_off(
    tmp_path: Path, config: dict[str, object]
) -> None:
    tokenizer = open_hf(str(_word_level(tmp_path / "words", **config)))
    assert [ids.tolist() for ids in tokenizer.encode([b"one two one two", b"one"])] == [
        [1, 2, 1, 2],
        [1],
    ]


def test_vocabulary_size_covers_the_greatest_id() -> None:
    backend = Backend(models.WordLevel(vocab={"<unk>": 0, "far": 9}, unk_token="<unk>"))
    from trainer.data.backend import BackendTokenizer

    assert BackendTokenizer(name="x", backend=backend, separator=None).vocab_size == 10


def test_a_missing_folder_is_refused_with_a_near_name(tmp_path: Path) -> None:
    (tmp_path / "gpt2").mkdir()
    with pytest.raises(DataError, match="did you mean 'gpt2'") as caught:
        open_hf(str(tmp_path / "gtp2"))
    assert caught.value.rule == "tokenizer-missing"
    assert str(tmp_path / "gtp2") in caught.value.message


def test_a_folder_without_a_tokenizer_is_refused_with_the_files_it_needs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("tokenizer.json, or encoder.json + vocab.bpe")):
        open_hf(str(tmp_path))


def test_a_name_that_cannot_be_loaded_is_refused_with_the_valid_kinds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import transformers

    asked: dict[str, object] = {}

    def refuse(name: str, **options: object) -> None:
        asked.update(options)
        raise OSError("We couldn't connect to the hub\nsecond line")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(DataError, match="byte, char, bpe:SIZE, a local folder") as caught:
        open_hf("nobody/nothing")
    assert caught.value.rule == "tokenizer-missing"
    assert "couldn't connect" in caught.value.message
    assert "second line" not in caught.value.message
    assert asked == {"trust_remote_code": False, "local_files_only": False}


@pytest.mark.parametrize("name", ["encoder.json", "vocab.bpe", "tokenizer.json"])
def test_a_broken_tokenizer_file_is_refused(tmp_path: Path, name: str) -> None:
    good = {"encoder.json": '{"a": 0, "b": 1, "ab": 2}', "vocab.bpe": "#version: 0.2\na b\n"}
    if name == "tokenizer.json":
        good = {}
    for other, text in good.items():
        (tmp_path / other).write_text(text, encoding="utf-8")
    if good:
        assert open_hf(str(tmp_path)).vocab_size == 3
    (tmp_path / name).write_text("{broken x", encoding="utf-8")
    with pytest.raises(DataError, match="must be") as caught:
        open_hf(str(tmp_path))
    assert caught.value.rule == "tokenizer-unreadable"


def test_identity_of_a_folder_follows_its_files(tmp_path: Path) -> None:
    folder = _word_level(tmp_path / "words")
    before = hf_identity(str(folder))
    (folder / "README.md").write_text("notes", encoding="utf-8")
    assert hf_identity(str(folder)) == before
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert hf_identity(str(folder)) != before
    assert tokenizer_identity(DataSource(tokenizer=str(folder))) != "byte"


def test_digests_tell_tokenizers_apart(trained: Tokenizer) -> None:
    digests = [
        ByteTokenizer().digest,
        CharTokenizer(characters="ab").digest,
        CharTokenizer(characters="abc").digest,
        trained.digest,
        train_bpe([(SAMPLE * 3).encode()], size=301, place="").digest,
    ]
    assert len(set(digests)) == 5


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer(characters='a"\n\u2028é')])
def test_saved_tokenizers_are_loaded_alike(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path) == tokenizer


def test_a_folder_without_a_record_or_with_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold its tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_kind.json").write_text('{"kind": "word"}', encoding="utf-8")
    with pytest.raises(DataError, match="got 'word'"):
        load_tokenizer(tmp_path)


def test_encoded_arrays_hold_whole_numbers(trained: Tokenizer) -> None:
    for tokenizer in (ByteTokenizer(), CharTokenizer(characters="abc"), trained):
        (ids,) = tokenizer.encode([b"abc"])
        assert np.issubdtype(ids.dtype, np.unsignedinteger)
