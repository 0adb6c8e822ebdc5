"""The sliding window of a convolution or pooling: its geometry, checked, in any number of axes."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict, cast

from advconv_onnx.costs import effective_kernel
from advconv_onnx.errors import InputError

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


class Geometry(TypedDict, total=False):
    """Options that every sliding window takes; an int stands for the same on every axis.

    Attributes:
        strides: steps between neighbouring outputs, 1 by default.
        pads: zeros around the input, 0 by default: one number per axis for both sides, or those of
            all begins followed by those of all ends, as ONNX has it.
        dilations: distances of neighbouring taps, 1 by default (no gaps).
        auto_pad: NOTSET (``pads`` count), VALID (none), or SAME_UPPER and SAME_LOWER: as many as
            make the output ceil(input / stride) large, the odd one at the end or at the beginning.
    """

    strides: int | Sequence[int]
    pads: int | Sequence[int]
    dilations: int | Sequence[int]
    auto_pad: str


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """A checked geometry, one number per spatial axis; ``pads`` has begins, then ends.

    >>> window = Window.of((32, 32), 3, {"pads": 1, "strides": 2})
    >>> window.output_size((32, 32))
    (16, 16)
    """

    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    auto_pad: str

    @classmethod
    def of(
        cls,
        size: Sequence[Any],
        kernel_shape: int | Sequence[int],
        geometry: Geometry | None = None,
    ) -> Window:
        """Check a geometry against the spatial size it slides over.

        Args:
            size: of the input; dimensions that are no int are unknown and fit anything.
            kernel_shape: taps per axis.
            geometry: the rest, everything default when None.

        Raises:
            InputError: a number that is missing or out of range, an unknown ``auto_pad``, or a
                kernel that does not fit into the padded input.
        """
        geometry = geometry or {}
        rank, auto_pad = len(size), geometry.get("auto_pad", "NOTSET")
        if auto_pad not in AUTO_PADS:
            raise InputError(f"auto_pad={auto_pad}; use one of {', '.join(AUTO_PADS)}")
        window = cls(
            per_axis("kernel_shape", kernel_shape, rank),
            per_axis("strides", geometry.get("strides", 1), rank),
            both_sides(geometry.get("pads", 0), rank),
            per_axis("dilations", geometry.get("dilations", 1), rank),
            auto_pad,
        )
        if auto_pad != "NOTSET" and any(window.pads):
            raise InputError(f"auto_pad={auto_pad} decides the pads; leave the pads out")
        for axis, (dim, extent) in enumerate(zip(size, window.extent, strict=True)):
            begin, end = window.pads[axis], window.pads[axis + rank]
            is_same = auto_pad.startswith("SAME")
            if isinstance(dim, int) and not is_same and extent > begin + dim + end:
                raise InputError(
                    f"the kernel covers {extent} pixels of spatial axis {axis}, the input has "
                    f"{dim} and pads {begin} + {end}; shrink the kernel or dilation, or pad more"
                )
        return window

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels from the first to the last tap, gaps included."""
        return effective_kernel(self.kernel_shape, self.dilations)

    def output_size(self, size: Sequence[Any]) -> tuple[Any, ...]:
        """Positions of the window on an input, ints or symbolic expressions like the input's."""
        rank = len(self.kernel_shape)
        if self.auto_pad.startswith("SAME"):
            return tuple((n + s - 1) // s for n, s in zip(size, self.strides, strict=True))
        axes = zip(size, self.extent, self.strides, self.pads[:rank], self.pads[rank:], strict=True)
        return tuple((n + begin + end - extent) // s + 1 for n, extent, s, begin, end in axes)

    def padding(self, size: Sequence[Any]) -> tuple[tuple[int, int], ...]:
        """Zeros before and after each axis of an input, ``auto_pad`` resolved.

        Raises:
            InputError: SAME padding of an axis with a stride depends on a size that is unknown.
        """
        rank = len(self.kernel_shape)
        if not self.auto_pad.startswith("SAME"):
            return tuple(zip(self.pads[:rank], self.pads[rank:], strict=True))
        pairs = []
        for n, extent, s in zip(size, self.extent, self.strides, strict=True):
            if s > 1 and not isinstance(n, int):
                raise InputError(
                    f"auto_pad={self.auto_pad} at stride {s} depends on the size '{n}'; fix it, or "
                    "give pads"
                )
            # Without a stride the sum is the same for every size.
            total = extent - 1 if s == 1 else max(0, (-(-n // s) - 1) * s + extent - n)
            small, large = total // 2, total - total // 2
            pairs.append((small, large) if self.auto_pad == "SAME_UPPER" else (large, small))
        return tuple(pairs)

    def attributes(self, size: Sequence[Any]) -> Mapping[str, Any]:
        """The attributes of an ONNX node that slides over an input of this size.

        They have ``auto_pad`` only where the pads depend on a size that is unknown: ONNX Runtime
        refuses it together with dilations.

        Raises:
            InputError: such a case, with dilations.
        """
        try:
            begins, ends = zip(*self.padding(size), strict=True)
            padding: dict[str, Any] = {"pads": (*begins, *ends)}
        except InputError:
            if max(self.dilations) > 1:
                raise
            padding = {"auto_pad": self.auto_pad}
        return {
            "kernel_shape": self.kernel_shape,
            "strides": self.strides,
            "dilations": self.dilations,
            **padding,
        }


def per_axis(name: str, value: Any, rank: int, *, least: int = 1) -> tuple[int, ...]:
    """One number per spatial axis, given as that many or as one for all.

    Raises:
        InputError: too few or too many of them, one below ``least``, or none that is whole.
    """
    numbers = _whole(value) * (1 if isinstance(value, Iterable) else rank)
    if len(numbers) != rank or any(number < least for number in numbers):
        several = f", or {rank} of them, one per spatial axis" if rank > 1 else ""
        raise InputError(f"{name}={value}; give one integer from {least} up{several}")
    return numbers


def both_sides(pads: Any, rank: int) -> tuple[int, ...]:
    """Pads as ONNX stores them: the begins of all axes, then the ends.

    Raises:
        InputError: neither one number, nor one or two per spatial axis, or a negative one.
    """
    numbers = _whole(pads) * (1 if isinstance(pads, Iterable) else rank)
    numbers = numbers * 2 if len(numbers) == rank else numbers
    if len(numbers) != 2 * rank or any(number < 0 for number in numbers):
        raise InputError(
            f"pads={pads}; give integers from 0 up: one, {rank} (both sides of each axis), or "
            f"{2 * rank} (all begins, then all ends); to cut pixels off use a Slice"
        )
    return numbers


def _whole(value: Any) -> tuple[int, ...]:
    """One whole number or several, numpy's too; none where something else is among them."""
    try:
        return tuple(map(operator.index, value if isinstance(value, Iterable) else [value]))
    except TypeError:
        return ()


def check_options(options: Mapping[str, Any], known: type) -> None:
    """Refuse a misspelled option, which Python would let pass.

    Args:
        options: those given.
        known: the TypedDict of those there are.

    Raises:
        InputError: another option.
    """
    for name in options:
        if name not in known.__annotations__:
            raise InputError(f"no option '{name}'; there are {', '.join(known.__annotations__)}")


def geometry_of(options: Geometry) -> Geometry:
    """The geometry among options that hold more.

    >>> geometry_of({"strides": 2, "bias": False})
    {'strides': 2}
    """
    kept = {key: value for key, value in options.items() if key in Geometry.__annotations__}
    return cast(Geometry, kept)
