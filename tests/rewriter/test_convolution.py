"""A convolution's algebra, with torch as the judge."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.rule import Refused
from tests.parsing import normal, parse

GEOMETRIES = [
    pytest.param(transposed, spatial, group, id=f"{'transposed-' * transposed}{spatial}d-{group}")
    for transposed, spatial, group in itertools.product((False, True), (1, 2, 3), (1, 2, 6))
]


def torch_convolution(transposed: bool, spatial: int) -> Any:
    return getattr(torch.nn.functional, f"conv{'_transpose' * transposed}{spatial}d")


def weight_of(transposed: bool, spatial: int, group: int) -> np.ndarray:
    """Six channels in and, per group, two out."""
    shape = (6, 2) if transposed else (2 * group, 6 // group)
    return normal(*shape, *(2, 3, 2)[:spatial])


def read(transposed: bool, weight: np.ndarray, attributes: str, *bias: np.ndarray) -> Convolution:
    operator = "ConvTranspose" if transposed else "Conv"
    model = parse(
        '<ir_version: 8, opset_import: ["" : 15]> g (float[] x) => (float[] z)'
        f"{{ z = {operator} <{attributes}> (x, w{', b' * len(bias)}) }}".replace("<>", ""),
        w=weight, **({"b": bias[0]} if bias else {}),
    )  # fmt: skip
    return Convolution.of(model.graph.node(0))


def run(transposed: bool, x: np.ndarray, weight: np.ndarray, group: int) -> np.ndarray:
    arguments = (torch.from_numpy(np.asarray(a, np.float64)) for a in (x, weight))
    result = torch_convolution(transposed, x.ndim - 2)(*arguments, groups=group)
    return np.asarray(result)


@pytest.mark.parametrize(("transposed", "spatial", "group"), GEOMETRIES)
def test_scaling_and_response(transposed: bool, spatial: int, group: int) -> None:
    weight = weight_of(transposed, spatial, group)
    v = read(transposed, weight, f"group = {group}")
    assert (v.transposed, v.rank, v.group) == (transposed, spatial + 2, group)
    assert (v.in_channels, v.out_channels) == (6, 2 * group)
    x, ones = normal(2, 6, *(4, 5, 3)[:spatial], seed=1), [1] * spatial
    incoming, outgoing = normal(6, seed=2), normal(2 * group, seed=3)

    scaled = v.scale_output(outgoing).reshape(weight.shape)
    want = run(transposed, x, weight, group) * outgoing.reshape(-1, *ones)
    np.testing.assert_allclose(run(transposed, x, scaled, group), want, rtol=1e-5, atol=1e-5)

    scaled = v.scale_input(incoming).reshape(weight.shape)
    want = run(transposed, x * incoming.reshape(-1, *ones), weight, group)
    np.testing.assert_allclose(run(transposed, x, scaled, group), want, rtol=1e-5, atol=1e-5)

    if not transposed:
        flat = np.broadcast_to(incoming.reshape(-1, *ones), x.shape)
        want = run(transposed, flat, weight, group)
        got = np.broadcast_to(v.response_to(incoming).reshape(-1, *ones), want.shape)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "pads", "is_padded"),
    [
        ("", (0, 0, 0, 0), False),
        ("pads = [0, 0, 0, 0]", (0, 0, 0, 0), False),
        ("pads = [0, 1, 0, 2]", (0, 1, 0, 2), True),
        ('auto_pad = "VALID"', (0, 0, 0, 0), False),
        ('auto_pad = "VALID", pads = [1, 0, 2, 1]', (0, 0, 0, 0), False),
        ('auto_pad = "SAME_UPPER"', (0, 0, 0, 0), True),
        ('auto_pad = "SAME_LOWER"', (0, 0, 0, 0), True),
    ],
)
def test_padding(attributes: str, pads: tuple[int, ...], is_padded: bool) -> None:
    v = read(False, normal(2, 3, 1, 1), attributes)
    assert v.pads == pads
    assert v.is_padded == is_padded


def test_an_absent_bias_stays_absent_while_it_is_zero() -> None:
    weight, x = normal(4, 3, 2, 2), ir.Value(name="x")
    for bias, given, inputs in (
        (np.zeros(4), (), 2),
        (np.ones(4), (), 3),
        (np.zeros(4), (normal(4),), 3),
    ):
        v, op = read(False, weight, "strides = [2, 1], group = 1", *given), Builder(15, ["conv"])
        assert np.array_equal(v.bias, given[0] if given else np.zeros(4))
        node = v.rebuild(op, x, weight * 2, bias, pads=[1, 1, 1, 1]).producer()
        assert len(node.inputs) == inputs
        assert node.inputs[0] is x
        assert node.inputs[1].const_value.dtype == ir.DataType.FLOAT
        assert node.attributes.get_ints("strides") == (2, 1)
        assert node.attributes.get_ints("pads") == (1, 1, 1, 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_overflow_is_refused(dtype: Any) -> None:
    v = read(False, np.ones((4, 3, 1, 1), dtype), "")
    for weight, bias in (
        (v.weight, np.full(4, 1e39)),
        (v.weight.astype(np.float64) * 1e39, v.bias),
    ):
        with pytest.raises(Refused, match=f"not finite in {np.dtype(dtype)}"):
            v.rebuild(Builder(15, ["conv"]), ir.Value(name="x"), weight, bias)


def test_weights_must_be_constant_floats() -> None:
    head = (
        '<ir_version: 8, opset_import: ["" : 15]> g (float[] x, float[4, 3, 1, 1] u) => (float[] z)'
    )
    for nodes, reason in (
        ("z = Conv(x, u)", "the weight is not constant"),
        ("b = Relu(c) z = Conv(x, w, b)", "the bias is not constant"),
        ("z = Conv(x, i)", "int8, not floating-point"),
    ):
        model = parse(
            f"{head} {{ {nodes} }}",
            w=normal(4, 3, 1, 1),
            c=normal(4),
            i=np.ones((4, 3, 1, 1), np.int8),
        )
        with pytest.raises(Refused, match=reason):
            Convolution.of(model.graph.node(-1))
