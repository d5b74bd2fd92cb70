"""Synthetic corpora: grammars, entropy rates, agreement with the diary's own files (row T5)."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from trainer.data.source import DataSource, parse_synthetic
from trainer.data.statistics import TokenStatistics
from trainer.data.synthetic import (
    SyntheticCorpus,
    action_result,
    entropy_rate,
    markov_probabilities,
)


def _corpus(name: str, *, seed: int = 0) -> SyntheticCorpus:
    return SyntheticCorpus(
        spec=parse_synthetic(f"synthetic:{name}"), seed=seed, validation_fraction=0.05
    )


def _text(corpus: SyntheticCorpus, *, validation: bool = False) -> str:
    return b"".join(d.data for d in corpus.documents() if d.validation == validation).decode()


def _statistics(text: str) -> TokenStatistics:
    table = TokenStatistics(vocab_size=256)
    table.add(np.frombuffer(text.encode(), dtype=np.uint8))
    return table


def test_every_simple_word_follows_its_grammar() -> None:
    lines = _text(_corpus("simple")).split("\n")
    assert lines.pop() == ""
    assert len(lines) == 8000
    words = [line.removesuffix(";") for line in lines]
    for line, word in zip(lines, words, strict=True):
        assert re.fullmatch(r"([b-df-hjk][aeiou]){2,3};", line)
        assert len(set(word)) == len(word)
    for index in range(1, len(words)):
        assert words[index][0] not in {word[0] for word in words[max(0, index - 3) : index]}
    assert Counter(map(len, words))[4] / len(words) == pytest.approx(0.5, abs=0.02)


def test_every_sum_is_right_and_both_ends_of_the_range_occur() -> None:
    lines = _text(_corpus("addition")).splitlines()
    assert len(lines) == 8000
    addends = set()
    for line in lines:
        found = re.fullmatch(r"(\d+) \+ (\d+) = (\d+);", line)
        assert found, line
        first, second, total = map(int, found.groups())
        assert first + second == total
        addends |= {first, second}
    assert addends == set(range(101))


def test_every_action_has_its_result_and_all_actions_occur_alike() -> None:
    lines = _text(_corpus("actions?lines=20000")).splitlines()
    counts: Counter[str] = Counter()
    before = ""
    for line in lines:
        found = re.fullmatch(r"([a-f]{4,8})(\d)([a-z]*);", line)
        assert found, line
        data, action, result = found.groups()
        assert result == action_result(int(action), data, before)
        counts[action] += 1
        before = data
    assert set(counts) == set("0123456789")
    assert max(counts.values()) / min(counts.values()) < 1.15


@pytest.mark.parametrize(
    ("action", "result"),
    [
        *((0, ""), (1, "abc"), (2, "cde"), (3, "ghi"), (4, "ijk"), (9, "z")),
        *((5, "fed"), (6, "dcb"), (7, "lkj"), (8, "jih")),
    ],
)
def test_actions_give_these_results(action: int, result: str) -> None:
    assert action_result(action, "abcde", "fedcb") == result


def test_the_generators_grammar_explains_every_line_of_the_diarys_own_file(
    shared_text: Path,
) -> None:
    lines = (shared_text / "synthetic-diary2" / "simple_dummy2.txt").read_text().splitlines()
    before = ""
    for line in lines:
        data, action, result = re.fullmatch(r"([a-f]+)(\d)(.*);", line).groups()  # type: ignore[union-attr]
        assert result == action_result(int(action), data, before)
        before = data


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("simple", "simple_dummy.txt"),
        ("addition", "addition_dummy.txt"),
        ("actions", "simple_dummy2.txt"),
    ],
)
def test_statistics_are_those_of_the_diarys_own_files(
    shared_text: Path, name: str, file: str
) -> None:
    theirs = (shared_text / "synthetic-diary2" / file).read_text()
    ours = _text(_corpus(name))
    assert set(ours) == set(theirs)
    assert len(ours) / len(theirs) == pytest.approx(1.0, abs=0.01)
    assert _statistics(ours).unigram_entropy == pytest.approx(
        _statistics(theirs).unigram_entropy, abs=0.01
    )
    assert _statistics(ours).bigram_entropy == pytest.approx(
        _statistics(theirs).bigram_entropy, abs=0.01
    )


def test_entropy_rates_are_the_exact_ones() -> None:
    assert entropy_rate(parse_synthetic("synthetic:simple")) == pytest.approx(1.24134, abs=1e-5)
    assert entropy_rate(parse_synthetic("synthetic:addition")) == pytest.approx(0.6445, abs=5e-5)
    assert entropy_rate(parse_synthetic("synthetic:actions")) == pytest.approx(1.2750, abs=5e-5)


def test_entropy_rate_of_simple_equals_the_entropy_of_the_draws_that_were_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every draw adds the logarithm of its number of choices; per character that is the rate."""
    from trainer.data import synthetic

    nats: list[float] = []

    def pick(rng: random.Random, choices: str) -> str:
        nats.append(math.log(len(choices)))
        return choices[int(rng.random() * len(choices))]

    monkeypatch.setattr(synthetic, "_pick", pick)
    for name, generate in (("simple", synthetic.simple_lines), ("actions", synthetic.action_lines)):
        nats.clear()
        lines = list(generate(random.Random(1), lines=20000))
        coins = math.log(2) if name == "simple" else math.log(5)
        rate = (sum(nats) + coins * len(lines)) / sum(map(len, lines))
        assert rate == pytest.approx(entropy_rate(parse_synthetic(f"synthetic:{name}")), rel=2e-3)


@pytest.mark.parametrize(("symbols", "entropy"), [(2, 0.1), (2, 0.69), (32, 1.5), (62, 4.1)])
def test_markov_probabilities_have_the_entropy_that_was_asked(symbols: int, entropy: float) -> None:
    p = np.array(markov_probabilities(symbols, entropy))
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert -(p[p > 0] * np.log(p[p > 0])).sum() == pytest.approx(entropy, abs=1e-9)


def test_markov_text_has_its_entropy_rate_given_its_order_and_not_before() -> None:
    corpus = _corpus("markov?entropy=0.9&symbols=6&order=2&characters=200000")
    text = _text(corpus)
    assert len(text) == 200_000
    assert len(set(text)) == 6
    following: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for index in range(2, len(text)):
        following[text[index - 2 : index]][text[index]] += 1
    nats = 0.0
    for counts in following.values():
        total = sum(counts.values())
        nats -= sum(c * math.log(c / total) for c in counts.values())
    assert corpus.entropy_rate == pytest.approx(0.9, abs=1e-9)
    assert nats / (len(text) - 2) == pytest.approx(0.9, abs=0.01)
    assert _statistics(text).bigram_entropy > 1.1


def test_order_one_markov_text_has_the_rate_as_its_bigram_entropy() -> None:
    corpus = _corpus("markov?entropy=0.8&symbols=5&order=1&characters=100000")
    assert _statistics(_text(corpus)).bigram_entropy == pytest.approx(0.8, abs=0.01)


def test_markov_splits_share_one_law() -> None:
    corpus = _corpus("markov?entropy=0.5&symbols=4&order=1&characters=100000")
    likeliest = []
    for validation in (False, True):
        pairs = Counter(pairwise(_text(corpus, validation=validation)))
        likeliest.append({a: max("0123", key=lambda b: pairs[a, b]) for a in "0123"})
    assert likeliest[0] == likeliest[1]


@pytest.mark.parametrize("name", ["simple", "addition", "actions", "markov?characters=50000"])
def test_text_is_a_function_of_the_seed_and_splits_differ(name: str) -> None:
    corpus = _corpus(name)
    train, validation = _text(corpus), _text(corpus, validation=True)
    assert train == _text(_corpus(name))
    assert train != _text(_corpus(name, seed=1))
    assert not train.startswith(validation)
    assert len(validation) / len(train) == pytest.approx(0.05, rel=0.05)
    assert corpus.fingerprint() != _corpus(name, seed=1).fingerprint()


def test_text_of_seed_zero_never_changes() -> None:
    """Digests are part of trial identities: another text needs another GENERATOR_VERSION."""
    beginnings = {
        name: _text(_corpus(name))[:24] for name in ("simple", "addition", "actions", "markov")
    }
    assert beginnings == {
        "simple": "kidu;\nfejaki;\nhake;\nciha",
        "addition": "64 + 2 = 66;\n68 + 72 = 1",
        "actions": "becdcff2cff;\nacff4ill;\nf",
        "markov": "esmeb0mihuu4sv77d8akrbvh",
    }


def test_text_is_handed_on_in_parts_that_continue_each_other() -> None:
    parts = [d for d in _corpus("actions").documents() if not d.validation]
    assert [d.part for d in parts] == list(range(len(parts)))
    assert len({d.run for d in parts}) == 1
    assert len(parts) > 5
    assert max(len(d.data) for d in parts) < 70_000


def test_the_recorded_truth_of_the_shared_files_is_ours(shared_text: Path) -> None:
    truth = json.loads((shared_text / "synthetic-diary2" / "truth.json").read_text())
    for ours, theirs in (("simple", "simple_dummy"), ("addition", "addition_dummy")):
        rate = DataSource(corpus=f"synthetic:{ours}").synthetic
        assert entropy_rate(rate) == pytest.approx(truth[theirs]["entropy_nats_per_char"], abs=5e-5)
