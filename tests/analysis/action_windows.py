"""What reading the `actions` text through windows costs, against knowing all that stands before.

A window begins anywhere in a line. Its likelihood is a sum over every way in which it can have been
cut out of the text. Letters before the cut are unknown until a result copies them.
"""

from __future__ import annotations

import math
import random
import string

import numpy as np
from scipy.special import logsumexp

from tests.analysis.windows import cost_of_windows as windows_cost
from trainer.data.synthetic import LETTERS, action_lines

LENGTHS, ACTIONS = range(4, 9), range(10)
MEAN_LINE = 11.5
LETTER, LENGTH, ACTION = (math.log(len(choices)) for choices in (LETTERS, LENGTHS, ACTIONS))

Letters = list[str | None]
"""The data of a line, None where a letter is unknown."""


class Impossible(Exception):
    """The window cannot have been cut out of the text like this."""


class Reader:
    """Reads a window from its beginning and adds up what its characters cost, nats."""

    def __init__(self, window: str) -> None:
        self.window = window
        self.place = 0
        self.nats = 0.0

    @property
    def rest(self) -> str:
        return self.window[self.place :]

    def take(self, allowed: str) -> str | None:
        """The next character, which must be an allowed one; None at the window's end."""
        if not self.rest:
            return None
        if self.rest[0] not in allowed:
            raise Impossible
        self.place += 1
        return self.window[self.place - 1]

    def letter(self) -> str | None:
        """A letter that nothing tells beforehand."""
        found = self.take(LETTERS)
        self.nats += LETTER if found else 0.0
        return found

    def result(self, action: int, data: Letters, before: Letters, *, skipped: int = 0) -> None:
        """What an action gives, its first characters before the cut."""
        if action == 0:
            return
        if action == 9:
            if not skipped:
                self.take("z")
            return
        text = data if action <= 4 else before
        shift = 6 if action in (3, 4, 7, 8) else 0
        for place in ((0, 1, 2) if action % 2 else (-3, -2, -1))[skipped:]:
            choices = text[place] or LETTERS
            found = self.take("".join(chr(ord(letter) + shift) for letter in choices))
            if found and text[place] is None:
                self.nats += LETTER
                text[place] = chr(ord(found) - shift)

    def line(self, before: Letters) -> Letters:
        """A line from its beginning; its data."""
        data: Letters = []
        while self.rest and self.rest[0] in LETTERS and len(data) < LENGTHS[-1]:
            data.append(self.letter())
        if not self.rest:
            longer = sum(length >= len(data) for length in LENGTHS)
            self.nats += LENGTH - math.log(longer)
            return data
        if len(data) < LENGTHS[0]:
            raise Impossible
        action = self.take(string.digits)
        self.nats += LENGTH + ACTION
        self.result(int(action or 0), data, before)
        self.end()
        return data

    def end(self, *, skipped: int = 0) -> None:
        for character in ";\n"[skipped:]:
            self.take(character)


def nats_of(window: str, length: int, action: int, cut: int) -> float:
    """Cost of a window that begins at a character of a line with so many letters and an action."""
    reader = Reader(window)
    # Nobody has seen the line before. One result at most copies from it: its length is no matter.
    data, before = [None] * length, [None] * 6
    for place in range(cut, length):
        data[place] = reader.letter()
    if cut <= length:
        reader.take(str(action))
    result = length + 1
    reader.result(action, data, before, skipped=min(3, max(0, cut - result)))
    reader.end(skipped=max(0, cut - result - result_size(action)))
    while reader.rest:
        data, before = reader.line(before=data), data
    return reader.nats


def result_size(action: int) -> int:
    return {0: 0, 9: 1}.get(action, 3)


def log_likelihood(window: str) -> float:
    """ln P of a window that is cut out of the text at random."""
    ways = []
    for length in LENGTHS:
        for action in ACTIONS:
            for cut in range(length + 1 + result_size(action) + 2):
                try:
                    ways.append(-nats_of(window, length, action, cut))
                except Impossible:
                    continue
    return float(logsumexp(ways)) - LENGTH - ACTION - math.log(MEAN_LINE)


def nats_with_past(line: str) -> np.ndarray:
    """Cost of each character of a line for who knows everything before it."""
    data = len(line) - len(line.lstrip(LETTERS))
    costs = np.zeros(len(line))
    for place in range(data + 1):
        longer = sum(length >= max(place, LENGTHS[0]) for length in LENGTHS)
        goes_on = longer - (place in LENGTHS)
        chosen = goes_on if place < data else longer - goes_on
        costs[place] = math.log(longer / chosen) + (LETTER if place < data else ACTION)
    return costs


def cost_of_windows(context: int, *, windows: int, seed: int) -> tuple[float, float]:
    """Nats per character that windows lose, the first character given, and its standard error."""
    lines = list(action_lines(random.Random(seed), lines=windows))
    return windows_cost(
        lines, context, log_likelihood=log_likelihood, nats_with_past=nats_with_past, seed=seed
    )
