"""The least time a graph can take on a machine: forms that cannot win are not timed."""

from __future__ import annotations

import onnx_ir as ir

from advconv_onnx.costs import convolution_costs, element_count
from advconv_onnx.geometry import shape_of
from advconv_onnx.runtime.peak import Peak

_MOVING = frozenset(("Concat", "DepthToSpace", "Gather", "MatMul", "Slice", "Transpose"))
"""Operators that ONNX Runtime never merges with others: their output is written."""

_ITEMSIZE = 4


def least_ms(model: ir.Model, peak: Peak) -> float:
    """Milliseconds below which no inference of a model can come, fusions of the runtime included.

    Nodes run one after the other, each bound by its multiplications or by what it has to write.
    Element-wise operators count nothing, since a convolution may take them in.

    Args:
        model: its shapes are inferred; a node of unknown shape counts nothing.
        peak: what the machine does at best.
    """
    return sum(_least_ms(node, peak) for node in model.graph)


def _least_ms(node: ir.Node, peak: Peak) -> float:
    written = element_count(shape_of(node.outputs[0])) or 0
    moved = written * _ITEMSIZE / peak.bytes_per_ms if node.op_type in _MOVING else 0.0
    return max(_macs(node) / peak.macs_per_ms, moved)


def _macs(node: ir.Node) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "MatMul"):
        return 0
    x, w, y = (shape_of(v) for v in (node.inputs[0], node.inputs[1], node.outputs[0]))
    if node.op_type == "MatMul":
        inner = x[-1] if x else None
        return (element_count(y) or 0) * (inner if isinstance(inner, int) else 0)
    return convolution_costs(x, w, y, transposed=node.op_type == "ConvTranspose").macs or 0
