"""What must not be read by others: secrets in text, and the files of a sweep.

Errors of libraries quote addresses with their passwords, and whatever a program was given. Text
that is journalled, printed or packed for somebody else goes through `scrubbed` first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_USER_AND_PASSWORD = re.compile(r"(?<=://)[^/\s'\"@]+@")
_NAMES_A_SECRET = re.compile(r"token|secret|passw|key|credential|auth(?!or)", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"""([\w-]*(?:secret|passw|api[_-]?key|access[_-]?key|credential|auth[_-]?token)[\w-]*"""
    r"""["']?\s*[:=]\s*["']?)[^\s"',}]+""",
    re.IGNORECASE,
)
_LEAST_LENGTH = 6
"""Shorter values are words that stand everywhere."""
HIDDEN = "[hidden]"


def scrubbed(text: str, environment: Mapping[str, str] | None = None) -> str:
    """A text without passwords in addresses, assigned secrets, and the environment's secrets.

    Args:
        text: any text.
        environment: variables; the values of those whose names speak of a secret are hidden.
            Default: this process's.
    """
    text = _ASSIGNED.sub(rf"\1{HIDDEN}", _USER_AND_PASSWORD.sub("", text))
    known = os.environ if environment is None else environment
    values = {
        value
        for name, value in known.items()
        if _NAMES_A_SECRET.search(name) and len(value) >= _LEAST_LENGTH
    }
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text


def keep_private() -> None:
    """From now on files of this process and its children are for its user alone (0600, 0700)."""
    os.umask(0o077)
