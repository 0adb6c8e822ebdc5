"""Upsampling: more pixels made of the ones there are, without weights.

    nearest   y[o] = x[floor(o / scale)]                          (2x in 2-D: four copies of each)
    linear    y[o] = the line through the two pixels around p     (bilinear, trilinear)
    cubic     y[o] = the cubic through the four pixels around p   (Keys 1981, with a = -0.75)

    p = (o + 1/2) / scale - 1/2, or o * (size - 1) / (new size - 1) with ``align_corners``

Axis by axis, the border pixel repeated beyond the border. That is torch's definition, in the
spelling that ONNX Runtime runs fast, but for an axis that a fractional scale leaves as long as it
was: torch mostly copies it, here and in ONNX Runtime its pixels still move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from advconv_onnx.costs import ReceptiveField, element_count
from advconv_onnx.errors import InputError
from advconv_onnx.layers.builder import Builder
from advconv_onnx.layers.case import case
from advconv_onnx.layers.definition import Parameters
from advconv_onnx.layers.initializers import Array
from advconv_onnx.layers.values import plain, size_of, symbolic
from advconv_onnx.layers.window import per_axis
from advconv_onnx.records import Costs, LayerCosts, Shape

NEIGHBOURS = {"nearest": 1, "linear": 2, "cubic": 4}
"""Pixels per axis that an output pixel is made of, by mode."""

_CUBIC = -0.75
"""The a of Keys' cubic; ONNX's default, and torch's."""

Scale = float | Sequence[float]
"""A factor, or one per spatial axis."""


def upsample(
    b: Builder,
    x: ir.Value,
    *,
    scale: Scale | None = None,
    size: int | Sequence[int] | None = None,
    like: ir.Value | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
    name: str | None = None,
) -> ir.Value:
    """Enlarge (or shrink) in one, two or three dimensions, as many as ``x`` has.

    Args:
        b: where the layer goes.
        x: (N, C, *size).
        scale: factor, or one per spatial axis; the new size is floor(size * scale).
        size: the new size itself, or one number for all axes.
        like: a value that has the new size, known or not.
        mode: nearest, linear or cubic (not in three dimensions).
        align_corners: whether the corner pixels keep their values, for linear and cubic.
        name: within the builder's scope; numbered by default.

    Returns:
        (N, C, *new size). With a fractional scale, nearest pixels are those of float32 arithmetic,
        as in ONNX Runtime: where the exact position is whole, rounding decides (in torch too).

    Raises:
        InputError: the layer is impossible; nothing is added then.
    """
    with b.layer("upsample", name):
        before = size_of(x)
        target = Target.of(before, scale, size, like)
        _check_mode(mode, align_corners, len(before))
        kept = _shape(x)[:2]
        # ONNX Runtime has its cubic kernel for images only.
        lifted = mode == "cubic" and len(before) == 1
        if lifted:
            x = _change_axes(b, "Unsqueeze", x, (*kept, 1, *before))
        y = b.node(
            "Resize",
            [x, *_operands(b, x, target, like)],
            (*_shape(x)[: -len(before)], *target.size),
            mode=mode,
            **_attributes(mode, align_corners),
        )
        return _change_axes(b, "Squeeze", y, (*kept, *target.size)) if lifted else y


def _check_mode(mode: str, align_corners: bool, rank: int) -> None:
    if mode not in NEIGHBOURS:
        raise InputError(f"mode={mode}; use one of {', '.join(NEIGHBOURS)}")
    if mode == "nearest" and align_corners:
        raise InputError("align_corners=True means nothing to nearest; use linear or cubic")
    if mode == "cubic" and rank == 3:
        raise InputError("ONNX Runtime has no cubic kernel for three axes; use linear")


def _shape(x: ir.Value) -> tuple[Any, ...]:
    assert x.shape is not None
    return x.shape.dims


def _change_axes(b: Builder, op_type: str, x: ir.Value, shape: Sequence[Any]) -> ir.Value:
    """Add or drop a first spatial axis, of one pixel."""
    name = op_type.lower()
    if b.opset < 13:
        return b.node(op_type, [x], shape, name=name, axes=[2])
    return b.node(op_type, [x, b.constant("axes", np.array([2]))], shape, name=name)


def _attributes(mode: str, align_corners: bool) -> dict[str, Any]:
    if mode == "nearest":
        return {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return {
        "coordinate_transformation_mode": "align_corners" if align_corners else "half_pixel",
        "cubic_coeff_a": _CUBIC if mode == "cubic" else None,
    }


def _operands(
    b: Builder, x: ir.Value, target: Target, like: ir.Value | None
) -> list[ir.Value | None]:
    """A region of interest, which is for other modes, then scales, or else sizes, of all axes."""
    # Before opset 13 an empty tensor stands for an operand that is left out.
    absent = b.constant("absent", np.zeros(0, np.float32)) if b.opset < 13 else None
    kept = _shape(x)[: -len(target.size)]
    if target.scales is not None:
        scales = np.array([*[1] * len(kept), *target.scales], np.float32)
        return [absent, b.constant("scales", scales)]
    sizes = (*kept, *target.size)
    if _all_known(sizes):
        return [absent, absent, b.constant("sizes", np.array(sizes))]
    before = _dims(b, x, 0, len(kept), "kept")
    if like is None or _all_known(target.size):
        after = b.constant("size", np.array(target.size))
    else:
        after = _dims(b, like, 2, len(target.size), "size")
    return [absent, absent, b.node("Concat", [before, after], (len(sizes),), name="sizes", axis=0)]


def _dims(b: Builder, value: ir.Value, start: int, count: int, name: str) -> ir.Value:
    """Some dimensions of a value, read when the model runs."""
    rank = len(_shape(value))
    shape = b.node("Shape", [value], (rank,), name=f"{name}.shape", dtype=ir.DataType.INT64)
    bounds = [
        b.constant(f"{name}.{bound}", np.array([index]))
        for bound, index in (("start", start), ("end", start + count))
    ]
    return b.node("Slice", [shape, *bounds], (count,), name=name)


class Target(NamedTuple):
    """What is asked of an input of spatial size ``before``; sizes are ints or symbolic.

    ``scales`` are None where the new size says more than they could: where it is not known, or no
    multiple of the old one.
    """

    before: tuple[Any, ...]
    size: tuple[Any, ...]
    scales: tuple[float, ...] | None

    @classmethod
    def of(
        cls,
        before: tuple[Any, ...],
        scale: Scale | None,
        size: int | Sequence[int] | None,
        like: ir.Value | None = None,
    ) -> Target:
        """Check a request.

        Raises:
            InputError: not exactly one of ``scale``, ``size`` and ``like``, or one that is out of
                range, of another rank, or leaves no pixel.
        """
        given = {"scale": scale, "size": size, "like": like}
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            raise InputError(f"{' and '.join(names) or 'no size'} given; give scale, size or like")
        if scale is not None:
            return cls(before, *_enlarged(before, scale))
        rank = len(before)
        after = _size_like(like, rank) if size is None else per_axis("size", size, rank)
        return cls(before, after, _multiples(before, after))

    def factors(self) -> tuple[float, ...]:
        """The scales that ONNX Runtime calculates with, in float32.

        Raises:
            InputError: they depend on sizes that are unknown.
        """
        if self.scales is not None:
            return self.scales
        if not _all_known(self.before + self.size):
            raise InputError("the scales depend on sizes that are unknown; fix them")
        pairs = zip(self.before, self.size, strict=True)
        return tuple(float(np.float32(m) / np.float32(n)) for n, m in pairs)

    def fields(self, mode: str) -> list[ReceptiveField]:
        """The receptive field of an output pixel along each spatial axis.

        Raises:
            InputError: it depends on sizes that are unknown.
        """
        return [_field(factor, mode) for factor in self.factors()]


def _all_known(dims: Sequence[Any]) -> bool:
    return all(isinstance(dim, int) for dim in dims)


def _enlarged(before: Sequence[Any], scale: Scale) -> tuple[tuple[Any, ...], tuple[float, ...]]:
    """The new size, and the scales to store."""
    factors = _factors(scale, len(before))
    after = tuple(_scaled(n, s) for n, s in zip(before, factors, strict=True))
    if 0 in after:
        raise InputError(f"scale={scale} leaves no pixel of {before}; use a larger one")
    axes = list(zip(before, factors, after, strict=True))
    # Sizes without a name are equal whatever is done to them.
    same = all(m == n if isinstance(n, int) else s == 1 for n, s, m in axes)
    if same and set(factors) != {1}:
        # ONNX Runtime would copy the image, against the definition.
        raise InputError(f"scale={scale} leaves the size {before}; use a larger scale")
    return after, tuple(_stored(n, s, m) for n, s, m in axes)


def _multiples(before: Sequence[Any], after: Sequence[Any]) -> tuple[int, ...] | None:
    if not _all_known((*before, *after)):
        return None
    pairs = [divmod(m, n) for n, m in zip(before, after, strict=True)]
    return None if any(rest for _, rest in pairs) else tuple(scale for scale, _ in pairs)


def _factors(scale: Scale, rank: int) -> tuple[float, ...]:
    factors = tuple(scale) if isinstance(scale, Sequence) else (scale,) * rank
    if len(factors) != rank or not all(0 < factor < math.inf for factor in factors):
        raise InputError(
            f"scale={scale}; give one factor above 0, or {rank} of them, one per spatial axis"
        )
    return factors


def _scaled(n: Any, scale: float) -> Any:
    """The new size of an axis; an expression where ``n`` is one."""
    if isinstance(n, int):
        return math.floor(n * scale)
    p, q = _fraction(scale)
    return n * p if q == 1 else n * p // q


def _stored(n: Any, scale: float, after: Any) -> float:
    """The scale in float32, such that ``after`` pixels come out whoever multiplies.

    ONNX's shape inference rounds the product down, ONNX Runtime rounds it to float32 first.
    """
    stored = np.float32(scale)
    if isinstance(n, int):
        while n * float(stored) < after:
            stored = np.nextafter(stored, np.float32(np.inf))
        while np.float32(n) * stored >= after + 1:
            stored = np.nextafter(stored, np.float32(0))
    return float(stored)


def _fraction(scale: float) -> tuple[int, int]:
    return Fraction(scale).limit_denominator(1000).as_integer_ratio()


def _size_like(like: ir.Value | None, rank: int) -> tuple[Any, ...]:
    assert like is not None
    size = size_of(like)
    if len(size) != rank:
        raise InputError(
            f"'{like.name}' has {len(size)} spatial axes, the input {rank}; take one with as many"
        )
    return size


def _field(scale: float, mode: str) -> ReceptiveField:
    """Neighbours, then repetition by p of every q-th pixel."""
    if scale == 1:
        return ReceptiveField()
    p, q = _fraction(scale)
    return ReceptiveField().through(NEIGHBOURS[mode]).through(p, upscale=p, stride=q)


def costs(
    shape: Shape,
    *,
    scale: Scale | None = None,
    size: int | Sequence[int] | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
    itemsize: int = 4,
) -> LayerCosts:
    """Costs on an input of ``shape``, (N, C, *size): memory traffic only.

    Interpolation counts no MACs: ``advconv inspect`` counts those of convolutions.
    """
    before = symbolic(shape[2:])
    target = Target.of(before, scale, size)
    _check_mode(mode, align_corners, len(before))
    read, written = element_count(shape), element_count((*shape[:2], *plain(target.size)))
    moved = None if read is None or written is None else (read + written) * itemsize
    return LayerCosts(
        Costs(parameters=0, macs=0, bytes=moved),
        (NEIGHBOURS[mode],) * len(before),
        tuple(field.size for field in target.fields(mode)),
    )


def reference(
    x: Array,
    parameters: Parameters,
    *,
    scale: Scale | None = None,
    size: int | Sequence[int] | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Array:
    """The definition: repeat pixels, or weigh neighbours, along one axis after the other."""
    target = Target.of(x.shape[2:], scale, size)
    y = x.astype(np.float64)
    for axis, (new, factor) in enumerate(zip(target.size, target.factors(), strict=True), start=2):
        if mode == "nearest":
            y = _repeat(y, axis, new, factor)
        else:
            y = _interpolate(y, axis, _positions(y.shape[axis], new, factor, align_corners), mode)
    return y


def _repeat(x: Array, axis: int, new: int, scale: float) -> Array:
    if scale == int(scale):
        return np.repeat(x, int(scale), axis)
    source = np.floor(np.arange(new, dtype=np.float32) / np.float32(scale)).astype(int)
    repeated: Array = np.take(x, source, axis, mode="clip")
    return repeated


def _positions(old: int, new: int, scale: float, align_corners: bool) -> list[float]:
    """Where each new pixel lies among the old ones."""
    if align_corners:
        return [o * (old - 1) / max(1, new - 1) for o in range(new)]
    return [(o + 0.5) / scale - 0.5 for o in range(new)]


def _interpolate(x: Array, axis: int, positions: Sequence[float], mode: str) -> Array:
    lines = []
    for position in positions:
        left = math.floor(position)
        reach = NEIGHBOURS[mode] // 2
        around = range(left - reach + 1, left + reach + 1)
        weights = [_weight(abs(position - pixel), mode) for pixel in around]
        lines.append(np.tensordot(np.take(x, around, axis, mode="clip"), weights, (axis, 0)))
    return np.stack(lines, axis)


def _weight(distance: float, mode: str) -> float:
    """How much a pixel counts at this distance from it, 0 to 2."""
    if mode == "linear":
        return 1 - distance
    if distance <= 1:
        return (_CUBIC + 2) * distance**3 - (_CUBIC + 3) * distance**2 + 1
    return _CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)


CASES = (
    case(2, 3, 4, 5, scale=2),
    case(1, 2, 7, scale=3),
    case(1, 2, 3, 2, 4, scale=(2, 3, 1)),
    case(1, 2, 5, 6, scale=(1.5, 2.25)),
    case(1, 2, 6, 8, size=(9, 5)),
    case(2, 3, 5, 4, scale=2, mode="linear"),
    case(1, 2, 9, size=22, mode="linear", align_corners=True),
    case(1, 2, 3, 4, 3, size=5, mode="linear"),
    case(1, 2, 5, 4, scale=(2, 3), mode="cubic"),
    case(1, 2, 6, size=11, mode="cubic", align_corners=True),
)
