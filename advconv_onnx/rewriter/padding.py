"""Reading a Pad with constant pads."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from advconv_onnx.rewriter.constants import constant, required
from advconv_onnx.rewriter.rule import Refused
from advconv_onnx.rewriter.walk import input_of


@dataclasses.dataclass(frozen=True)
class Padding:
    """What a Pad adds, and takes away where numbers are negative.

    Attributes:
        amounts: elements at the (beginning, end) of each axis, shape (2, rank).
        value: what they are.
    """

    amounts: NDArray[np.int64]
    value: float

    @classmethod
    def of(cls, pad: ir.Node, rank: int) -> Padding:
        """Read a node.

        Raises:
            Refused: it repeats pixels, or its pads, axes or value are not constant.
        """
        mode = pad.attributes.get_string("mode", "constant")
        if mode != "constant":
            raise Refused(f"the Pad's mode is {mode}")
        if "pads" in pad.attributes:  # before opset 11
            given = np.array(pad.attributes.get_ints("pads"), np.int64)
            return cls(given.reshape(2, rank), float(pad.attributes.get_float("value", 0.0)))
        value = _optional(pad, 2, "value", np.zeros(()))
        axes = _optional(pad, 3, "axes", np.arange(rank)) % rank
        amounts = np.zeros((2, rank), np.int64)
        amounts[:, axes] = required(pad.inputs[1], "Pad's pads").reshape(2, -1)
        return cls(amounts, float(value.reshape(-1)[0]) if value.size else 0.0)

    @property
    def spatial(self) -> NDArray[np.int64]:
        """The amounts of the spatial axes, shape (2, rank - 2).

        Raises:
            Refused: batch or channels are padded or cropped too.
        """
        if self.amounts[:, :2].any():
            raise Refused("the Pad changes batch or channels")
        return self.amounts[:, 2:]


def _optional(
    pad: ir.Node, index: int, role: str, default: NDArray[np.generic]
) -> NDArray[np.generic]:
    given = input_of(pad, index)
    if given is None:
        return default
    array = constant(given)
    if array is None:
        raise Refused(f"the Pad's {role} is not constant")
    return array
