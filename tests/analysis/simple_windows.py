"""What reading the `simple` text through windows costs, against knowing all that stands before.

A window begins anywhere in a word. Its likelihood is a sum over every way in which it can have been
cut out of the text, and over the letters before the cut that matter to what follows: those that
began the last three words. Other hidden letters of a word do not: which of its vowels, and which of
its further consonants, come first is open, so those seen are as likely as if they were the first.
"""

from __future__ import annotations

import math
import random
from itertools import permutations

from tests.analysis.windows import cost_of_windows as windows_cost
from trainer.data.synthetic import CONSONANTS, VOWELS, simple_lines

LENGTHS = (4, 6)
MEAN_WORD = 7
"""Characters of a word with its `;` and its line end."""
BEGINNINGS = tuple(permutations(CONSONANTS, 3))
"""What can have begun the last three words, the present one's first letter last; all as likely."""


def likelihood_after(window: str, length: int, cut: int) -> float:
    """P(window) where it begins at a character of a word of so many letters."""
    states = dict.fromkeys(BEGINNINGS, 1.0 / len(BEGINNINGS))
    end: int | None = length
    index, seen, factor = cut, "", 1.0
    for character in window:
        if index == 4 and end is None:
            end = 4 if character == ";" else 6
            factor *= 0.5
        if end is not None and index >= end:
            if character != ";\n"[index - end]:
                return 0.0
            index += 1
            if index == end + 2:
                index, end, seen = 0, None, ""
            continue
        letters = VOWELS if index % 2 else CONSONANTS
        if character not in letters or character in seen:
            return 0.0
        earlier = sum(letter in letters for letter in seen)
        if index == 0:
            factor /= len(CONSONANTS) - 3
            followed: dict[tuple[str, ...], float] = {}
            for state, share in states.items():
                if character not in state:
                    after = (*state[1:], character)
                    followed[after] = followed.get(after, 0.0) + share
            states = followed
        else:
            if index % 2 == 0:
                states = {s: share for s, share in states.items() if s[-1] != character}
            factor /= len(letters) - (index % 2 == 0) - earlier
            seen += character
        index += 1
    return factor * sum(states.values())


def log_likelihood(window: str) -> float:
    """Ln P of a window that is cut out of the text at random."""
    ways = (
        likelihood_after(window, length, cut) for length in LENGTHS for cut in range(length + 2)
    )
    likelihood = sum(ways) / len(LENGTHS) / MEAN_WORD
    return math.log(likelihood) if likelihood else -math.inf


def nats_with_past(word: str) -> list[float]:
    """Cost of each character of a word's line for who knows everything before it."""
    letters = len(word) - 2
    costs = [math.log(n) for n in (5, 5, 7, 4, 6, 3)[:letters]] + [0.0, 0.0]
    costs[4] += math.log(2)
    return costs


def cost_of_windows(context: int, *, windows: int, seed: int) -> tuple[float, float]:
    """Nats per character that windows lose, the first character given, and its standard error."""
    lines = list(simple_lines(random.Random(seed), lines=windows))
    return windows_cost(
        lines, context, log_likelihood=log_likelihood, nats_with_past=nats_with_past, seed=seed
    )
