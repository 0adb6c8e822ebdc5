"""The short and the long test of one property."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def sweep(
    check: Callable[[Any], None],
    drawn: st.SearchStrategy[Any],
    short: int,
    long: int,
    *,
    allow: tuple[HealthCheck, ...] = (),
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Tests of a check on so many examples, the same in every run; the second is marked long.

    Args:
        check: takes one example.
        drawn: the examples.
        short: examples of the first test.
        long: examples of the second.
        allow: Hypothesis's complaints to leave out.
    """

    def test(examples: int) -> Callable[[], None]:
        limits = settings(
            max_examples=examples, deadline=None, derandomize=True, suppress_health_check=allow
        )
        made: Callable[[], None] = limits(given(drawn)(check))
        return made

    return test(short), pytest.mark.long(test(long))
