"""Numbers in words, and foreign text made harmless in Markdown, LaTeX and CSV."""

import csv
import io

import pytest

from analysis.report.escape import csv_cell, latex, markdown, markdown_code
from analysis.report.words import count, duration, interval, listed, percent, power, si, significant

NASTY = "\\ ` * _ { } [ ] ( ) # + - . ! | ~ $ % & ^ < > \" ' @ \u2028 \t \x00 {{7*7}}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2823, "2.82k"),
        (999_999, "1M"),
        (1e9, "1B"),
        (1.4e12, "1.4T"),
        (45, "45"),
        (0.5, "0.5"),
        (3.2e15, "3.2×10¹⁵"),
        (0, "0"),
        (float("nan"), "–"),
        (None, "–"),
    ],
)
def test_counts_carry_a_suffix(value, text):
    assert si(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e12, "10¹²"), (3.2e11, "3.2×10¹¹"), (5.76e23, "5.76×10²³"), (1e-7, "10⁻⁷"), (None, "–")],
)
def test_compute_is_a_power_of_ten(value, text):
    assert power(value) == text


def test_significant_digits_never_use_an_exponent_and_never_promise_more():
    assert [significant(v) for v in (108.37, 22331.0, 0.03474, 1.0, -2.5)] == [
        "108",
        "22300",
        "0.0347",
        "1",
        "-2.5",
    ]
    assert count(5.4e7) == "5.4×10⁷"
    assert count(float("inf")) == "–"


def test_shares_intervals_and_lists_read_as_sentences():
    assert percent(0.042) == "4.2 %"
    assert interval((71.4, 165.2)) == "71.4 to 165"
    assert interval(None) == "–"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed([]) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3.21, "3.2 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (360_000, "4 d 4 h"),
        (0, "0 s"),
        (-1, "–"),
        (None, "–"),
    ],
)
def test_times_show_their_two_largest_units(seconds, text):
    assert duration(seconds) == text


def test_markdown_keeps_foreign_text_in_its_cell():
    escaped = markdown(NASTY)
    assert "\n" not in escaped
    assert "<" not in escaped.replace("&lt;", "")
    for sign in "`*_{}[]|~$@#":
        assert escaped.count(f"\\{sign}") == NASTY.count(sign)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("- item", "\\- item"),
        ("3. item", "3\\. item"),
        ("3) item", "3\\) item"),
        ("===", "\\==="),
        ("55.7 tokens", "55.7 tokens"),
        ("a - b", "a - b"),
        ("see www.x.org", "see www\\.x.org"),
        ("ftp://x", "ftp\\://x"),
        ("[a](b)", "\\[a\\](b)"),
        ("a\n# b", "a \\# b"),
    ],
)
def test_markdown_marks_are_escaped_where_they_would_mean_something(text, escaped):
    assert markdown(text) == escaped


@pytest.mark.parametrize("text", ["a", "`a`", "a``b", "`", "a|b", "x ``` y"])
def test_a_code_span_is_fenced_longer_than_any_backticks_in_it(text):
    span = markdown_code(text)
    fence = span[: len(span) - len(span.lstrip("`"))]
    assert span.endswith(fence)
    assert fence not in span[len(fence) : -len(fence)]


def test_latex_escapes_every_active_character():
    escaped = latex("a_b % $x$ & # {y} ~ ^ \\ 10¹² é")
    assert escaped == (
        "a\\_b \\% \\$x\\$ \\& \\# \\{y\\} \\textasciitilde{} \\textasciicircum{} "
        "\\textbackslash{} 10\\textsuperscript{12} é"
    )


@pytest.mark.parametrize("cell", ["=cmd|' /C calc'!A0", "+1+x", "-x", "@SUM(A1)", "\tx", "\rx"])
def test_a_cell_that_a_spreadsheet_would_run_is_quoted(cell):
    assert csv_cell(cell) == "'" + cell
    out = io.StringIO()
    csv.writer(out).writerow([csv_cell(cell)])
    assert next(csv.reader(io.StringIO(out.getvalue(), newline="")))[0] == "'" + cell


@pytest.mark.parametrize("cell", ["-1", "+2.5e3", "abc", "", -3, 2.5])
def test_numbers_and_plain_text_are_left_alone(cell):
    assert csv_cell(cell) == cell
