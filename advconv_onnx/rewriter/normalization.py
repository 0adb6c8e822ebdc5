"""An InstanceNormalization or LayerNormalization with constant scale and bias, read and rebuilt."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.affine import Affine
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import rank_of, required
from advconv_onnx.rewriter.rule import NoSite, Refused
from advconv_onnx.rewriter.walk import input_of


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Parameters of one node.

    Attributes:
        scale: in the type of the model: (C,), or the shape of the normalized axes.
        bias: of the same shape, zeros when the node has none.
        rank: of the tensor that is normalized.
    """

    node: ir.Node
    scale: np.ndarray
    bias: np.ndarray
    rank: int

    @classmethod
    def of(cls, node: ir.Node) -> Normalization:
        """Read a node.

        Raises:
            Refused: scale or bias are not constant, or the rank is unknown.
        """
        x, given = node.inputs[0], input_of(node, 2)
        scale = required(node.inputs[1], "scale")
        bias = np.zeros_like(scale) if given is None else required(given, "bias")
        if x is None or len(node.outputs) > 1:
            raise NoSite
        rank = rank_of(x)
        if rank is None or bias.shape != scale.shape:
            raise Refused(f"the rank of '{x.name}' is unknown, or the bias broadcast")
        return cls(node, scale, bias, rank)

    def rebuild(self, op: Builder, after: Affine) -> ir.Value:
        """The same normalization with ``after`` applied to its result.

        Raises:
            Refused: a number overflows.
        """
        scale = self.scale.astype(np.float64) * after.scale
        bias = self.bias.astype(np.float64) * after.scale + after.shift
        with np.errstate(over="ignore"):
            new = [array.astype(self.scale.dtype) for array in (scale, bias)]
        if not all(np.isfinite(array).all() for array in new):
            raise Refused(f"a folded number is not finite in {self.scale.dtype}")
        inputs = [self.node.inputs[0], op.initializer(new[0], "scale")]
        if self.node.op_type == "InstanceNormalization" or new[1].any():
            inputs.append(op.initializer(new[1], "bias"))
        return op.node(self.node.op_type, inputs, dict(self.node.attributes)).outputs[0]


def plain_instance_norm(op: Builder, x: ir.Value, channels: int, epsilon: float) -> ir.Value:
    """An InstanceNormalization of scale 1 and bias 0."""
    assert x.dtype is not None
    dtype = x.dtype.numpy()
    return op.InstanceNormalization(
        x,
        op.initializer(np.ones(channels, dtype), "scale"),
        op.initializer(np.zeros(channels, dtype), "bias"),
        epsilon=epsilon,
    )


def plain_layer_norm(
    op: Builder, x: ir.Value, sizes: tuple[int, ...], epsilon: float, dtype: ir.DataType | None
) -> ir.Value:
    """A LayerNormalization of scale 1 over the last axes, which have these sizes."""
    assert dtype is not None
    scale = op.initializer(np.ones(sizes, dtype.numpy()), "scale")
    return op.LayerNormalization(x, scale, axis=-len(sizes), epsilon=epsilon)
