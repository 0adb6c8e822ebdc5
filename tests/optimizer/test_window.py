"""A window holds the site and its light neighbours, with cheap convolutions around them."""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.optimizer.window import window
from tests.rewriter.test_fusions import parse


def model(
    nodes: str, inputs: str = "float[1, 32, 8, 8] x", w: str = "float[32, 32, 3, 3] w"
) -> ir.Model:
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g ({inputs}, {w}) => (float[] z) {{ {nodes} }}"""
    )


_CONV = "Conv <pads = [1, 1, 1, 1]>"


def windowed(graph: ir.Model, *outputs: str) -> ir.Model:
    nodes = [node for node in graph.graph if node.outputs[0].name in outputs]
    return window(nodes, dict(graph.opset_imports))


def types(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph]


def test_heavy_neighbours_are_replaced_by_cheap_ones() -> None:
    chain = model(
        f"a = {_CONV} (x, w) b = Relu (a) c = {_CONV} (b, w) d = Relu (c) z = {_CONV} (d, w)"
    )
    found = windowed(chain, "c")
    assert types(found) == ["Conv", "Relu", "Conv", "Relu", "Conv"]
    feed, _, site, _, read = found.graph
    assert [*feed.inputs[0].shape] == [1, 16, 8, 8]
    assert [*read.outputs[0].shape] == [1, 16, 8, 8]
    assert site.name == chain.graph[2].name
    assert [*site.inputs[0].shape] == [1, 32, 8, 8]


def test_what_reads_a_graph_input_or_leaves_the_graph_has_no_layout_to_keep() -> None:
    found = windowed(model(f"z = {_CONV} (x, w)"), "z")
    assert types(found) == ["Conv"]
    assert [value.name for value in found.graph.inputs] == ["x", "w"]


def test_a_transposed_convolution_keeps_no_layout() -> None:
    chain = model(f"a = ConvTranspose (x, w) b = {_CONV} (a, w) z = ConvTranspose (b, w)")
    found = windowed(chain, "b")
    assert types(found) == ["Conv"]


def test_skips_and_light_readers_come_along_with_their_other_operands() -> None:
    chain = model(
        f"a = {_CONV} (x, w) b = {_CONV} (a, w) c = Add (b, a) d = Relu (c) z = {_CONV} (d, w)"
    )
    found = windowed(chain, "b")
    # One cheap convolution makes what the site and the sum both read.
    assert types(found) == ["Conv", "Conv", "Add", "Relu", "Conv"]


def test_thin_images_are_left_alone() -> None:
    thin = model(
        f"a = {_CONV} (x, w) b = {_CONV} (a, w) z = {_CONV} (b, w)",
        "float[1, 4, 8, 8] x",
        "float[4, 4, 3, 3] w",
    )
    found = windowed(thin, "b")
    assert types(found) == ["Conv"]
