"""Results in order, and never more at a time than are allowed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from advconv_onnx.runner.ahead import ahead


def test_in_order_and_bounded() -> None:
    begun, used = 0, 0

    def items() -> Iterator[int]:
        nonlocal begun
        for number in range(50):
            begun += 1
            assert begun - used <= 5
            yield number

    def slow(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    for expected, result in enumerate(ahead(slow, items(), threads=3, most=5)):
        used += 1
        assert result == expected * expected
    assert used == 50


def test_errors_are_raised_and_nothing_more_is_begun() -> None:
    def fail(number: int) -> int:
        if number == 3:
            raise ValueError(number)
        return number

    results = ahead(fail, range(9), threads=1, most=2)
    assert [next(results), next(results), next(results)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)
    assert not [t for t in threading.enumerate() if t.name.startswith("advconv")]
