"""Which nodes a layer has, what is known of its sizes, and its operator."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from advconv_onnx.algebra import axis as algebra
from advconv_onnx.rewriter.layer_site import LayerSite, operator_of
from advconv_onnx.rewriter.rule import Refused
from tests.parsing import normal, parse

_RESIZE = 'u = Resize <coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">'
_CONV = "z = Conv <strides = [2, 1]>"


def last(nodes: str, x: str = "float[N, 4, 6, W]") -> ir.Node:
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 18]> g ({x} x, float[3, 4, 3, 2] v) => (float[] z)
        <float[4] s = {{1, 1, 2, 3}}, int64[8] n = {{0, 0, 1, 0, 0, 0, 2, 0}}> {{ {nodes} }}""",
        w=normal(4, 4, 3, 2),
    )
    return model.graph.node(-1)


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        (f"{_CONV} (x, w)", ["Conv"]),
        (f"{_RESIZE} (x, , s) {_CONV} (u, w)", ["Resize", "Conv"]),
        (f"u = Relu(x) p = Pad(u, n) {_CONV} (p, w)", ["Pad", "Conv"]),
        (f"{_RESIZE} (x, , s) p = Pad(u, n) {_CONV} (p, w)", ["Resize", "Pad", "Conv"]),
        (f"{_RESIZE} (x, , s) p = Pad(u, n) y = Relu(p) {_CONV} (y, w)", ["Conv"]),
        (f"p = Pad(x, n) u = Resize(p, , s) {_CONV} (u, w)", ["Resize", "Conv"]),
        (f"{_RESIZE} (x, , s) z = ConvTranspose(u, w)", ["ConvTranspose"]),
    ],
)
def test_what_belongs_to_a_layer(nodes: str, wanted: list[str]) -> None:
    layer = LayerSite.of(last(nodes))
    assert [node.op_type for node in layer.nodes] == wanted
    assert layer.convolution.node is layer.nodes[-1]
    assert layer.x is layer.nodes[0].inputs[0]
    assert layer.resize is (layer.nodes[0] if "Resize" in wanted else None)


def test_a_layer_keeps_to_its_graph() -> None:
    """A body cannot take the Resize outside away."""
    body = "{ z = Conv(u, w) }"
    branches = (
        f"<then_branch = t () => (float[] z) {body}, else_branch = e () => (float[] z) {body}>"
    )
    node = last(f"c = Constant <value = bool {{1}}> () {_RESIZE} (x, , s) y = If (c) {branches}")
    assert len(LayerSite.of(node.attributes["then_branch"].as_graph().node(-1)).nodes) == 1


@pytest.mark.parametrize(
    ("x", "known"),
    [("[N, 4, 6, W]", (None, 6, None)), ("[2, 4, ?, 5]", (2, None, 5)), ("[]", (None, None, None))],
)
def test_dynamic_sizes(x: str, known: tuple[int | None, ...]) -> None:
    layer = LayerSite.of(last(f"{_CONV} (x, w)", f"float{x}"))
    assert (layer.batch, *layer.sizes) == known
    with pytest.raises(Refused, match="static shapes"):
        _ = layer.fixed_sizes


def test_fixed_sizes() -> None:
    layer = LayerSite.of(last(f"{_CONV} (x, w)", "float[2, 4, 6, 5]"))
    assert (layer.batch, layer.sizes, layer.fixed_sizes) == (2, (6, 5), (6, 5))


def test_operator_of_the_whole_layer_and_of_a_part() -> None:
    layer = LayerSite.of(last(f"{_RESIZE} (x, , s) p = Pad(u, n) {_CONV} (p, w)"))
    rows = algebra.resize(5, scale=2)
    assert operator_of(layer.nodes[:1], 0, 5) == rows
    assert layer.operator(0, 5) == algebra.convolution(10, 3, stride=2, pads=(1, 2)).after(rows)
    assert layer.operator(1, 5) == algebra.convolution(15, 2).after(algebra.resize(5, scale=3))


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(Refused, match="weight"):
        LayerSite.of(last("z = Conv(x, v)"))
    computed = LayerSite.of(last(f"k = Shape(v) p = Pad(x, k) {_CONV} (p, w)"))
    with pytest.raises(Refused, match="computed"):
        computed.operator(0, 5)
