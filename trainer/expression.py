"""Arithmetic of a run's own size, written by a person: `0.02 * (N/1e6)**-0.3`.

Parsed, never executed: numbers, the variables, `+ - * / **`, parentheses and five functions, and
nothing else of Python.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MAX_LENGTH = 200
"""Longest expression, characters: it bounds the depth and the cost of every evaluation too."""

VARIABLES: Mapping[str, str] = {
    "N": "matmul parameters",
    "D": "training tokens",
    "B": "tokens per step",
    "C": "training FLOPs",
}
"""What an expression may name."""

_FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "sqrt": math.sqrt,
    "log": math.log,
    "exp": math.exp,
}
_OPERATIONS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: math.pow,
}


class ExpressionError(ValueError):
    """A text that is not arithmetic, or one without a value here; says where."""

    def __init__(self, message: str, text: str, column: int) -> None:
        super().__init__(f"{message}, at character {column + 1}, got\n  {text}\n  {' ' * column}^")
        self.column = column
        """Where, from 0."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression."""

    text: str
    """As it was written."""
    names: frozenset[str]
    """Variables that it names."""
    _tree: ast.expr

    def __call__(self, **values: float) -> float:
        """The value at a run's size.

        Args:
            values: the variables by name.

        Raises:
            ExpressionError: when it has no finite value there (0 / 0, a root of a negative number).
        """
        value = _value(self._tree, self.text, values)
        if not math.isfinite(value):
            raise ExpressionError("the value is not finite", self.text, 0)
        return value


def parse_expression(text: str, *, variables: tuple[str, ...] = tuple(VARIABLES)) -> Expression:
    """Read an expression.

    Args:
        text: what a person wrote.
        variables: the names that have a value where it is used.

    Raises:
        ExpressionError: when it is anything but arithmetic of these names.
    """
    text = text.strip()
    if len(text) > MAX_LENGTH:
        raise ExpressionError(
            f"an expression has at most {MAX_LENGTH} characters, got {len(text)}",
            text[:MAX_LENGTH],
            MAX_LENGTH,
        )
    if not text.isascii() or not text.isprintable():
        column = next(i for i, c in enumerate(text) if not (c.isascii() and c.isprintable()))
        raise ExpressionError("only plain ASCII stands in an expression", text, column)
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        column = min((getattr(error, "offset", None) or 1) - 1, len(text))
        raise ExpressionError("not an arithmetic expression", text, column) from None
    names: set[str] = set()
    _check(tree, text, variables, names)
    return Expression(text, frozenset(names), tree)


def _check(node: ast.expr, text: str, variables: tuple[str, ...], names: set[str]) -> None:
    match node:
        case ast.Constant(value=value) if type(value) in (int, float):
            return
        case ast.Name(id=name) if name in variables:
            names.add(name)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            _check(operand, text, variables, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            _check(left, text, variables, names)
            _check(right, text, variables, names)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            wanted = len(arguments) >= 2 if name in ("min", "max") else len(arguments) == 1
            if not wanted:
                number = "two numbers or more" if name in ("min", "max") else "one number"
                raise ExpressionError(f"`{name}` takes {number}", text, node.col_offset)
            for argument in arguments:
                _check(argument, text, variables, names)
        case ast.Name(id=name):
            raise ExpressionError(
                f"`{name}` is no variable; there are {', '.join(variables)}", text, node.col_offset
            )
        case _:
            raise ExpressionError(
                "only numbers, "
                f"{', '.join(variables)}, + - * / **, ( ) and {', '.join(_FUNCTIONS)} may stand "
                "here",
                text,
                node.col_offset,
            )


def _value(node: ast.expr, text: str, values: Mapping[str, float]) -> float:
    try:
        match node:
            case ast.Constant(value=value):
                return float(value)  # type: ignore[arg-type]  # checked when it was parsed
            case ast.Name(id=name):
                return float(values[name])
            case ast.UnaryOp(op=op, operand=operand):
                value = _value(operand, text, values)
                return -value if isinstance(op, ast.USub) else value
            case ast.BinOp(left=left, op=op, right=right):
                one, two = _value(left, text, values), _value(right, text, values)
                return _OPERATIONS[type(op)](one, two)
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return _FUNCTIONS[name](*(_value(item, text, values) for item in arguments))
            case _:
                raise TypeError(f"unchecked node {ast.dump(node)}")
    except ExpressionError:
        raise
    except (ArithmeticError, ValueError) as error:
        where = ", ".join(f"{name} = {value:g}" for name, value in values.items())
        raise ExpressionError(f"no value at {where} ({error})", text, node.col_offset) from None
