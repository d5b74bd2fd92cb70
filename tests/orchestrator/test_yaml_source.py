"""Strict YAML: what a person means is what is read, and every fault has its place."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import BadInput
from orchestrator.yaml_source import parse_yaml


def value_of(text: str) -> object:
    return parse_yaml(f"x: {text}", file="f.yaml").value["x"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e18", 1e18),
        ("1.0e+18", 1e18),
        ("3e-4", 3e-4),
        (".5", 0.5),
        ("12", 12),
        ("0x10", 16),
        ("true", True),
        ("null", None),
        ("~", None),
        ("50M", "50M"),
        ("24h", "24h"),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2026-11-20", "2026-11-20"),
        ("'1e18'", "1e18"),
        ("1_000", "1_000"),
        (".inf", math.inf),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    read = value_of(text)
    assert read == value
    assert type(read) is type(value)


def test_every_duplicate_key_is_named_with_both_lines() -> None:
    with pytest.raises(BadInput, match=r"`a` stands at line 1 and again at line 3") as error:
        parse_yaml("a: 1\nb: {c: 1, c: 2}\na: 2\n", file="f.yaml")
    assert [fault.place for fault in error.value.faults] == ["f.yaml:2:11", "f.yaml:3:1"]


@pytest.mark.parametrize(
    ("text", "code", "rule"),
    [
        ("", "SWP-1003", "must not be empty"),
        ("# only a comment\n", "SWP-1003", "must not be empty"),
        ("- 1\n", "SWP-1004", "found a list"),
        ("7\n", "SWP-1004", "found a single value"),
        ("a: 1\n---\nb: 2\n", "SWP-1006", "exactly one YAML document"),
        ("a: !!python/object/apply:os.system ['x']\n", "SWP-1009", "tags are not allowed"),
        ("a:\n\t- 1\n", "SWP-1001", "valid YAML"),
        ("a: [1, 2\n", "SWP-1001", "valid YAML"),
        ("a: 'x\n", "SWP-1001", "valid YAML"),
        ("a: *nobody\n", "SWP-1001", "undefined alias"),
        ("? [1]\n: 2\n", "SWP-1007", "plain word"),
        ("a: " + "[" * 30 + "]" * 30, "SWP-1010", "nest at most"),
        ("a: " + "x" * 1_000_001, "SWP-1002", "at most 1,000,000 bytes"),
        ("a: &b [1]\nc: [" + "*b, " * 101 + "]", "SWP-1005", "aliases"),
        ("a: \x00", "SWP-1001", "must be YAML text"),
    ],
)
def test_what_is_no_budget_is_refused_with_its_own_code(text: str, code: str, rule: str) -> None:
    with pytest.raises(BadInput, match=rule) as error:
        parse_yaml(text, file="f.yaml")
    assert error.value.faults[0].code == code


def test_an_alias_bomb_ends_quickly_in_an_error() -> None:
    bombs = [f"a{i}: &a{i} [{f'*a{i - 1}, ' * 12}]" for i in range(1, 12)]
    lines = ["a0: &a0 [x, x]", *bombs]
    with pytest.raises(BadInput, match="aliases"):
        parse_yaml("\n".join(lines), file="f.yaml")


def test_a_byte_order_mark_and_crlf_are_accepted() -> None:
    assert parse_yaml("\ufeffa: 1\r\nb: 2\r\n", file="f.yaml").value == {"a": 1, "b": 2}


def test_a_place_points_at_the_key_and_its_excerpt_carries_a_caret() -> None:
    source = parse_yaml("a:\n  b: 3\n", file="f.yaml")
    assert source.place(("a", "b")) == "f.yaml:2:3"
    assert source.excerpt(("a", "b")) == "  b: 3\n  ^"
    assert source.place(("a", "b", "deeper")) == "f.yaml:2:3"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=200))
def test_any_text_gives_values_or_faults_and_nothing_else(text: str) -> None:
    try:
        parse_yaml(text, file="f.yaml")
    except BadInput as error:
        assert all(fault.code.startswith("SWP-10") for fault in error.faults)
