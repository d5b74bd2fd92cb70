"""Synthetic text with an exactly known entropy rate: the irreducible loss E that a fit must find.

`simple`, `addition` and `actions` follow the grammars of a public training diary (femtoGPT's
`dummy_data`); `markov` is a chain whose every context draws from the same probabilities in another
order, so its rate is chosen beforehand. Training and validation are independent draws of one law.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
import string
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.data.documents import Document
from trainer.data.source import SyntheticSpec

GENERATOR_VERSION = 1
"""Raised whenever the same seed would give other text."""
PART_CHARACTERS = 1 << 16
"""Characters handed on at once, about."""

CONSONANTS = "bcdfghjk"
VOWELS = "aeiou"
LETTERS = "abcdef"
SYMBOLS = string.digits + string.ascii_letters
"""Alphabet of the Markov source, from its beginning."""
LARGEST_ADDEND = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticCorpus:
    """Seeded synthetic text; validation is a further draw of `validation_fraction` the length."""

    spec: SyntheticSpec
    """Kind and options."""
    seed: int
    """Seeds the law (Markov) and the draws."""
    validation_fraction: float
    """Length of the validation text relative to the training text."""

    @property
    def description(self) -> str:
        """Kind and options."""
        options = ", ".join(f"{name} {value:g}" for name, value in self.spec.options)
        return f"synthetic:{self.spec.kind} ({options}, seed {self.seed})"

    @property
    def split(self) -> str:
        """How validation is made."""
        return f"an independent draw, {self.validation_fraction:.2%} as long"

    @property
    def entropy_rate(self) -> float:
        """Exact entropy rate, nats per character."""
        return entropy_rate(self.spec)

    @property
    def size_bytes(self) -> int | None:
        """Known for the Markov source only, whose length is in characters."""
        if self.spec.kind != "markov":
            return None
        return sum(self._length(held_out) for held_out in (False, True))

    def _length(self, validation: bool) -> int:
        """Lines (or characters) of a split."""
        unit = "characters" if self.spec.kind == "markov" else "lines"
        length = self.spec.option(unit)
        return max(1, round(length * self.validation_fraction)) if validation else int(length)

    def skipped_documents(self) -> int:
        """None: the text is made here."""
        return 0

    def shared_fraction(self) -> None:
        """Not looked for: two draws of one law may agree by chance."""
        return None

    def fingerprint(self) -> str:
        """SHA-256 of everything that the text is a function of."""
        settings = [
            GENERATOR_VERSION,
            self.spec.kind,
            self.spec.options,
            self.seed,
            self.validation_fraction,
        ]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def documents(self) -> Iterator[Document]:
        """Training text, then validation text; each is one run without separators."""
        for validation in (False, True):
            length = self._length(validation)
            stream = f"{self.spec.kind} {self.seed} {'validation' if validation else 'train'}"
            if self.spec.kind == "markov":
                texts = markov_text(self.spec, seed=self.seed, stream=stream, characters=length)
            else:
                texts = _joined(
                    {"simple": simple_lines, "addition": addition_lines, "actions": action_lines}[
                        self.spec.kind
                    ](random.Random(stream), lines=length)
                )
            for part, text in enumerate(texts):
                yield Document(
                    data=text.encode(), validation=validation, run=int(validation), part=part
                )


def kind_of(description: str) -> str | None:
    """Kind of the synthetic corpus that a description names; None for other corpora."""
    name, _, _ = description.partition(" ")
    return name.removeprefix("synthetic:") if name.startswith("synthetic:") else None


def _joined(lines: Iterator[str]) -> Iterator[str]:
    """Join lines into texts of about `PART_CHARACTERS`."""
    pending: list[str] = []
    size = 0
    for line in lines:
        pending.append(line)
        size += len(line)
        if size >= PART_CHARACTERS:
            yield "".join(pending)
            pending, size = [], 0
    if pending:
        yield "".join(pending)


def _pick(rng: random.Random, choices: str) -> str:
    """Draw uniformly; uses `random()` alone, whose sequence Python guarantees for a seed."""
    return choices[int(rng.random() * len(choices))]


def simple_lines(rng: random.Random, *, lines: int) -> Iterator[str]:
    """Words of 4 or 6 letters, consonant and vowel in turn, none twice in a word, then `;`.

    The first letter is none of those that began the last three words.
    """
    recent: deque[str] = deque(maxlen=3)
    for _ in range(lines):
        word = _pick(rng, "".join(c for c in CONSONANTS if c not in recent))
        recent.append(word)
        while len(word) < 4 or (len(word) == 4 and rng.random() < 0.5) or len(word) == 5:
            letters = VOWELS if len(word) % 2 else CONSONANTS
            word += _pick(rng, "".join(c for c in letters if c not in word))
        yield word + ";\n"


def addition_lines(rng: random.Random, *, lines: int) -> Iterator[str]:
    """Sums `a + b = c;` of two numbers from 0 to 100."""
    for _ in range(lines):
        first, second = (int(rng.random() * (LARGEST_ADDEND + 1)) for _ in range(2))
        yield f"{first} + {second} = {first + second};\n"


def action_lines(rng: random.Random, *, lines: int) -> Iterator[str]:
    """Data of 4 to 8 letters a-f, an action digit, its result, `;`.

    0 gives nothing and 9 gives `z`. Odd digits take the first three letters, even ones the last
    three: 1-4 of this line, 5-8 of the line before; 3, 4, 7, 8 shift each by six letters. The
    first line, which has no line before, never asks for one.
    """
    before: str | None = None
    for _ in range(lines):
        data = "".join(_pick(rng, LETTERS) for _ in range(4 + int(rng.random() * 5)))
        action = int(_pick(rng, string.digits if before is not None else "012349"))
        yield f"{data}{action}{action_result(action, data, before or '')};\n"
        before = data


def action_result(action: int, data: str, before: str) -> str:
    """Result of one action of the `actions` corpus."""
    if action in (0, 9):
        return "z" if action == 9 else ""
    text = data if action <= 4 else before
    taken = text[:3] if action % 2 else text[-3:]
    shift = 6 if action in (3, 4, 7, 8) else 0
    return "".join(chr(ord(letter) + shift) for letter in taken)


def entropy_rate(spec: SyntheticSpec) -> float:
    """Exact entropy rate of a synthetic corpus, nats per character.

    Mean entropy of a line over its mean length in characters; letters that follow from what came
    before add nothing. `simple`: (2 ln 5 + ln 7 + ln 4 + ln 2 + (ln 6 + ln 3)/2) / 7. `addition`:
    2 ln 101 over the mean length. `actions`: (ln 5 + 6 ln 6 + ln 10) / 11.5. `markov`: entropy of
    the probabilities that every context shares.
    """
    log = math.log
    if spec.kind == "simple":
        return (2 * log(5) + log(7) + log(4) + log(2) + (log(6) + log(3)) / 2) / 7
    if spec.kind == "addition":
        numbers = range(LARGEST_ADDEND + 1)
        characters = (
            sum(len(f"{a} + {b} = {a + b};\n") for a in numbers for b in numbers)
            / len(numbers) ** 2
        )
        return 2 * log(len(numbers)) / characters
    if spec.kind == "actions":
        return (log(5) + 6 * log(6) + log(10)) / 11.5
    probabilities = markov_probabilities(int(spec.option("symbols")), spec.option("entropy"))
    return -sum(p * log(p) for p in probabilities if p > 0)


@functools.lru_cache(maxsize=16)
def markov_probabilities(symbols: int, entropy: float) -> tuple[float, ...]:
    """Geometric probabilities p_i ~ exp(-rate i) over `symbols` with a chosen entropy in nats.

    The entropy falls steadily from ln(symbols) at rate 0 to 0, so bisection finds the rate.
    """
    low, high = 0.0, 1.0
    while _entropy(_geometric(symbols, high)) > entropy:
        high *= 2.0
    for _ in range(200):
        middle = (low + high) / 2.0
        if _entropy(_geometric(symbols, middle)) > entropy:
            low = middle
        else:
            high = middle
    return _geometric(symbols, (low + high) / 2.0)


def _geometric(symbols: int, rate: float) -> tuple[float, ...]:
    weights = [math.exp(-rate * i) for i in range(symbols)]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def _entropy(probabilities: tuple[float, ...]) -> float:
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0.0)


def markov_text(spec: SyntheticSpec, *, seed: int, stream: str, characters: int) -> Iterator[str]:
    """Draw a Markov chain of a chosen order and entropy rate.

    Given the last `order` characters, the next has the same probabilities, assigned to the symbols
    in an order of that context's own. The law is a function of `seed`, the draw of `stream`.

    Args:
        spec: `markov` with entropy, symbols and order.
        seed: seeds the orders of the symbols.
        stream: names the draw.
        characters: how many to draw.

    Yields:
        Texts of at most `PART_CHARACTERS`.
    """
    symbols, order = int(spec.option("symbols")), int(spec.option("order"))
    contexts = symbols**order
    ranked = _uniform(f"law {seed}", contexts * symbols).reshape(contexts, symbols)
    permutation = np.argsort(ranked, axis=1, kind="stable")
    following = (np.arange(contexts)[:, None] * symbols + permutation) % contexts
    # State and table index share one number: a state is kept multiplied by the symbols.
    table = (following * symbols).ravel().tolist()
    cumulative = np.cumsum(markov_probabilities(symbols, spec.option("entropy")))
    alphabet = np.frombuffer(SYMBOLS.encode(), dtype=np.uint8)
    bits = _bits(stream)
    state = 0
    for start in range(0, characters, PART_CHARACTERS):
        count = min(PART_CHARACTERS, characters - start)
        draws = np.searchsorted(cumulative, _doubles(bits, count), side="right")
        states = []
        for rank in np.minimum(draws, symbols - 1).tolist():
            state = table[state + rank]
            states.append(state)
        drawn = (np.array(states, dtype=np.int64) // symbols) % symbols
        yield alphabet[drawn].tobytes().decode("ascii")


def _bits(name: str) -> np.random.PCG64:
    """Bit generator seeded by a name; numpy guarantees its stream, unlike a Generator's."""
    return np.random.PCG64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big"))


def _doubles(bits: np.random.PCG64, count: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) from the top 53 bits of each word, shape (count,)."""
    return (bits.random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _uniform(name: str, count: int) -> npt.NDArray[np.float64]:
    return _doubles(_bits(name), count)
