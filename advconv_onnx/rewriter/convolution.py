"""A Conv or ConvTranspose node with constant weights, read once for all rules that fold into it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.constants import required
from advconv_onnx.rewriter.rule import Refused

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Convolution:
    """Weights and attributes of one node.

    Attributes:
        node: the Conv or ConvTranspose.
        weight: (C_out, C_in/group, ...) for Conv, (C_in, C_out/group, ...) for ConvTranspose.
        bias: (C_out,), float64, zeros when the node has none.
        group: number of channel groups.
    """

    node: ir.Node
    weight: Array
    bias: Array
    group: int

    @classmethod
    def of(cls, node: ir.Node) -> Convolution:
        """Read a node.

        Raises:
            Refused: weight or bias is not constant, or not floating-point.
        """
        weight = required(node.inputs[1], "weight")
        if not np.issubdtype(weight.dtype, np.floating):
            raise Refused(f"the weight is {weight.dtype}, not floating-point")
        group = node.attributes.get_int("group", 1)
        channels = weight.shape[1] * group if _is_transposed(node) else weight.shape[0]
        given = node.inputs[2] if len(node.inputs) > 2 else None
        bias = np.zeros(channels) if given is None else required(given, "bias")
        return cls(node, weight, bias.astype(np.float64), group)

    @property
    def x(self) -> ir.Value:
        """What is convolved."""
        x = self.node.inputs[0]
        assert x is not None
        return x

    @property
    def transposed(self) -> bool:
        """Whether this is a ConvTranspose."""
        return _is_transposed(self.node)

    @property
    def rank(self) -> int:
        """Rank of input and output: batch, channels and the spatial axes."""
        return self.weight.ndim

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        channels = self.weight.shape[0 if self.transposed else 1]
        return int(channels if self.transposed else channels * self.group)

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return len(self.bias)

    @property
    def auto_pad(self) -> str:
        """NOTSET, VALID, SAME_UPPER or SAME_LOWER."""
        return str(self.node.attributes.get_string("auto_pad", "NOTSET"))

    @property
    def kernel(self) -> tuple[int, ...]:
        """Taps along each spatial axis."""
        return tuple(map(int, self.weight.shape[2:]))

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the kernel in a Conv, of the input's pixels in a ConvTranspose."""
        return self._ints("strides", 1)

    @property
    def dilations(self) -> tuple[int, ...]:
        """Distances of taps."""
        return self._ints("dilations", 1)

    @property
    def output_padding(self) -> tuple[int, ...]:
        """What a ConvTranspose adds behind its output."""
        return self._ints("output_padding", 0)

    def _ints(self, name: str, default: int) -> tuple[int, ...]:
        return tuple(self.node.attributes.get_ints(name, [default] * (self.rank - 2)))

    @property
    def pads(self) -> tuple[int, ...]:
        """All beginnings, then all ends. Meaningless under ``auto_pad`` SAME."""
        none = [0] * 2 * (self.rank - 2)
        if self.auto_pad == "VALID":
            return tuple(none)
        return tuple(self.node.attributes.get_ints("pads", none))

    def pads_changed(self, change: Array) -> list[int]:
        """The pads plus ``change`` (2, spatial axes): all beginnings, then all ends.

        Raises:
            Refused: they depend on sizes, or would become negative.
        """
        if self.auto_pad.startswith("SAME"):
            raise Refused("the convolution's auto_pad depends on the size of its input")
        if self.node.attributes.get_ints("output_shape", None):
            raise Refused("the ConvTranspose fixes its output_shape")
        pads: list[int] = (np.array(self.pads) + np.ravel(change)).tolist()
        if min(pads) < 0:
            raise Refused(f"the convolution's pads would become negative: {pads}")
        return pads

    @property
    def is_padded(self) -> bool:
        """Whether some output may read beyond the input."""
        return self.auto_pad.startswith("SAME") or any(self.pads)

    def scale_output(self, scale: Array) -> Array:
        """The weight with each output channel multiplied by ``scale`` (C_out,), float64."""
        return self._scale_second(scale) if self.transposed else self._scale_first(scale)

    def scale_input(self, scale: Array) -> Array:
        """The weight with each input channel multiplied by ``scale`` (C_in,), float64."""
        return self._scale_first(scale) if self.transposed else self._scale_second(scale)

    def _scale_first(self, scale: Array) -> Array:
        return np.multiply(self.weight, scale.reshape(-1, *[1] * (self.rank - 1)))

    def _scale_second(self, scale: Array) -> Array:
        """Scale the weight's second axis, which runs within a group."""
        by_group = scale.reshape(self.group, 1, -1, *[1] * (self.rank - 2))
        return np.multiply(self._by_group(), by_group).reshape(self.weight.shape)

    def response_to(self, shift: Array) -> Array:
        """Output (C_out,) for an input that is ``shift`` (C_in,) in every pixel, bias left out.

        Holds for a Conv where every tap falls inside the input.
        """
        spatial = tuple(range(3, self.rank + 1))
        sums = self._by_group().astype(np.float64).sum(axis=spatial)
        response: Array = np.einsum("goc,gc->go", sums, shift.reshape(self.group, -1))
        return response.reshape(-1)

    def blocks(self, groups: int) -> Array:
        """The weight as if it had fewer groups, zeros filled in.

        Args:
            groups: a divisor of the number of groups.

        Returns:
            Shape (groups, C_out / groups, C_in / groups, ...), float64.
        """
        inner, taps = self.group // groups, self.weight.shape[2:]
        rows, columns = self.out_channels // self.group, self.in_channels // self.group
        shape = (columns, rows) if self.transposed else (rows, columns)
        own = self.weight.reshape(groups, inner, *shape, *taps)
        blocks = np.zeros((groups, inner, rows, inner, columns, *taps))
        for index in range(inner):
            part = own[:, index]
            blocks[:, index, :, index] = part.swapaxes(1, 2) if self.transposed else part
        return blocks.reshape(groups, inner * rows, inner * columns, *taps)

    def from_blocks(self, blocks: Array) -> Array:
        """A weight in this node's layout from blocks as ``blocks`` returns them."""
        ordered = blocks.swapaxes(1, 2) if self.transposed else blocks
        return ordered.reshape(-1, *ordered.shape[2:])

    def _by_group(self) -> Array:
        return self.weight.reshape(self.group, -1, *self.weight.shape[1:])

    def rebuild_scaled(self, op: Builder, scale: Array, shift: Array) -> ir.Value:
        """The same convolution, its output times ``scale`` plus ``shift``, both (C_out,).

        Raises:
            Refused: a weight that was finite overflows.
        """
        return self.rebuild(op, self.x, self.scale_output(scale), self.bias * scale + shift)

    def rebuild(
        self, op: Builder, x: ir.Value, weight: Array, bias: Array, **attributes: Any
    ) -> ir.Value:
        """The same convolution of ``x`` with new weights, rounded to the old weights' type.

        ``attributes`` replace those of the node. An absent bias stays absent while it is zero.

        Raises:
            Refused: a weight that was finite overflows.
        """
        dtype = self.weight.dtype
        with np.errstate(over="ignore"):
            new_weight = weight.astype(dtype)
            new_bias = bias.astype(dtype)
        if not (np.isfinite(new_weight).all() and np.isfinite(new_bias).all()):
            raise Refused(f"a folded weight is not finite in {dtype}")
        old_weight, old_bias = [*self.node.inputs, None][1:3]
        name = old_weight.name if old_weight else None
        inputs = [x, op.initializer(new_weight, name or "weight")]
        if old_bias is not None or new_bias.any():
            inputs.append(op.initializer(new_bias, f"{name or 'weight'}_bias"))
        kept = {name: a for name, a in self.node.attributes.items() if name not in attributes}
        new: ir.Value = getattr(op, self.node.op_type)(*inputs, **kept, **attributes)
        return new


def _is_transposed(node: ir.Node) -> bool:
    return node.op_type == "ConvTranspose"
