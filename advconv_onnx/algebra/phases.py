"""Phases: a layer's outputs in classes, each an ordinary small convolution of the same input.

The outputs first, first + step, first + 2 step ... of a transposed convolution, of a nearest
upsample followed by a convolution, or of a dilated or strided convolution are a convolution by
themselves, with fewer taps or of a coarser grid. Classes with the same outputs are added up.

Nothing here knows the number of input pixels: the pads of a phase give it as many outputs as its
class has, whatever the size. They may be negative, which crops.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from advconv_onnx.algebra.axis import AxisOperator, convolution


@dataclass(frozen=True, slots=True)
class Phase:
    """Outputs first, first + step, first + 2 step ... as a convolution C of the input.

    T[k, first + step * q, i] = sum_j taps[j][k] C[j, q, i]

    Attributes:
        first: the first output of the class.
        step: from one output to the next.
        taps: what the small kernel's taps j are in the large kernel's taps k: (r, K).
        stride: of the small convolution, as are ``dilation`` and ``pads``.
    """

    first: int
    step: int
    taps: tuple[tuple[Fraction, ...], ...]
    stride: int
    dilation: int
    pads: tuple[int, int]

    def operator(self, inputs: int) -> AxisOperator:
        """C, the small convolution by itself."""
        return convolution(
            inputs, len(self.taps), stride=self.stride, dilation=self.dilation, pads=self.pads
        )

    def outputs(self, inputs: int) -> int:
        """How many outputs the class has."""
        return max(0, (inputs + self._last) // self.stride + 1)

    def units(self) -> tuple[Phase, ...]:
        """The same in phases whose stride is their dilation: correlations of every n-th pixel.

        Outputs q and taps j then count alike, x[n (q + j) - pad], which Toom-Cook needs.
        """
        # A single tap may be called dilated by anything.
        dilation = self.dilation if len(self.taps) > 1 else self.stride
        unit = math.lcm(self.stride, dilation)
        phases = []
        for c in range(unit // self.stride):
            for j in range(min(unit // dilation, len(self.taps))):
                taps = self.taps[j :: unit // dilation]
                begin = self.pads[0] - j * dilation - c * self.stride
                end = self._last - c * self.stride + 1 + (len(taps) - 1) * unit - begin
                first, step = self.first + c * self.step, self.step * unit // self.stride
                phases.append(Phase(first, step, taps, unit, unit, (begin, end)))
        return tuple(phases)

    @property
    def _last(self) -> int:
        """Output q exists where stride * q is at most this plus the number of inputs."""
        return sum(self.pads) - (len(self.taps) - 1) * self.dilation - 1


def transposed_phases(
    taps: int, stride: int, dilation: int, pads: tuple[int, int], output_padding: int = 0
) -> tuple[Phase, ...]:
    """A transposed convolution, one class for each remainder of the output by the stride.

    >>> [len(phase.taps) for phase in transposed_phases(4, 2, 1, (1, 1))]
    [2, 2]
    """
    phases = []
    for a in range(stride):
        reads = {k: a + pads[0] - k * dilation for k in range(taps)}
        seen = {k: grid // stride for k, grid in reads.items() if grid % stride == 0}
        last = ((taps - 1) * dilation - sum(pads) + output_padding - a) // stride - 1
        phases.append(_phase(a, stride, taps, seen, 1, last))
    return tuple(phases)


def nearest_phases(
    taps: int, scale: int, pads: tuple[int, int], stride: int = 1, dilation: int = 1
) -> tuple[Phase, ...]:
    """Every pixel repeated ``scale`` times, then a convolution.

    Taps that land on the same input pixel are one tap, their weights added.

    >>> for phase in nearest_phases(3, 2, (1, 1)):
    ...     print([[int(s) for s in row] for row in phase.taps], phase.pads)
    [[1, 0, 0], [0, 1, 1]] (1, 0)
    [[1, 1, 0], [0, 0, 1]] (0, 1)
    """
    period = math.lcm(scale, stride)
    phases = []
    for a in range(period // stride):
        grid = a * stride - pads[0]
        reads = {k: (grid + k * dilation) // scale for k in range(taps)}
        last = (sum(pads) - (taps - 1) * dilation - 1 - a * stride) // scale
        phases.append(_phase(a, period // stride, taps, reads, period // scale, last))
    return tuple(phases)


def dilated_phases(taps: int, dilation: int, pads: tuple[int, int]) -> tuple[Phase, ...]:
    """A dilated convolution, one class for each remainder of the output by the dilation.

    All have the same taps: a convolution without dilation, of every ``dilation``-th pixel.

    >>> {(phase.step, phase.stride, phase.dilation) for phase in dilated_phases(3, 2, (2, 2))}
    {(2, 2, 2)}
    """
    return strided_phases(taps, 1, pads, dilation)


def strided_phases(
    taps: int, stride: int, pads: tuple[int, int], dilation: int = 1
) -> tuple[Phase, ...]:
    """A strided convolution as a sum over the remainders of the input by the stride.

    Each is a convolution without stride of every ``stride``-th pixel, with every ``stride``-th tap.

    >>> [(phase.first, len(phase.taps)) for phase in strided_phases(3, 2, (1, 1))]
    [(0, 2), (0, 1)]
    """
    every = tuple(tuple(Fraction(j == k) for k in range(taps)) for j in range(taps))
    return Phase(0, 1, every, stride, dilation, pads).units()


def _phase(
    first: int, step: int, taps: int, reads: Mapping[int, int], stride: int, last: int
) -> Phase:
    """The class in which output q reads pixel ``reads[k] + stride * q`` through tap k.

    Args:
        first: the first output of the class.
        step: from one output to the next.
        taps: of the large kernel; those that are not in ``reads`` see nothing.
        reads: by tap, the pixel that the first output sees.
        stride: from there to the pixel that the next output sees.
        last: output q exists where stride * q is at most this plus the number of inputs.
    """
    low, high = min(reads.values(), default=0), max(reads.values(), default=0)
    dilation = math.gcd(*(pixel - low for pixel in reads.values())) or 1
    pixels = range(low, high + 1, dilation)
    return Phase(
        first,
        step,
        tuple(tuple(Fraction(reads.get(k) == pixel) for k in range(taps)) for pixel in pixels),
        stride,
        dilation,
        (-low, last + 1 + high),
    )
