"""Options refuse values that no run could make sense of."""

from __future__ import annotations

from typing import Any

import pytest

from advconv_onnx.errors import InputError
from advconv_onnx.optimizer.options import Options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("level", "fast"),
        ("threads", 0),
        ("max_error", 0.0),
        ("max_error", float("nan")),
        ("max_growth", -1.0),
        ("time_limit", 0.0),
        ("memory_limit", -2.0),
    ],
)
def test_refuses_a_senseless_value_by_name(option: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')}"):
        Options(**{option: value})


def test_the_defaults_are_those_of_the_command_line() -> None:
    options = Options()
    assert (options.level, options.max_error, options.max_growth) == ("search", 1e-4, 2.0)
