"""Lines of synthetic text, counted instead of called plausible; row X8."""

from __future__ import annotations

import pytest

from trainer.data.source import parse_synthetic
from trainer.data.synthetic import SyntheticCorpus, kind_of
from trainer.scores import Score, score

DIARY_7 = """92;
91 = 121;
2 + 1;
11 + 121 + 1;
9;
9 + 9;
6 + 1;
7 = 90 10 = 7;
60 1 = 1;
10 1 = 13;
6 = 60;
6 ="""
"""What the model of diary 2, experiment 7, said to `13 + 29 = `."""


def corpus(kind: str) -> SyntheticCorpus:
    return SyntheticCorpus(
        spec=parse_synthetic(f"synthetic:{kind}?lines=400"), seed=0, validation_fraction=0.1
    )


@pytest.mark.parametrize("kind", ["simple", "addition", "actions"])
def test_every_line_of_a_generator_is_valid_and_right(kind: str) -> None:
    generator = corpus(kind)
    text = "".join(d.data.decode() for d in generator.documents() if not d.validation)
    right = None if kind == "simple" else 400
    assert score(kind, text) == Score(lines=400, valid=400, right=right)
    assert kind_of(generator.description) == kind


def test_thirteen_and_twenty_nine_are_forty_two() -> None:
    assert score("addition", "42;\n", before="13 + 29 = ") == Score(lines=1, valid=1, right=1)
    assert score("addition", "42;\n", before="1 + 1 = 2;\n13 + 29 = ") == Score(
        lines=1, valid=1, right=1
    )
    assert score("addition", "42", before="13 + 29 = ") == Score(lines=0, valid=0, right=0)


def test_what_the_diarys_model_said_has_one_valid_line_and_no_right_one() -> None:
    found = score("addition", DIARY_7, before="13 + 29 = ")
    assert found == Score(lines=11, valid=1, right=0)
    assert str(found) == "1 of 11 lines follow the grammar, 0 with the right answer"


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("simple", "bab;"),
        ("simple", "babe;"),
        ("simple", "becadu"),
        ("simple", "xica;"),
        ("addition", "101 + 1 = 102;"),
        ("addition", "01 + 1 = 2;"),
        ("addition", "1 + 1 =2;"),
        ("actions", "abc1abc;"),
        ("actions", "abcdabc;"),
    ],
)
def test_a_line_outside_the_grammar_is_not_valid(kind: str, line: str) -> None:
    found = score(kind, line + "\n")
    assert found is not None
    assert (found.lines, found.valid) == (1, 0)


def test_a_first_letter_of_the_last_three_words_is_not_valid() -> None:
    assert score("simple", "beca;\nbido;\n") == Score(lines=2, valid=1, right=None)
    words = "beca;\ncado;\nduba;\nfeki;\n"
    assert score("simple", "bido;\n", before=words) == Score(lines=1, valid=1, right=None)
    assert score("simple", "cido;\n", before=words) == Score(lines=1, valid=0, right=None)


def test_an_action_on_the_line_before_is_judged_by_it() -> None:
    assert score("actions", "abcd5fed;\n", before="fedcba0;\n") == Score(lines=1, valid=1, right=1)
    assert score("actions", "abcd5abc;\n", before="fedcba0;\n") == Score(lines=1, valid=1, right=0)


def test_text_without_a_grammar_has_no_score() -> None:
    assert score("markov", "abc\n") is None
    assert kind_of("embedded: the standard library") is None
