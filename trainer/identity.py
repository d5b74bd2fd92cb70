"""Which fields of a configuration make its identity.

An identity is a hash over a record's fields, and it must not move when the program learns something
new: journals written before are to find their trials again. So a field that is added after a
release is marked `ADDED`, and as long as it has its default it is left out of the hash; a field
that follows from the others, or says only where something lies, is marked `OUTSIDE`.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, Final

_RULE: Final = "identity"
_PLAIN: Final = (str, int, float)

ADDED: Final = {_RULE: "unless default"}
"""`field(default=..., metadata=ADDED)`: in the identity only where it differs from its default."""

OUTSIDE: Final = {_RULE: "never"}
"""`field(metadata=OUTSIDE, compare=False)`: never in the identity."""


def identity_record(value: Any) -> Any:
    """A dataclass as plain values, with the fields that make its identity and no others."""
    if value is None or isinstance(value, _PLAIN):
        return value
    if dataclasses.is_dataclass(value):
        record = {}
        for name, rule, default in _fields(value.__class__):
            item = getattr(value, name)
            if rule is None or item != default:
                record[name] = identity_record(item)
        return record
    if isinstance(value, tuple | list):
        return [identity_record(item) for item in value]
    return value


@cache
def _fields(kind: type) -> tuple[tuple[str, str | None, Any], ...]:
    """Name, rule and default of every field that may count; sweeps ask thousands of times."""
    return tuple(
        (field.name, field.metadata.get(_RULE), field.default)
        for field in dataclasses.fields(kind)
        if field.metadata.get(_RULE) != "never"
    )
