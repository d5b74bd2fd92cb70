"""Which fields of a configuration make its identity.

An identity is a hash over a record's fields, and it must not move when the program learns something
new: journals written before are to find their trials again. So a field that is added after a
release is marked `ADDED`, and as long as it has its default it is left out of the hash; a field
that follows from the others, or says only where something lies, is marked `OUTSIDE`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

_RULE: Final = "identity"

ADDED: Final = {_RULE: "unless default"}
"""`field(default=..., metadata=ADDED)`: in the identity only where it differs from its default."""

OUTSIDE: Final = {_RULE: "never"}
"""`field(metadata=OUTSIDE, compare=False)`: never in the identity."""


def identity_record(value: Any) -> Any:
    """A dataclass as plain values, with the fields that make its identity and no others."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: identity_record(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if _counts(field, getattr(value, field.name))
        }
    if isinstance(value, tuple | list):
        return [identity_record(item) for item in value]
    return value


def _counts(field: dataclasses.Field[Any], value: Any) -> bool:
    rule = field.metadata.get(_RULE)
    return rule is None or (rule == "unless default" and value != field.default)
