"""Unigram and bigram entropy of a stream of tokens: the plateaus of a model that learns too little.

H1 = -sum p(t) ln p(t) is the loss of a model that knows token frequencies only, and
H2 = H(t | token before) that of one that knows pairs only; both in nats per token and in sample
(Shannon 1951, "Prediction and Entropy of Printed English", section 2: F_1 and F_2).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

DENSE_VOCABULARY = 1024
"""Up to here a table of all pairs is kept (8 MiB); above, only pairs that occur."""
SPARSE_TOKENS = 1 << 24
"""Above `DENSE_VOCABULARY`, pairs are counted over this many tokens, to bound memory."""


class TokenStatistics:
    """Counts tokens and pairs of one file as its chunks go by."""

    def __init__(self, *, vocab_size: int) -> None:
        """Begin with nothing counted."""
        self._vocab_size = vocab_size
        self._tokens = 0
        self._unigrams = np.zeros(vocab_size, dtype=np.int64)
        self._last = np.empty(0, dtype=np.int64)
        self._dense = vocab_size <= DENSE_VOCABULARY
        self._pairs = np.zeros(vocab_size**2 if self._dense else 0, dtype=np.int64)
        self._codes = np.empty(0, dtype=np.int64)
        self._counts = np.empty(0, dtype=np.int64)
        self._pair_tokens = 0

    def add(self, tokens: npt.NDArray[np.unsignedinteger]) -> None:
        """Count the next chunk of the file, shape (n,)."""
        chunk = tokens.astype(np.int64)
        self._unigrams += np.bincount(chunk, minlength=self._vocab_size)
        self._tokens += chunk.size
        if not self._dense:
            chunk = chunk[: max(0, SPARSE_TOKENS - self._pair_tokens)]
        if chunk.size == 0:
            return
        self._pair_tokens += chunk.size
        joined = np.concatenate([self._last, chunk])
        self._last = joined[-1:]
        codes = joined[:-1] * self._vocab_size + joined[1:]
        if self._dense:
            self._pairs += np.bincount(codes, minlength=self._pairs.size)
        else:
            self._merge(codes)

    def _merge(self, codes: npt.NDArray[np.int64]) -> None:
        """Add pairs to the sorted table of pairs that occur."""
        new, counts = np.unique(codes, return_counts=True)
        every, inverse = np.unique(np.concatenate([self._codes, new]), return_inverse=True)
        total = np.zeros(every.size, dtype=np.int64)
        np.add.at(total, inverse, np.concatenate([self._counts, counts]))
        self._codes, self._counts = every, total

    @property
    def tokens(self) -> int:
        """Tokens counted."""
        return self._tokens

    @property
    def statistics_tokens(self) -> int:
        """Tokens among which pairs were counted."""
        return self._pair_tokens

    @property
    def distinct_tokens(self) -> int:
        """Token ids that occurred."""
        return int(np.count_nonzero(self._unigrams))

    @property
    def unigram_entropy(self) -> float:
        """H1, nats per token; 0 for an empty stream."""
        return _entropy(self._unigrams)

    @property
    def bigram_entropy(self) -> float:
        """H2 = H(pairs) - H(first members), nats per token; 0 without a pair."""
        if self._dense:
            pairs = self._pairs
            firsts = pairs.reshape(self._vocab_size, self._vocab_size).sum(axis=1)
        else:
            pairs = self._counts
            firsts = np.bincount(
                self._codes // self._vocab_size, weights=pairs, minlength=1
            ).astype(np.int64)
        return max(0.0, _entropy(pairs) - _entropy(firsts))


def _entropy(counts: npt.NDArray[np.int64]) -> float:
    """Entropy of a table of counts, nats: ln n - (sum c ln c) / n."""
    occurring = counts[counts > 0].astype(np.float64)
    if occurring.size == 0:
        return 0.0
    n = float(occurring.sum())
    return max(0.0, math.log(n) - float((occurring * np.log(occurring)).sum()) / n)
