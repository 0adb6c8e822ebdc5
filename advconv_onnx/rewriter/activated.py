"""The activation behind a layer, which a form takes with it to where it costs least."""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.rule import NoSite
from advconv_onnx.rewriter.walk import maker, only_reader, producer

ACTIVATIONS = frozenset(
    ("Clip", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Relu", "Sigmoid", "Tanh")
)
"""Operators of each element by itself, most of which ONNX Runtime merges into a Conv above."""


def activated(root: ir.Node) -> tuple[ir.Node, ir.Node | None]:
    """The convolution that a site ends in, and the activation that alone reads it, if any.

    Raises:
        NoSite: the site does not end here.
    """
    if root.op_type in ACTIVATIONS:
        return producer(root.inputs[0], "Conv", "ConvTranspose", graph=root.graph), root
    reader = only_reader(root.outputs[0])
    if reader is not None and reader.op_type in ACTIVATIONS and reader.graph is root.graph:
        raise NoSite
    return root, None


def convolution_above(node: ir.Node) -> tuple[ir.Node, ir.Node | None]:
    """The Conv that a node reads, and the activation between them, if any.

    Raises:
        NoSite: the node reads something else.
    """
    activation = maker(node.inputs[0], *ACTIVATIONS, graph=node.graph)
    return producer((activation or node).inputs[0], "Conv", graph=node.graph), activation


def activate(op: Builder, y: ir.Value, activation: ir.Node | None) -> ir.Value:
    """Apply the same activation to another value."""
    if activation is None:
        return y
    inputs = [y, *activation.inputs[1:]]
    return op.node(activation.op_type, inputs, dict(activation.attributes)).outputs[0]
