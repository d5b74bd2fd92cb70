"""Unigram and bigram entropy of token streams (row X3)."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.data import statistics
from trainer.data.statistics import TokenStatistics

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _entropy(counts: Counter[object]) -> float:
    total = sum(counts.values())
    return -sum(c / total * math.log(c / total) for c in counts.values())


def _statistics(tokens: list[int], *, vocab_size: int, cuts: list[int]) -> TokenStatistics:
    table = TokenStatistics(vocab_size=vocab_size)
    edges = [0, *sorted(cut % (len(tokens) + 1) for cut in cuts), len(tokens)]
    for start, end in pairwise(edges):
        table.add(np.array(tokens[start:end], dtype=np.uint32))
    return table


@UNTIMED
@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=200),
    st.lists(st.integers(0, 1000), max_size=5),
    st.sampled_from([7, 2000]),
)
def test_entropies_equal_a_direct_count_however_the_stream_is_cut(
    tokens: list[int], cuts: list[int], vocab_size: int
) -> None:
    table = _statistics(tokens, vocab_size=vocab_size, cuts=cuts)
    pairs = Counter(pairwise(tokens))
    firsts = Counter(tokens[:-1])
    assert table.tokens == len(tokens)
    assert table.distinct_tokens == len(set(tokens))
    assert table.unigram_entropy == pytest.approx(_entropy(Counter(tokens)), abs=1e-9)
    assert table.bigram_entropy == pytest.approx(_entropy(pairs) - _entropy(firsts), abs=1e-9)


def test_a_cycle_has_no_bigram_entropy() -> None:
    table = _statistics([0, 1, 2] * 50, vocab_size=3, cuts=[])
    assert table.unigram_entropy == pytest.approx(math.log(3))
    assert table.bigram_entropy == pytest.approx(0.0, abs=1e-12)


def test_pairs_of_a_large_vocabulary_are_counted_on_a_bounded_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics, "SPARSE_TOKENS", 10)
    table = _statistics([1, 2] * 5 + [7, 8, 9] * 9, vocab_size=5000, cuts=[6])
    assert table.statistics_tokens == 10
    assert table.bigram_entropy == pytest.approx(0.0, abs=1e-12)
    assert table.tokens == 37


def test_an_empty_stream_has_entropy_zero() -> None:
    table = TokenStatistics(vocab_size=4)
    assert (table.unigram_entropy, table.bigram_entropy) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "h1", "h2"),
    [
        ("synthetic-diary2/simple_dummy.txt", 2.6088, 1.5572),
        ("synthetic-diary2/addition_dummy.txt", 2.4635, 1.6882),
        ("synthetic-diary2/simple_dummy2.txt", 2.7161, 1.9559),
        ("tinyshakespeare/input.txt", 3.3128, 2.4526),
        ("ragit-rust/dataset.txt", 2.9717, 1.9392),
    ],
)
def test_entropies_of_the_diaries_corpora_are_the_published_ones(
    shared_text, name: str, h1: float, h2: float
) -> None:
    data = np.frombuffer((shared_text / name).read_bytes(), dtype=np.uint8)
    table = TokenStatistics(vocab_size=256)
    table.add(data)
    assert table.unigram_entropy == pytest.approx(h1, abs=6e-5)
    assert table.bigram_entropy == pytest.approx(h2, abs=6e-5)
