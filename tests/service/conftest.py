"""The option that runs the service in earnest."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`make service-test` gives it."""
    parser.addoption("--whole-service", action="store_true", help="submit, kill, follow a sweep")
