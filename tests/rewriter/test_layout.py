"""Sizes behind operators that reshape, and targets of a Reshape."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.layout import (
    Sizes,
    Target,
    permutation,
    reshaped,
    resolve,
    sizes_of,
    target_of,
    with_ints,
)
from advconv_onnx.rewriter.rule import NoSite, Refused
from tests.parsing import parse


def last(nodes: str, x: str, opset: int = 13) -> ir.Node:
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[{x}] x) => (float[] z)
        <int64[1] one = {{1}}, int64[2] ends = {{0, -1}}, int64[3] t = {{0, -1, 2}}>
        {{ {nodes} }}"""
    )
    return model.graph.node(-1)


@pytest.mark.parametrize(
    ("node", "x", "expected"),
    [
        ("z = Reshape(x, t)", "N, 3, 4", ("N", 6, 2)),
        ("z = Reshape(x, t)", "N, C, 2", ("N", "C", 2)),
        ("z = Reshape(x, t)", "N, C, 4", ("N", "!1", 2)),
        ("z = Flatten(x)", "N, 3, 4", ("N", 12)),
        ("z = Flatten <axis = 0> (x)", "2, 3, 4", (1, 24)),
        ("z = Flatten <axis = -1> (x)", "N, C, 4", ("!0", 4)),
        ("z = Flatten <axis = 2> (x)", "N, C", ("!0", 1)),
        ("z = Unsqueeze(x, ends)", "N, C", (1, "N", "C", 1)),
        ("z = Squeeze(x, one)", "N, 1, C", ("N", "C")),
        ("z = Squeeze(x)", "2, 1, 3", (2, 3)),
    ],
)
def test_sizes_behind_an_operator(node: str, x: str, expected: Sizes) -> None:
    assert reshaped(last(node, x)) == expected


@pytest.mark.parametrize("node", ["z = Squeeze(x)", "s = Shape(x) z = Reshape(x, s)"])
def test_not_even_the_rank_is_known(node: str) -> None:
    with pytest.raises(NoSite):
        reshaped(last(node, "N, 1, C"))


def test_a_kept_size_must_be_there() -> None:
    with pytest.raises(NoSite):
        resolve([2, 3, 0], ("N", 6))
    assert resolve([2, 0], ("N", 6), keeps_zero=True) == (2, 0)


def test_nothing_follows_from_a_size_of_zero() -> None:
    assert resolve([-1, 2], (0, 4)) == ("!0", 2)


@pytest.mark.parametrize(
    ("wanted", "sizes", "expected"),
    [
        ((2, 12), (2, 3, 4), Target((2, 12), False)),
        (("N", 12), ("N", 3, 4), Target((0, 12), False)),
        ((3, "N"), ("N", 3), Target((3, -1), False)),
        (("N", "!1"), ("N", "C", 4), Target((0, -1), True)),
    ],
)
def test_target(wanted: Sizes, sizes: Sizes, expected: Target) -> None:
    assert target_of(wanted, sizes) == expected


@pytest.mark.parametrize("wanted", [("C", "N"), ("!0", "!1"), (0, 3)])
def test_no_target(wanted: Sizes) -> None:
    with pytest.raises(Refused):
        target_of(wanted, ("N", "C"))


def test_sizes_without_a_name_differ_from_tensor_to_tensor() -> None:
    node = last("y = Relu(x) z = Relu(y)", "N, C")
    x, y = ir.Value(name="x", shape=ir.Shape([None, 2])), node.inputs[0]
    assert y is not None
    y.shape = ir.Shape([None, 2])
    assert sizes_of(x)[0] != sizes_of(y)[0]
    assert sizes_of(x)[1] == sizes_of(y)[1] == 2


def test_a_transpose_reverses_by_default() -> None:
    assert permutation(last("z = Transpose(x)", "A, B, C")) == (2, 1, 0)


@pytest.mark.parametrize("opset", [11, 13])
def test_integers_are_attributes_or_inputs(opset: int) -> None:
    op = Builder(opset, ())
    node = with_ints(op, "Squeeze", ir.Value(name="x"), 13, axes=[1, 2]).producer()
    assert node is not None
    if opset < 13:
        assert list(node.attributes.get_ints("axes") or ()) == [1, 2]
    else:
        (given,) = op.initializers
        assert node.inputs[1] is given
        assert given.const_value is not None
        assert np.array_equal(given.const_value.numpy(), [1, 2])
