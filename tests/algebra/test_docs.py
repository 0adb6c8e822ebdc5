"""The examples of docs/algebra.md run as they stand."""

from __future__ import annotations

import doctest
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "algebra.md"


def test_the_examples_of_the_algebra_run() -> None:
    results = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert results.attempted > 20
    assert results.failed == 0
