"""Byte-pair encoding learnt from word counts to an exact vocabulary.

Sennrich, Haddow and Birch 2016 (arXiv:1508.07909, section 3.2), over bytes as in GPT-2 (Radford et
al. 2019, section 2.2): the commonest pair of neighbouring symbols becomes a symbol, again and
again. Among equally common pairs the lexicographically greatest (as byte strings) is taken, which
makes the result a function of the text alone. `tokenizers` breaks ties by the order of ids, and so
cannot reproduce published merge lists; its pre-tokenizer and encoder are used, its trainer is not.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

from trainer.data.errors import DataError

END_OF_DOCUMENT = "<|endoftext|>"
"""Separator of a tokenizer trained here, as in GPT-2."""

Pair = tuple[int, int]


def byte_alphabet() -> list[str]:
    """Printable character that stands for each byte in byte-level BPE files (GPT-2's mapping).

    Printable Latin-1 characters stand for themselves, the other bytes for U+0100 onwards, in
    order.
    """
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in kept else next(others)) for byte in range(256)]


def learn_merges(
    words: Iterable[tuple[bytes, int]], *, symbols: int, place: str
) -> list[tuple[bytes, bytes]]:
    """Learn merges in order.

    Args:
        words: pre-tokens, each with the number of times it occurs; no merge crosses two of them.
        symbols: how many distinct symbols to learn beside the 256 bytes.
        place: the corpus, for the error message.

    Returns:
        Pairs of byte strings, the first merge first.

    Raises:
        DataError: `vocabulary-unreachable` when the text has no pair left before that.
    """
    learner = _Learner(words)
    learned: list[tuple[bytes, bytes]] = []
    while learner.learned < symbols:
        pair = learner.next_pair()
        if pair is None:
            reach = 257 + learner.learned
            raise DataError(
                "vocabulary-unreachable",
                place,
                f"the training text must have enough distinct pairs for a vocabulary of "
                f"{257 + symbols:,}; it is exhausted at {reach:,}",
                f"Ask for at most bpe:{reach}, or name a longer corpus",
            )
        learned.append((learner.symbols[pair[0]], learner.symbols[pair[1]]))
        learner.merge(pair)
    return learned


class _Learner:
    """Words as lists of symbols, with counts of all pairs kept up to date."""

    def __init__(self, words: Iterable[tuple[bytes, int]]) -> None:
        self.symbols = [bytes([byte]) for byte in range(256)]
        self._order = [_descending(symbol) for symbol in self.symbols]
        self._ids = {symbol: index for index, symbol in enumerate(self.symbols)}
        self._words: list[list[int]] = []
        self._weights: list[int] = []
        self._counts: Counter[Pair] = Counter()
        self._where: defaultdict[Pair, set[int]] = defaultdict(set)
        for word, count in words:
            symbols = list(word)
            index = len(self._words)
            self._words.append(symbols)
            self._weights.append(count)
            for pair in pairwise(symbols):
                self._counts[pair] += count
                self._where[pair].add(index)
        self._heap = [self._entry(pair) for pair in self._counts]
        heapq.heapify(self._heap)

    def _entry(self, pair: Pair) -> tuple[int, str, str, Pair]:
        """Heap entry: commonest first, then the lexicographically greatest."""
        return -self._counts[pair], self._order[pair[0]], self._order[pair[1]], pair

    def next_pair(self) -> Pair | None:
        """Commonest pair, or None when no pair is left; outdated heap entries are dropped."""
        while self._heap:
            negative, _, _, pair = heapq.heappop(self._heap)
            if self._counts.get(pair, 0) == -negative and negative < 0:
                return pair
        return None

    @property
    def learned(self) -> int:
        """Symbols learnt beside the 256 bytes."""
        return len(self.symbols) - 256

    def _symbol(self, symbol: bytes) -> int:
        """Id of a symbol; should two pairs ever join to one string, it keeps one id."""
        if symbol not in self._ids:
            self._ids[symbol] = len(self.symbols)
            self.symbols.append(symbol)
            self._order.append(_descending(symbol))
        return self._ids[symbol]

    def merge(self, pair: Pair) -> None:
        """Make a symbol of a pair, in every word that has it."""
        new = self._symbol(self.symbols[pair[0]] + self.symbols[pair[1]])
        changed: set[Pair] = set()
        for index in self._where.pop(pair):
            before = self._words[index]
            after = _merged(before, pair, new)
            weight = self._weights[index]
            for old in pairwise(before):
                self._counts[old] -= weight
                changed.add(old)
            for made in pairwise(after):
                self._counts[made] += weight
                self._where[made].add(index)
                changed.add(made)
            self._words[index] = after
        for other in changed:
            if self._counts[other] > 0:
                heapq.heappush(self._heap, self._entry(other))
            else:
                del self._counts[other]
                self._where.pop(other, None)


def _merged(word: list[int], pair: Pair, new: int) -> list[int]:
    """Replace a pair in a word, from left to right."""
    first, second = pair
    out: list[int] = []
    position, last = 0, len(word) - 1
    while position <= last:
        if position < last and word[position] == first and word[position + 1] == second:
            out.append(new)
            position += 2
        else:
            out.append(word[position])
            position += 1
    return out


def _descending(symbol: bytes) -> str:
    """Key whose ascending order is the descending lexicographic order of byte strings.

    The end mark, above every complemented byte, puts a longer string before its own beginning.
    """
    return "".join(chr(255 - byte) for byte in symbol) + chr(256)
