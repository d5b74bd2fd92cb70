"""Arithmetic that a person writes in a budget: what it gives, and what it may not be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.expression import MAX_LENGTH, ExpressionError, parse_expression


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.02 * (N/1e6)**-0.3", 0.02 * 4**-0.3),
        ("min(0.01, 3.7 * N**-0.36)", 0.01),
        ("-(+D) / B - 2", -80e6 / 512 - 2),
        ("sqrt(C) * exp(log(2))", 2e8),
        ("7", 7.0),
    ],
)
def test_an_expression_is_its_arithmetic(text: str, value: float) -> None:
    sizes = {"N": 4e6, "D": 80e6, "B": 512.0, "C": 1e16}
    assert parse_expression(text)(**sizes) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("0.02 * M", 7, "`M` is no variable; there are N, D, B, C"),
        ("0.02 *", 6, "not an arithmetic expression"),
        ("__import__('os')", 0, "only numbers, N, D, B, C"),
        ("N.real", 0, "only numbers"),
        ("[N][0]", 0, "only numbers"),
        ("1 + (lambda: N)()", 4, "only numbers"),
        ("N if D else B", 0, "only numbers"),
        ("N // 2", 0, "only numbers"),
        ("N < 2", 0, "only numbers"),
        ("True", 0, "only numbers"),
        ("2j", 0, "only numbers"),
        ("sqrt(N, D)", 0, "`sqrt` takes one number"),
        ("1 + min(N)", 4, "`min` takes two numbers or more"),
        ("max(*N)", 0, "`max` takes two numbers or more"),
        ("N ** ", 4, "not an arithmetic expression"),
        ("2 × N", 2, "only plain ASCII"),
        ("1 +\n N", 3, "only plain ASCII"),
        ("(" * 150 + "N" + ")" * 40, 149, "not an arithmetic expression"),
    ],
)
def test_what_is_no_arithmetic_is_refused_with_its_place(
    text: str, column: int, message: str
) -> None:
    with pytest.raises(ExpressionError, match=message.replace("(", r"\(")) as caught:
        parse_expression(text)
    lines = str(caught.value).splitlines()
    assert lines[-1] == "  " + " " * caught.value.column + "^"
    assert caught.value.column == column or "arithmetic expression" in message


def test_a_long_expression_is_refused() -> None:
    with pytest.raises(ExpressionError, match=f"at most {MAX_LENGTH} characters"):
        parse_expression("+".join(["N"] * MAX_LENGTH))


@pytest.mark.parametrize("text", ["1 / (N - N)", "log(0 * N)", "(0 - N)**0.5", "9**9**9 * N"])
def test_an_expression_without_a_value_says_where_it_has_none(text: str) -> None:
    with pytest.raises(ExpressionError, match=r"no value at N = 3"):
        parse_expression(text)(N=3.0)


def test_an_infinite_value_is_none() -> None:
    with pytest.raises(ExpressionError, match="not finite"):
        parse_expression("1e308 * N")(N=1e10)


@given(st.text(max_size=60))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        parse_expression(text)
    except ExpressionError as error:
        assert str(error)
