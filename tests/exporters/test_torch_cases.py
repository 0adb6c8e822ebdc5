"""Sizes and values that modules are tried on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advconv_onnx.errors import InputError
from advconv_onnx.exporters.torch_arguments import Arguments, Tensors, TensorSpec, arguments_of
from advconv_onnx.exporters.torch_cases import find_cases


def arguments(x: object, **options: object) -> Arguments:
    return arguments_of(nn.Identity(), {"input": x}, **options)  # type: ignore[arg-type]


def test_integers_go_up_to_what_the_module_takes() -> None:
    def run(tensors: Tensors) -> None:
        if int(tensors["input"].max()) >= 20_000:
            raise IndexError("index out of range")

    found = find_cases(run, arguments(TensorSpec((2,), "int64")), seed=0)
    # Also of two elements one is the largest: else sizes to come would be refused by chance.
    assert [int(draw["input"].max()) for draw in found.runnable[0].draws] == [999, 999]


def test_integers_stay_between_those_of_the_example() -> None:
    example = torch.tensor([[-3, 5]])
    found = find_cases(lambda tensors: None, arguments(example, dynamic={"input": ("N", "T")}), 0)
    values = [draw["input"] for case in found.runnable for draw in case.draws]
    assert torch.equal(values[0], example)
    assert min(int(value.min()) for value in values) == -3
    assert {int(value.max()) for value in values} == {5}


def test_drawn_values_have_both_signs_and_seeds() -> None:
    x = arguments(TensorSpec(("N", 3, "H", "W")))
    found = find_cases(lambda tensors: None, x, seed=0)
    assert [case.text for case in found.runnable] == [
        *("input=2x3x64x96", "input=1x3x65x97", "input=3x3x48x32", "input=2x3x128x160")
    ]
    for case in found.runnable:
        for draw in case.draws:
            assert draw["input"].min() < -0.9
            assert draw["input"].max() > 0.9
    other = find_cases(lambda tensors: None, x, seed=1)
    first, again = (cases.runnable[0].draws[0]["input"] for cases in (found, other))
    assert not torch.equal(first, again)


def test_volumes_are_small() -> None:
    x = arguments(TensorSpec(("N", 3, "D", "H", "W")))
    found = find_cases(lambda tensors: None, x, seed=0)
    assert all(draw["input"].numel() < 1 << 19 for c in found.runnable for draw in c.draws)


def test_refused_sizes_are_noted_and_the_reason_is_given_when_there_are_no_others() -> None:
    def run(tensors: Tensors) -> None:
        if tensors["input"].shape[1] % 32:
            raise ValueError("must be a\nmultiple")

    found = find_cases(run, arguments(TensorSpec(("N", "L"))), seed=0)
    assert found.notes[0].endswith("does not run at them: input=1x65; input=3x48")
    with pytest.raises(InputError, match="does not run at input=1x65: ValueError: must be a mult"):
        find_cases(run, arguments(TensorSpec((1, 65))), seed=0)
