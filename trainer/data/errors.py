"""The one exception of the data room: a broken rule, where, what was got, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """A corpus, tokenizer or token file that breaks a rule.

    `rule` is a stable slug that a caller can map to its own error codes; `str(error)` is one line
    for a person. Survives pickling, so that a worker process can hand it to its driver.
    """

    def __init__(self, rule: str, place: str, message: str, remedy: str) -> None:
        """Keep the four parts.

        Args:
            rule: slug of the rule, for example `corpus-missing`.
            place: file (with a line or byte offset where it has one) or field of the source.
            message: the rule and the value that breaks it.
            remedy: what to change.
        """
        super().__init__(rule, place, message, remedy)
        self.rule = rule
        self.place = place
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"[{self.rule}] {self.place}: {self.message}. {self.remedy}."


def did_you_mean(got: str, valid: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ` (did you mean 'x'?)` for the nearest valid word, or an empty string."""
    near = difflib.get_close_matches(got, list(valid), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]!r}?)" if near else ""
