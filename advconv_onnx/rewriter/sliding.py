"""How the kernel of a convolution slides along each spatial axis, whatever way its pads are given.

The taps of a kernel lie at the offsets ``dilation * tap - begin`` from where it stands. Both a Conv
and a ConvTranspose keep their result when a kernel is extended by taps of zero and its pads by as
many cells, ``dilation`` times the taps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.rule import Refused


@dataclasses.dataclass(frozen=True)
class Sliding:
    """One entry per spatial axis.

    Attributes:
        kernel: taps.
        strides: of the kernel in a Conv, of the input's pixels in a ConvTranspose.
        dilations: distance of taps.
        begins: pads before.
        ends: pads behind.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, convolution: Convolution) -> Sliding:
        """Read a convolution.

        Raises:
            Refused: its pads depend on the input's size.
        """
        kernel, dilations = convolution.kernel, convolution.dilations
        strides = convolution.strides
        begins, ends = convolution.pads[: len(kernel)], convolution.pads[len(kernel) :]
        if convolution.auto_pad.startswith("SAME"):
            if convolution.transposed or any(stride != 1 for stride in strides):
                raise Refused("its auto_pad depends on the input's size")
            spans = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
            halves = tuple(span // 2 for span in spans)
            rests = tuple(span - span // 2 for span in spans)
            upper = convolution.auto_pad == "SAME_UPPER"
            begins, ends = (halves, rests) if upper else (rests, halves)
        return cls(kernel, strides, dilations, begins, ends)

    @property
    def spans(self) -> tuple[int, ...]:
        """Distance of the first and the last tap."""
        return tuple(d * (k - 1) for d, k in zip(self.dilations, self.kernel, strict=True))

    @property
    def growth(self) -> tuple[int, ...]:
        """Cells padded beyond the span: what an output at stride 1 has more than the input."""
        return tuple(
            begin + end - span
            for begin, end, span in zip(self.begins, self.ends, self.spans, strict=True)
        )

    def kept_taps(self, axis: int, used: Sequence[int]) -> slice:
        """Taps that stay if only those ``used`` matter.

        Those are the taps from the first to the last used, as far as pads allow to take others
        away, in the widest steps that miss none used.
        """
        dilation, last = self.dilations[axis], self.kernel[axis] - 1
        first = min(used[0], self.begins[axis] // dilation)
        last -= min(last - used[-1], self.ends[axis] // dilation)
        step = math.gcd(last - first, *(tap - first for tap in used)) or 1
        return slice(first, last + 1, step)

    def trimmed(self, kept: Sequence[slice]) -> Sliding:
        """How the kernel slides when only ``kept`` taps are left of it."""
        axes = range(len(kept))
        taps = [range(size)[part] for size, part in zip(self.kernel, kept, strict=True)]
        dilations = self.dilations
        return Sliding(
            tuple(map(len, taps)),
            self.strides,
            tuple(dilations[i] * (taps[i].step if len(taps[i]) > 1 else 1) for i in axes),
            tuple(self.begins[i] - dilations[i] * taps[i][0] for i in axes),
            tuple(self.ends[i] - dilations[i] * (self.kernel[i] - 1 - taps[i][-1]) for i in axes),
        )

    @property
    def attributes(self) -> dict[str, Any]:
        """As attributes of a node."""
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "dilations": list(self.dilations),
            "pads": [*self.begins, *self.ends],
            "auto_pad": "NOTSET",
        }


def alike(one: Convolution, other: Convolution) -> bool:
    """Whether two convolutions differ in nothing but their weights and their output channels."""
    return _settings(one) == _settings(other)


def _settings(convolution: Convolution) -> tuple[Any, ...]:
    return (
        convolution.node.op_type,
        convolution.weight.dtype,
        convolution.kernel,
        convolution.in_channels,
        convolution.group,
        convolution.auto_pad,
        convolution.pads,
        convolution.strides,
        convolution.dilations,
        convolution.output_padding,
        tuple(convolution.node.attributes.get_ints("output_shape", ())),
    )
