"""Parameters, multiply-accumulates, memory traffic and receptive field of one convolution.

Plain geometry, no ONNX objects, any number of spatial axes. Shapes are those of ONNX: activations
are (N, C, *spatial), the weight is (C_out, C_in / group, *kernel) of a Conv and
(C_in, C_out / group, *kernel) of a ConvTranspose.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction

from advconv_onnx.records import Costs, Shape


def convolution_costs(
    input_shape: Shape | None,
    weight_shape: Shape | None,
    output_shape: Shape | None,
    *,
    bias: int = 0,
    transposed: bool = False,
    itemsizes: tuple[float, float, float] = (4, 4, 4),
) -> Costs:
    """Costs of a dense, grouped, depthwise or transposed convolution.

    Each weight meets each output position once (a transposed convolution's: each input position),
    so grouping needs no term of its own: it is in the weight's shape. Products with padding count,
    as is usual; the additions of the bias do not.

    Args:
        input_shape: None, or None in it, where unknown; likewise the other shapes.
        weight_shape: the shape as ONNX stores it.
        output_shape: the shape after padding, stride and dilation.
        bias: how many elements the bias has, 0 for none.
        transposed: whether the weight is a ConvTranspose's.
        itemsizes: bytes per element of the input, of weights and bias, and of the output.

    Example: a 3x3 convolution from 8 to 16 channels with bias.

    >>> convolution_costs((1, 8, 32, 32), (16, 8, 3, 3), (1, 16, 32, 32), bias=16)
    Costs(parameters=1168, macs=1179648, bytes=102976)
    """
    weights = element_count(weight_shape)
    mapped = input_shape if transposed else output_shape
    positions = element_count(mapped and (mapped[0], *mapped[2:]))
    sizes = (element_count(input_shape), weights, element_count(output_shape))
    traffic = [s * b for s, b in zip(sizes, itemsizes, strict=True) if s is not None]
    return Costs(
        parameters=None if weights is None else weights + bias,
        macs=None if weights is None or positions is None else weights * positions,
        bytes=math.ceil(sum(traffic) + bias * itemsizes[1]) if len(traffic) == 3 else None,
    )


def add_costs(first: Costs, second: Costs) -> Costs:
    """Costs of two layers together; None where one is unknown."""

    def add(a: int | None, b: int | None) -> int | None:
        return None if a is None or b is None else a + b

    return Costs(
        add(first.parameters, second.parameters),
        add(first.macs, second.macs),
        add(first.bytes, second.bytes),
    )


def element_count(shape: Shape | None) -> int | None:
    """Number of elements of a tensor, None unless every dimension is known."""
    sizes = [dim for dim in shape or () if isinstance(dim, int)]
    return None if shape is None or len(sizes) < len(shape) else math.prod(sizes)


def effective_kernel(kernel_shape: Sequence[int], dilations: Sequence[int]) -> tuple[int, ...]:
    """Extent of a dilated kernel per axis: k taps with d - 1 gaps cover ``(k - 1) * d + 1``.

    >>> effective_kernel((3, 3), (1, 2))
    (3, 5)
    """
    return tuple((k - 1) * d + 1 for k, d in zip(kernel_shape, dilations, strict=True))


@dataclasses.dataclass(frozen=True, slots=True)
class ReceptiveField:
    """How much of a network's input one position of a tensor depends on, along one axis.

    Every local layer is zero insertion, then a window, then a stride; ``through`` composes them.
    Inserted zeros carry nothing from the input, so behind an upsampling the reach beyond a position
    counts only in whole steps of the grid that was upsampled. That is exact until a stride follows
    the upsampling; from there on it is an upper bound.

    Attributes:
        reach: input pixels beyond the first, complete up to the current grid.
        grid: distance in input pixels of the positions that are not inserted zeros.
        extra: reach since then, in steps of that grid.
        jump: distance of neighbouring positions, in steps of that grid; below 1 after upsampling.

    Example: 3x3 with stride 2, then 3x3.

    >>> ReceptiveField().through(3, stride=2).through(3).size
    7
    """

    reach: int = 0
    grid: int = 1
    extra: Fraction = Fraction(0)
    jump: Fraction = Fraction(1)

    @property
    def size(self) -> int:
        """Pixels from the first to the last one, for the position that depends on most."""
        return 1 + self.reach + self.grid * math.floor(self.extra)

    def through(self, kernel: int = 1, *, stride: int = 1, upscale: int = 1) -> ReceptiveField:
        """The field behind one more layer.

        Args:
            kernel: effective extent of the window.
            stride: step of the window.
            upscale: stride of a transposed convolution, or the factor of a repeating upsampling,
                whose ``kernel`` is that factor too.
        """
        jump = self.jump / upscale
        extra = self.extra + (kernel - 1) * jump
        jump *= stride
        if jump.denominator > 1:
            return ReceptiveField(self.reach, self.grid, extra, jump)
        reach = self.reach + self.grid * math.floor(extra)
        return ReceptiveField(reach, self.grid * jump.numerator)
