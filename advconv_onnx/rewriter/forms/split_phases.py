"""Compute a layer that enlarges as small convolutions of the low-resolution image, interleaved.

    y[o s + a]  =  conv(x, w_a)[o]        (along each axis; a < s)

The outputs of one remainder a see the image through few taps. Behind a nearest Resize, taps that
land on the same pixel are one tap, their weights added: 3x3 at scale 2 becomes four 2x2, 16
multiplications per input pixel for 36. A transposed convolution has no fewer multiplications, but
its phases are Convs, which ONNX Runtime keeps in its blocked layout; its ConvTranspose is a matrix
product and a serial pass over all its products. The cost is the interleave: two to three passes
over the output, so that few channels on large maps do not gain. The activation behind the layer
goes with it, where it is merged into the small convolutions.

``stack_phases`` makes all phases channels of one convolution over the union of their taps, which is
no larger than each where the output begins some pixels earlier: those are cut behind the
interleave. Few output channels gain by it, 4 phases of 3 fill one block of 16, and so do kernels as
long as their stride.

Phases that end earlier are computed up to the last one's end and cut behind the interleave. Sizes
may be dynamic as far as the spelling of the interleave allows. Refused for pads that depend on
sizes, for other Resizes than repeating pixels, for more than 16 phases, and stacked for groups,
whose phases lie apart.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from advconv_onnx.algebra.axis import AxisOperator, crop
from advconv_onnx.algebra.certificate import Certificate, certify, certify_all_sizes
from advconv_onnx.algebra.factor import Factorization, phases_factorization, pooled
from advconv_onnx.algebra.phases import Phase, nearest_phases, transposed_phases
from advconv_onnx.rewriter.activated import ACTIVATIONS, activate, activated
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.interleave import Interleave, Spelling
from advconv_onnx.rewriter.layer_site import LayerSite
from advconv_onnx.rewriter.resizing import nearest_scales
from advconv_onnx.rewriter.rule import NoSite, Refused, Site
from advconv_onnx.rewriter.sliding import Sliding

_MOST_PHASES = 16
"""Small convolutions, or phases of one axis stacked, beyond which none was seen to gain."""

_FAR = 32
"""Pixels over which a layer feels an end, from which on a certificate of all sizes takes seconds
and that of the size at hand is preferred."""


@dataclasses.dataclass(frozen=True)
class _Axis:
    """One axis of a layer in phases that have as many outputs each.

    Attributes:
        phases: as they are interleaved.
        cuts: outputs that they have before and behind those of the layer.
        size: number of input pixels for which that is so; None for any.
    """

    phases: tuple[Phase, ...]
    cuts: tuple[int, int]
    size: int | None = None

    def factorization(self, inputs: int) -> Factorization:
        """The phases, interleaved as they are listed and cut."""
        steps = len(self.phases)
        phases = [dataclasses.replace(p, first=i, step=steps) for i, p in enumerate(self.phases)]
        outputs = sum(phase.outputs(inputs) for phase in phases)
        whole = phases_factorization(phases, inputs, outputs)
        return pooled(whole, crop(outputs, *self.cuts))

    @property
    def reach(self) -> int:
        """Pixels from an end beyond which no phase feels it."""
        first = self.phases[0]
        span = (len(first.taps) - 1) * first.dilation
        return max(span, *(max(phase.pads) for phase in self.phases)) + first.stride


@dataclasses.dataclass(frozen=True)
class _Plan:
    layer: LayerSite
    axes: tuple[_Axis, ...]
    activation: ir.Node | None

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """Of the site."""
        return (*self.layer.nodes, self.activation) if self.activation else self.layer.nodes


class SplitPhases(Form[_Plan]):
    """Resize - Conv, or ConvTranspose -> small Convs and an interleave."""

    roots = frozenset(("Conv", "ConvTranspose")) | ACTIVATIONS
    minimum_opset = 11

    def __init__(self, spelling: Spelling, *, stacked: bool = False) -> None:
        """Choose a variant.

        Args:
            spelling: of the interleave.
            stacked: all phases in one convolution.
        """
        self.name = f"{'stack' if stacked else 'split'}_phases_{spelling}"
        self._spelling = spelling
        self._stacked = stacked

    def find(self, root: ir.Node, opset: int) -> Site[_Plan]:
        conv, activation = activated(root)
        layer = LayerSite.of(conv)
        phased = _phased_axes(layer)
        if self._stacked and layer.convolution.group > 1:
            raise Refused("the phases of grouped channels would lie apart")
        aligned = _stacked if self._stacked else _split
        axes = tuple(aligned(*axis) for axis in zip(phased, layer.sizes, strict=True))
        steps = [len(axis.phases) for axis in axes]
        if (max(steps) if self._stacked else math.prod(steps)) > _MOST_PHASES:
            raise Refused(f"there are more than {_MOST_PHASES} phases")
        plan = _Plan(layer, axes, activation)
        return Site(plan.nodes, plan)

    def certify(self, plan: _Plan) -> Iterable[Certificate]:
        for index, axis in enumerate(plan.axes):
            identity = f"axis {index}: {len(axis.phases)} phases"
            size = plan.layer.sizes[index] if axis.reach > _FAR else axis.size
            if size is not None:
                want = plan.layer.operator(index, size)
                yield certify(identity, want, axis.factorization(size))
                continue

            def want_of(size: int, index: int = index) -> AxisOperator:
                return plan.layer.operator(index, size)

            period = axis.phases[0].stride
            yield certify_all_sizes(identity, want_of, axis.factorization, period, axis.reach)

    def rewrite(self, op: Builder, plan: _Plan) -> ir.Value:
        return self.rewrite_with(op, plan, lambda: plan.layer.convolution)

    def rewrite_with(
        self, op: Builder, plan: _Plan, weighted: Callable[[], Convolution]
    ) -> ir.Value:
        """Rewrite a layer whose weights are another's, which is asked for when they are needed."""
        layer, axes = plan.layer, plan.axes
        interleave = Interleave(
            layer.batch,
            layer.convolution.out_channels,
            tuple(len(axis.phases) for axis in axes),
            tuple(
                None if size is None else axis.phases[0].outputs(size)
                for axis, size in zip(axes, layer.sizes, strict=True)
            ),
            tuple(axis.cuts for axis in axes),
        )
        cells = list(itertools.product(*(axis.phases for axis in axes)))
        stacks = [cells] if self._stacked else [[cell] for cell in cells]
        parts = [_convolved(op, plan, stack, weighted) for stack in stacks]
        return interleave.spelled(self._spelling, op, parts)


Phased = Callable[[int], tuple[Phase, ...]]
"""The phases of an axis whose output is to begin some pixels earlier."""


def _phased_axes(layer: LayerSite) -> list[Phased]:
    """The phases of each axis.

    Raises:
        NoSite: the layer does not enlarge.
        Refused: it depends on sizes, or its Resize does not repeat pixels.
    """
    convolution = layer.convolution
    if convolution.transposed:
        if all(stride == 1 for stride in convolution.strides):
            raise NoSite
        if convolution.node.attributes.get_ints("output_shape", None):
            raise Refused("the ConvTranspose fixes its output_shape")
        return [
            functools.partial(_transposed_earlier, *settings)
            for settings in zip(*_settings(convolution), convolution.output_padding, strict=True)
        ]
    if layer.resize is None:
        raise NoSite
    if len(layer.nodes) > 2:
        raise Refused("there is a Pad between Resize and Conv")
    scales = nearest_scales(layer.resize)
    return [
        functools.partial(_nearest_earlier, *settings)
        for settings in zip(*_settings(convolution), scales, strict=True)
    ]


def _transposed_earlier(
    taps: int, stride: int, dilation: int, begin: int, end: int, extra: int, earlier: int
) -> tuple[Phase, ...]:
    return transposed_phases(taps, stride, dilation, (begin - earlier, end), extra)


def _nearest_earlier(
    taps: int, stride: int, dilation: int, begin: int, end: int, scale: int, earlier: int
) -> tuple[Phase, ...]:
    return nearest_phases(taps, scale, (begin + stride * earlier, end), stride, dilation)


def _settings(convolution: Convolution) -> tuple[tuple[int, ...], ...]:
    """Kernel, strides, dilations and pads."""
    sliding = Sliding.of(convolution)
    return (
        sliding.kernel,
        sliding.strides,
        sliding.dilations,
        sliding.begins,
        sliding.ends,
    )


def _split(phased: Phased, size: int | None) -> _Axis:
    """Phases with as many outputs each."""
    phases = phased(0)
    last = max(map(_last, phases))
    even = (_in_window([phase], last) for phase in phases)
    return _cut(phases, tuple(itertools.chain(*even)), 0, size)


def _stacked(phased: Phased, size: int | None) -> _Axis:
    """Phases that also see the same pixels: as few as these can be by beginning earlier."""

    def window(earlier: int) -> tuple[Phase, ...]:
        phases = phased(earlier)
        return _in_window(phases, max(map(_last, phases)))

    phases = phased(0)
    earlier = min(range(len(phases)), key=lambda e: (len(window(e)[0].taps), e))
    return _cut(phases, window(earlier), earlier, size)


def _cut(
    phases: tuple[Phase, ...], even: tuple[Phase, ...], earlier: int, size: int | None
) -> _Axis:
    """What is to be cut from phases of as many outputs each, which begin some earlier.

    Raises:
        Refused: the layer has no output, or that depends on a size that is dynamic.
    """

    def excess(inputs: int) -> int:
        return sum(p.outputs(inputs) for p in even) - sum(p.outputs(inputs) for p in phases)

    if size is not None and not any(phase.outputs(size) for phase in phases):
        raise Refused("the layer has no output")
    enough = 1 + max(abs(_last(phase)) for phase in phases)
    cuts = {excess(inputs) for inputs in range(enough, enough + phases[0].stride)}
    if len(cuts) == 1:
        return _Axis(even, (earlier, cuts.pop() - earlier))
    if size is None:
        raise Refused("how many outputs each phase has depends on a size that is dynamic")
    return _Axis(even, (earlier, excess(size) - earlier), size)


def _last(phase: Phase) -> int:
    """Output q exists where stride * q is at most this plus the number of inputs."""
    return sum(phase.pads) - (len(phase.taps) - 1) * phase.dilation - 1


def _in_window(phases: Sequence[Phase], last: int) -> tuple[Phase, ...]:
    """The same phases, their taps filled up with zeros until all see the same pixels.

    The window is widened further where its pads would be negative, which Conv does not have.

    Args:
        phases: of one stride.
        last: output q shall exist where stride * q is at most this plus the number of inputs.
    """
    pixels = [range(-p.pads[0], len(p.taps) * p.dilation - p.pads[0], p.dilation) for p in phases]
    low, high = min(seen[0] for seen in pixels), max(seen[-1] for seen in pixels)
    dilation = math.gcd(*(pixel - low for seen in pixels for pixel in seen)) or 1
    low -= max(0, -(-low // dilation)) * dilation
    high += max(0, -((last + 1 + high) // dilation)) * dilation
    window = range(low, high + 1, dilation)
    nothing = (0 * phases[0].taps[0][0],) * len(phases[0].taps[0])
    return tuple(
        dataclasses.replace(
            phase,
            taps=tuple(phase.taps[seen.index(i)] if i in seen else nothing for i in window),
            dilation=dilation,
            pads=(-low, last + 1 + high),
        )
        for phase, seen in zip(phases, pixels, strict=True)
    )


def _weight(convolution: Convolution, cell: Sequence[Phase]) -> NDArray[np.float64]:
    """The weight of one phase of each axis, as Conv takes it."""
    weight = np.concatenate(list(convolution.blocks(convolution.group)))
    for axis, phase in enumerate(cell, start=2):
        taps = np.array(phase.taps, np.float64)
        weight = np.moveaxis(np.tensordot(taps, weight, (1, axis)), 0, axis)
    return weight


def _convolved(
    op: Builder,
    plan: _Plan,
    cells: Sequence[Sequence[Phase]],
    weighted: Callable[[], Convolution],
) -> ir.Value:
    """One convolution for phases that see the same pixels, and its activation."""
    convolution, cell = plan.layer.convolution, cells[0]
    dtype = convolution.weight.dtype

    def weight() -> NDArray[np.float64]:
        return np.concatenate([_weight(weighted(), phases) for phases in cells])

    outputs = len(cells) * convolution.out_channels
    inputs = convolution.in_channels // convolution.group
    shape = outputs, inputs, *(len(phase.taps) for phase in cell)
    bias = np.tile(convolution.bias, len(cells))
    begins, ends = zip(*(phase.pads for phase in cell), strict=True)
    y = op.Conv(
        plan.layer.x,
        op.computed(weight, shape, dtype, "weight"),
        op.initializer(bias.astype(dtype), "bias") if bias.any() else None,
        group=convolution.group,
        strides=[phase.stride for phase in cell],
        dilations=[phase.dilation for phase in cell],
        pads=[*begins, *ends],
    )
    return activate(op, y, plan.activation)


FORMS = (
    SplitPhases("depth_to_space"),
    SplitPhases("rows"),
    SplitPhases("planes"),
    SplitPhases("depth_to_space", stacked=True),
    SplitPhases("channels_last", stacked=True),
)

_NEAREST = (
    'Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric",'
    ' nearest_mode = "floor"> (x, , s)'
)


def _resized(
    conv: str,
    weight: tuple[int, ...],
    scales: str = "2, 2",
    resize: str = _NEAREST,
    x: str = "N, 4, 6, W",
) -> str:
    rank = len(weight)
    nodes = f"u = {resize} z = Conv <{conv}> (u, w, b)"
    return _text(nodes, weight, weight[0], x, f"float[{rank}] s = {{1, 1, {scales}}},")


def _transposed(conv: str, weight: tuple[int, ...], bias: int, x: str = "N, 4, 6, W") -> str:
    return _text(f"z = ConvTranspose <{conv}> (x, w, b)", weight, bias, x, "")


def _text(nodes: str, weight: tuple[int, ...], bias: int, x: str, constants: str) -> str:
    numbers = ", ".join(str(n * 5 % 7 - 3) for n in range(math.prod(weight)))
    sizes = ", ".join(map(str, weight))
    return f"""<ir_version: 8, opset_import: ["" : 18]>
    g (float[{x}] x) => (float[] z)
    <{constants} float[{sizes}] w = {{{numbers}}},
     float[{bias}] b = {{{", ".join(str(n + 1) for n in range(bias))}}}>
    {{ {nodes} }}"""


EXAMPLES = (
    _resized("pads = [1, 1, 1, 1]", (3, 4, 3, 3)),
    _resized("pads = [1, 1, 1, 1]", (3, 4, 3, 3), x="N, 4, H, W"),
    _resized("pads = [2, 1, 1, 2]", (2, 4, 5, 3), "3, 2", x="1, 4, 5, 6"),
    _resized("pads = [0, 1, 0, 0], group = 2", (4, 2, 2, 3)),
    _resized("pads = [1, 1, 1, 1], strides = [2, 3]", (2, 4, 3, 3), x="2, 4, 7, 5"),
    _resized("pads = [1, 1], dilations = [2]", (3, 4, 3), "2", x="N, 4, L"),
    _resized("pads = [1, 0, 1, 1, 0, 1]", (2, 4, 3, 1, 2), "2, 2, 2", x="1, 4, 3, 4, 5"),
    _transposed("strides = [2, 2], pads = [1, 1, 1, 1]", (4, 3, 4, 4), 3),
    _transposed("strides = [2, 2], pads = [1, 1, 1, 1]", (4, 3, 3, 3), 3, x="N, 4, H, W"),
    _transposed("strides = [2, 2], group = 4", (4, 1, 2, 2), 4),
    _transposed(
        "strides = [3, 2], dilations = [2, 3], output_padding = [1, 1], group = 2",
        (4, 2, 3, 3),
        4,
    ),
)

NEAR_MISSES = (
    (_resized("pads = [1, 1, 1, 1], strides = [2, 3]", (2, 4, 3, 3), x="2, 4, 7, W"), "dynamic"),
    (_resized("group = 1", (3, 4, 3, 3), resize='Resize <mode = "linear"> (x, , s)'), "nearest"),
    (_resized("group = 1", (3, 4, 3, 3), "1.5, 2"), "integer"),
    (
        _resized("pads = [1, 1, 1, 1]", (3, 4, 3, 3))
        .replace("z =", "k =")
        .replace("b) }", "b) z = Concat <axis = 1> (k, u) }"),
        "also",
    ),
    (_transposed("strides = [1, 1]", (4, 3, 4, 4), 3), ""),
    (_transposed("strides = [17, 1]", (4, 1, 17, 1), 1), "phases"),
    (_transposed('strides = [2, 2], auto_pad = "SAME_UPPER"', (4, 3, 4, 4), 3), "auto_pad"),
    (_transposed("strides = [2, 2], output_shape = [12, 12]", (4, 3, 4, 4), 3), "output_shape"),
)
