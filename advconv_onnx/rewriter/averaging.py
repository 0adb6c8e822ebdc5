"""How an AveragePool slides along each spatial axis, and what passes it unchanged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import onnx_ir as ir

from advconv_onnx.algebra import axis as algebra
from advconv_onnx.algebra.axis import AxisOperator
from advconv_onnx.algebra.certificate import Certificate, certify
from advconv_onnx.algebra.factor import Factorization
from advconv_onnx.algebra.toom_cook import Matrix
from advconv_onnx.rewriter.rule import Refused


@dataclasses.dataclass(frozen=True)
class Averaging:
    """One entry per spatial axis of ``kernel``, ``strides``, ``begins`` and ``ends``.

    Attributes:
        kernel: pixels of a window.
        begins: pads before; 0 where ``auto_pad`` decides.
        ends: pads behind; 0 where ``auto_pad`` decides.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        rounds_up: a last window may overhang the padding; what overhangs never counts.
        counts_pads: zeros around the image belong to the means.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    auto_pad: str
    rounds_up: bool
    counts_pads: bool

    @classmethod
    def of(cls, pool: ir.Node) -> Averaging:
        """Read an AveragePool.

        Raises:
            Refused: some window may hold no pixel, or is no contiguous one.
        """
        attributes = pool.attributes
        kernel = tuple(attributes.get_ints("kernel_shape", ()))
        rank = len(kernel)
        auto_pad = attributes.get_string("auto_pad", "") or "NOTSET"
        pads = attributes.get_ints("pads", [0] * 2 * rank)
        if auto_pad != "NOTSET":
            pads = [0] * 2 * rank
        made = cls(
            kernel=kernel,
            strides=tuple(attributes.get_ints("strides", [1] * rank)),
            begins=tuple(pads[:rank]),
            ends=tuple(pads[rank:]),
            auto_pad=auto_pad,
            rounds_up=bool(attributes.get_int("ceil_mode", 0)),
            counts_pads=bool(attributes.get_int("count_include_pad", 0)),
        )
        if any(dilation != 1 for dilation in attributes.get_ints("dilations", ())):
            raise Refused("the AveragePool is dilated")
        if made.rounds_up and (auto_pad != "NOTSET" or made.averages_zeros):
            raise Refused("the AveragePool rounds its size up and is padded in another way, too")
        overhangs = [stride - 1 if made.rounds_up else 0 for stride in made.strides]
        behind = [end + more for end, more in zip(made.ends, overhangs, strict=True)]
        if any(max(*ends) >= k for *ends, k in zip(made.begins, behind, kernel, strict=True)):
            raise Refused("a window of the AveragePool may hold no pixel")
        return made

    @property
    def is_padded(self) -> bool:
        """Whether some window may reach beyond the image."""
        same = self.auto_pad.startswith("SAME")
        return same or self.rounds_up or any((*self.begins, *self.ends))

    @property
    def averages_zeros(self) -> bool:
        """Whether the zeros of the padding may belong to a mean."""
        same = self.auto_pad.startswith("SAME")
        return self.counts_pads and (same or any((*self.begins, *self.ends)))

    def operator(self, axis: int, size: int) -> AxisOperator:
        """What the pool does along a spatial axis of an image of ``size`` pixels."""
        kernel, stride = self.kernel[axis], self.strides[axis]
        begin, end = self.begins[axis], self.ends[axis]
        if self.auto_pad.startswith("SAME"):
            total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            small, large = total // 2, total - total // 2
            begin, end = (small, large) if self.auto_pad == "SAME_UPPER" else (large, small)
        elif self.rounds_up:
            end += -(size + begin + end - kernel) % stride
        return algebra.average_pool(
            size,
            kernel,
            stride=stride,
            pads=(begin, end),
            count_include_pad=self.averages_zeros,
        )


def certify_constant(
    identity: str, operator: Callable[[int], AxisOperator], sizes: Sequence[int]
) -> Certificate:
    """Prove that one number in all pixels stays that number, for some numbers of pixels.

    Raises:
        NotEqual: it does not.
    """
    found = [
        certify(
            f"{identity}, {size} pixels",
            algebra.resize(1, operator(size).outputs, scale=operator(size).outputs),
            operator(size).after(algebra.resize(1, size, scale=size)),
        )
        for size in sizes
    ]
    spread = (sizes[0], sizes[-1]) if len(sizes) > 1 else None
    return Certificate(identity, sum(certificate.entries for certificate in found), spread)


def combined(weights: Matrix, slides: AxisOperator) -> Factorization:
    """A convolution whose taps are sums of those of another: ``weights`` (taps, the other's)."""
    pixels = algebra.identity(slides.inputs)
    before = AxisOperator(slides.inputs, pixels.rows * slides.taps)
    return Factorization(weights, before, slides)
