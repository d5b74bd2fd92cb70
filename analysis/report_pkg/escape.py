"""Foreign text made harmless in the formats that a report is written in.

HTML needs nothing here: the templates escape by themselves. Markdown, LaTeX and CSV have
characters of their own that a run's name must not use.
"""

from __future__ import annotations

import re

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "#": r"\#",
    "$": r"\$",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "–": "--",
    "×": r"$\times$",
    "·": r"$\cdot$",
}
_UNSUPERSCRIPT = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_SUPERSCRIPTS = re.compile("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]|~$@#])")
_MARKDOWN_START = re.compile(r"^(?=[-+=])|^\d+(?=[.)](?:\s|$))")
_BARE_ADDRESS = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


_UNPRINTABLE = re.compile(
    "[\\s\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]+"
)


def one_line(text: object) -> str:
    """Text without line breaks, control characters, turned writing or what UTF-8 cannot hold."""
    return _UNPRINTABLE.sub(" ", str(text)).strip()


def markdown(text: object) -> str:
    """Text that Markdown shows as it is: no emphasis, link, cell, list or HTML of its own."""
    escaped = _MARKDOWN.sub(r"\\\1", one_line(text))
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A list, a heading's underline and a number with a dot are marks at the start of a line only.
    escaped = _MARKDOWN_START.sub(lambda found: found.group() + "\\", escaped)
    return _BARE_ADDRESS.sub(lambda found: "\\" + found.group(), escaped)


def markdown_code(text: object) -> str:
    """Text as a Markdown code span, whatever backticks it holds."""
    line = one_line(text)
    longest = max((len(m) for m in re.findall(r"`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def latex(text: object) -> str:
    """Text that LaTeX prints as it is, in text mode."""
    escaped = "".join(_LATEX.get(c, c) for c in one_line(text))
    return _SUPERSCRIPTS.sub(
        lambda m: f"\\textsuperscript{{{m.group().translate(_UNSUPERSCRIPT)}}}", escaped
    )


def csv_cell(value: object) -> object:
    """A CSV cell that no spreadsheet runs as a formula: text that starts one gets a quote.

    Numbers, and text that is a number (a level named "-1"), stay as they are.
    """
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value
