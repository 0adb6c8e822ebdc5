"""Examples that a layer's file brings along for the contract tests."""

from __future__ import annotations

from typing import Any, NamedTuple


class Case(NamedTuple):
    """An input shape, and what the layer is called with besides the builder and the input."""

    shape: tuple[int, ...]
    arguments: dict[str, Any]


def case(*shape: int, **arguments: Any) -> Case:
    """Write a case down in one line."""
    return Case(shape, arguments)
