"""A layer as the algebra sees it: a convolution and what spreads or pads its input before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from advconv_onnx.algebra.axis import AxisOperator
from advconv_onnx.errors import InputError
from advconv_onnx.geometry import RESIZES, axis_geometry
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.rule import Refused
from advconv_onnx.rewriter.walk import maker


@dataclasses.dataclass(frozen=True)
class LayerSite:
    """The nodes of one layer, in order.

    Attributes:
        nodes: perhaps a Resize, perhaps a Pad, then a Conv or ConvTranspose.
        convolution: the last of them.
    """

    nodes: tuple[ir.Node, ...]
    convolution: Convolution

    @classmethod
    def of(cls, root: ir.Node) -> LayerSite:
        """Read the layer that ends in a Conv or ConvTranspose.

        Raises:
            Refused: weight or bias is not constant.
        """
        nodes = [root]
        for wanted in (("Pad",), RESIZES) if root.op_type == "Conv" else ():
            above = maker(nodes[0].inputs[0], *wanted, graph=root.graph)
            if above is not None:
                nodes.insert(0, above)
        return cls(tuple(nodes), Convolution.of(root))

    @property
    def x(self) -> ir.Value:
        """What the layer reads."""
        x = self.nodes[0].inputs[0]
        assert x is not None
        return x

    @property
    def resize(self) -> ir.Node | None:
        """The Resize before the convolution."""
        return self.nodes[0] if self.nodes[0].op_type in RESIZES else None

    @property
    def batch(self) -> int | None:
        """Images at a time, None where that is dynamic."""
        return self._dimensions()[0]

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """Pixels of ``x`` along each spatial axis, None where dynamic."""
        return self._dimensions()[2:]

    @property
    def fixed_sizes(self) -> tuple[int, ...]:
        """The same, all of them known.

        Raises:
            Refused: one is dynamic.
        """
        sizes = [size for size in self.sizes if size]
        if len(sizes) < self.convolution.rank - 2:
            raise Refused("the form needs static shapes, and the image's size is dynamic")
        return tuple(sizes)

    def _dimensions(self) -> tuple[int | None, ...]:
        dims = self.x.shape or (None,) * self.convolution.rank
        return tuple(dim if isinstance(dim, int) else None for dim in dims)

    def operator(self, axis: int, size: int) -> AxisOperator:
        """What the layer does along a spatial axis of an input of ``size`` pixels.

        Raises:
            Refused: that depends on something that is not known.
        """
        return operator_of(self.nodes, axis, size)


def operator_of(nodes: Sequence[ir.Node], axis: int, size: int) -> AxisOperator:
    """What the nodes of a layer do along a spatial axis; a Resize alone has one tap.

    Raises:
        Refused: that depends on something that is not known.
    """
    try:
        return axis_geometry(nodes, axis, size).operator
    except InputError as error:
        raise Refused(str(error)) from error
