"""How well generated text keeps to a synthetic corpus: whole lines, valid ones, right ones.

The synthetic corpora have a grammar, and some have an answer in each line, so that text from a
model need not be called plausible: it can be counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainer.data.synthetic import CONSONANTS, LARGEST_ADDEND, VOWELS, action_result

_WORD = re.compile(rf"([{CONSONANTS}][{VOWELS}]){{2,3}};")
_SUM = re.compile(r"(0|[1-9]\d*) \+ (0|[1-9]\d*) = (0|[1-9]\d*);")
_ACTION = re.compile(r"([a-f]{4,8})(\d)([a-z]*);")
_RECENT = 3
"""Words back to which a first letter of `simple` may not be repeated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Lines of a text, counted."""

    lines: int
    """Whole lines."""
    valid: int
    """Of these, lines that follow the grammar."""
    right: int | None
    """Of these, lines whose answer is right; None for a corpus without answers."""

    def __str__(self) -> str:
        answers = "" if self.right is None else f", {self.right} with the right answer"
        return f"{self.valid} of {self.lines} lines follow the grammar{answers}"


def score(kind: str, text: str, *, before: str = "") -> Score | None:
    """Count the lines of a text that follow the grammar of a synthetic corpus.

    Args:
        kind: `simple`, `addition` or `actions`; others have no lines.
        text: generated text; what follows its last line break is not a whole line.
        before: text before it, which the first lines may depend on; a line that begins there and
            ends in `text` is counted.

    Returns:
        The score; None for a corpus without lines.
    """
    if kind not in ("simple", "addition", "actions"):
        return None
    *earlier, begun = before.split("\n")
    lines = (begun + text).split("\n")[:-1]
    judged = [_judge(kind, line, [*earlier, *lines[:number]]) for number, line in enumerate(lines)]
    right = sum(answer for _, answer in judged) if kind != "simple" else None
    return Score(lines=len(lines), valid=sum(valid for valid, _ in judged), right=right)


def _judge(kind: str, line: str, before: list[str]) -> tuple[bool, bool]:
    """Whether a line is valid, and whether its answer is right."""
    if kind == "simple":
        word = line.removesuffix(";")
        firsts = {other[:1] for other in before[-_RECENT:]}
        fresh = len(set(word)) == len(word) and word[:1] not in firsts
        return bool(_WORD.fullmatch(line)) and fresh, False
    if kind == "addition":
        found = _SUM.fullmatch(line)
        if found is None:
            return False, False
        first, second, total = map(int, found.groups())
        valid = max(first, second) <= LARGEST_ADDEND
        return valid, valid and first + second == total
    found = _ACTION.fullmatch(line)
    if found is None:
        return False, False
    data, action, result = found.groups()
    previous = _ACTION.fullmatch(before[-1]) if before else None
    return True, result == action_result(int(action), data, previous[1] if previous else "")
