"""A layer's card: one picture of what it reads and what it costs, as SVG or PNG."""

from __future__ import annotations

import colorsys
import dataclasses
import io
import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

from advconv_onnx.errors import MissingDependencyError
from advconv_onnx.records import AxisPattern, Costs, LayerCard
from advconv_onnx.report.numbers import si, sizes

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle
except ImportError as error:
    raise MissingDependencyError(
        "pictures need matplotlib; pip install 'advconv-onnx[report]'"
    ) from error

_SIZE = (11.0, 7.0)
"""Inches."""

_PAPER, _INK, _FAINT, _PIXEL = "#ffffff", "#1b2733", "#6b7785", "#e3e9ef"
_LINE, _ZERO, _CONNECTED = "#aab4be", "#c3ccd4", "#2f6f9f"

_BOTTOM, _HEIGHT = 0.345, 0.42
"""Of the pictures, in parts of the figure."""

_MOST_CELLS = 14
"""Cells of a resized image that are shown along an axis."""

_SMALL_CELL = 8.0
"""Points below which lines between cells are thin."""

_SMALLEST_NUMBER = 4.5
"""Points below which a tap's number cannot be read and is left out."""

_MOST_CHANNELS = 64
"""Channels up to which each has a cell of its own."""

_LONGEST_NAME, _LONGEST_LINE = 72, 120
"""Characters."""

_FIXED = "\u00a0"
"""A space where no line may end."""

_SINGLE = AxisPattern(1, (((0, 1.0),),), (0, 0), ((0,),), 0)
"""The other axis of a strip."""

_STYLE: Any = {
    "font.family": "DejaVu Sans",  # the one matplotlib brings along
    "font.size": 9.0,
    "svg.fonttype": "path",
    "svg.hashsalt": "advconv",
    "hatch.linewidth": 0.6,
    "hatch.color": _FAINT,
    "text.parse_math": False,
    "text.color": _INK,
}


def draw(card: LayerCard, format: Literal["svg", "png"]) -> bytes:
    """Draw a card; the same card gives the same bytes."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, dpi=150, facecolor=_PAPER)
        _write_title(figure, card)
        _draw_views(figure, card)
        _draw_channels(figure.add_axes((0.745, _BOTTOM, 0.237, _HEIGHT)), card)
        _write_fields(figure, card)
        _write_costs(figure, card)
        _write_evidence(figure, card)
        file = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if format == "svg" else {"Software": None}
        figure.savefig(file, format=format, metadata=metadata)
    return file.getvalue()


# Words


def _write_title(figure: Figure, card: LayerCard) -> None:
    name = card.layer.name.encode("unicode_escape").decode("ascii")
    if len(name) > _LONGEST_NAME:
        name = "…" + name[1 - _LONGEST_NAME :]
    figure.text(0.035, 0.935, name, size=15, weight="bold")
    text = f"{_kind(card)}: {_geometry(card)}".replace(" ", _FIXED).replace(f",{_FIXED}", ", ")
    for line, words in enumerate(textwrap.wrap(text, _LONGEST_LINE)):
        figure.text(0.035, 0.888 - 0.028 * line, words.replace(_FIXED, " "), size=10.5)


def _kind(card: LayerCard) -> str:
    kind = card.layer.kind
    if card.layer.kernel_shape is None:
        return kind.capitalize()
    if kind.endswith("upsample+convolution"):
        kind = f"{card.interpolation} upsampling, then {kind.removesuffix('upsample+convolution')}"
    return f"{kind.strip()} convolution".capitalize()


def _geometry(card: LayerCard) -> str:
    """The attributes in words; what is as usual is left out."""
    layer = card.layer
    words = []
    if layer.kernel_shape is None:
        words.append(card.interpolation)
    if card.interpolation:
        words.append(f"{' x '.join(f'{scale:.4g}' for scale in card.scales)} times the pixels")
    if layer.kernel_shape is not None:
        words.append(f"kernel {sizes(layer.kernel_shape)}")
    if max(layer.dilations, default=1) > 1:
        words.append(f"dilation {_each(layer.dilations)} covers {sizes(layer.effective_kernel)}")
    around = [axis.padding for axis in card.axes]
    if layer.kind.endswith("transposed"):
        words.append(f"stride {_each(layer.strides)}")
        between, beside = [s - 1 for s in layer.strides], [_sides(pair) for pair in around]
        words.append(f"zeros between the pixels {_each(between)}, around {_each(beside)}")
    elif layer.kernel_shape is not None:
        words.append(f"stride {_each(layer.strides)}")
        words.append(f"padding {_each([_sides(pair) for pair in around])}")
    if layer.group > 1:
        words.append(f"{layer.group} groups")
    words.append(f"{card.channels[0]} \u2192 {card.channels[1]} channels")
    return ", ".join(words)


def _each(numbers: Sequence[object]) -> str:
    """One number where all axes have the same."""
    return "x".join(map(str, numbers if len(set(numbers)) > 1 else numbers[:1]))


def _sides(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}+{pair[1]}"


def _write_fields(figure: Figure, card: LayerCard) -> None:
    whole = card.layer.receptive_field
    rows = [
        ("One output pixel sees", f"{sizes(card.field)} input pixels of the layer"),
        ("", f"{sizes(whole)} of the model's input" if whole else "all of the model's input"),
    ]
    if card.layer.kernel_shape is not None:
        reads = card.blocks[0].inputs[1] - card.blocks[0].inputs[0]
        taps = math.prod(card.layer.kernel_shape)
        rows.append(("one kernel has", f"{taps * reads} weights, {taps} for each channel it reads"))
    figure.text(0.035, 0.237, "Receptive field", size=11, weight="bold")
    for line, (label, text) in enumerate(rows):
        figure.text(0.035, 0.195 - 0.034 * line, label, color=_FAINT)
        figure.text(0.175, 0.195 - 0.034 * line, text)


def _write_costs(figure: Figure, card: LayerCard) -> None:
    """This layer, the dense one, and how many times more that is; right-aligned columns."""
    rows = [("", "parameters", "MACs", "bytes"), ("this layer", *_amounts(card.costs))]
    if card.dense is not None:
        covered = sizes(card.layer.effective_kernel)
        rows += [
            (f"dense {covered}, all channels", *_amounts(card.dense)),
            ("dense / this layer", *_ratios(card.costs, card.dense)),
        ]
    figure.text(0.475, 0.237, "Costs of one image", size=11, weight="bold")
    for line, (label, *cells) in enumerate(rows):
        y = 0.195 - 0.034 * line
        figure.text(0.475, y, label, color=_FAINT)
        for x, cell in zip((0.77, 0.87, 0.97), cells, strict=True):
            color, weight = _FAINT if line == 0 else _INK, "bold" if line == 3 else "normal"
            figure.text(x, y, cell, ha="right", color=color, weight=weight)
    if card.costs.macs is None:
        figure.text(0.475, 0.059, "? depends on sizes that the model leaves open", color=_FAINT)


def _amounts(costs: Costs) -> tuple[str, ...]:
    return si(costs.parameters), si(costs.macs), si(costs.bytes, "B")


def _ratios(own: Costs, dense: Costs) -> list[str]:
    pairs = zip(dataclasses.astuple(own), dataclasses.astuple(dense), strict=True)
    return [f"{more / few:.3g}x" if few and more else "?" for few, more in pairs]


def _write_evidence(figure: Figure, card: LayerCard) -> None:
    seen = card.impulses
    how = f"within {seen.difference:.0e}" if seen.difference else "exactly"
    text = (
        f"Measured in float32 with {seen.runs} inputs through ONNX Runtime {seen.onnxruntime}: the "
        f"pixels and channels that reach an output agree {how} with the attributes of the nodes."
    )
    figure.text(0.035, 0.018, text, size=8, color=_FAINT)


# Pictures of the grid


@dataclasses.dataclass(frozen=True, slots=True)
class _Side:
    """One side of a picture: the cells that are shown, and those that matter for one output."""

    axis: AxisPattern
    shown: range
    chosen: tuple[int, ...]

    @classmethod
    def around(cls, axis: AxisPattern, output: int) -> _Side:
        window = axis.windows[output]
        cells = range(len(axis.cells))
        return cls(axis, cells[max(0, min(window) - 1) : max(window) + 2], window)

    @property
    def image(self) -> range:
        """The cells shown that are not padding."""
        begin, end = self.axis.padding
        first = max(begin, self.shown.start)
        return range(first, max(first, min(len(self.axis.cells) - end, self.shown.stop)))

    def holds(self, cell: int) -> bool:
        """Whether a cell is made of pixels."""
        return bool(self.axis.cells[cell])


@dataclasses.dataclass(frozen=True, slots=True)
class _Picture:
    """A part of a grid, and a label for each cell that one output pixel sees."""

    caption: str
    rows: _Side
    columns: _Side
    labels: tuple[str, ...]

    @property
    def chosen(self) -> list[tuple[int, int]]:
        """Row and column of the labelled cells."""
        return list(itertools.product(self.rows.chosen, self.columns.chosen))

    def holds(self, row: int, column: int) -> bool:
        """Whether a cell is made of pixels, and is no zero."""
        return self.rows.holds(row) and self.columns.holds(column)


def _draw_views(figure: Figure, card: LayerCard) -> None:
    figure.text(0.035, 0.815, "What one output pixel reads", size=11, weight="bold")
    pictures = _resized if card.layer.kernel_shape is None else _slid
    if len(card.axes) == 2:
        lines = [pictures(*card.axes, "")]
    elif len(card.axes) == 1:
        lines = [[picture] for picture in pictures(_SINGLE, *card.axes, "")]
    else:
        pairs = zip(card.axes, ("depth", "height", "width"), strict=True)
        lines = [pictures(_SINGLE, axis, f"{name}: ") for axis, name in pairs]
    height, gap = _HEIGHT / len(lines), 0.045 if len(lines) > 1 else 0
    width = 0.65 if len(card.axes) == 1 else 0.31
    for line, pair in enumerate(lines):
        bottom = _BOTTOM + _HEIGHT - (line + 1) * height + gap
        for picture, left in zip(pair, (0.035, 0.375), strict=False):
            axes = figure.add_axes((left, bottom, width, height - gap))
            _draw_picture(axes, picture, card)
    shown = [picture for pair in lines for picture in pair]
    figure.legend(
        handles=list(_legend(card, shown)), loc="upper left", bbox_to_anchor=(0.028, 0.32),
        ncols=6, frameon=False, fontsize=8.5, handlelength=1.2, columnspacing=1.6,
    )  # fmt: skip


def _slid(rows: AxisPattern, columns: AxisPattern, label: str) -> list[_Picture]:
    """What the kernel lies on, inside and at the corner."""
    pictures = []
    for name, outputs in (
        ("inside", (rows.interior, columns.interior)),
        ("in the corner" if rows is not _SINGLE else "at the border", (0, 0)),
    ):
        sides = [_Side.around(*each) for each in zip((rows, columns), outputs, strict=True)]
        count = math.prod(len(side.chosen) for side in sides)
        picture = _Picture("", sides[0], sides[1], tuple(map(str, range(count))))
        hits = sum(picture.holds(*cell) for cell in picture.chosen)
        caption = f"{label}{name}, {hits} of {count} taps meet pixels"
        pictures.append(dataclasses.replace(picture, caption=caption))
    return pictures


def _resized(rows: AxisPattern, columns: AxisPattern, label: str) -> list[_Picture]:
    """The pixels that one output pixel is made of, and where it lies."""
    before, after = zip(_made_of(rows), _made_of(columns), strict=True)
    weights = [
        math.prod(weight for _, weight in pair)
        for pair in itertools.product(*(side.axis.cells[side.axis.interior] for side in after))
    ]
    part = ""
    if any(len(side.shown) < len(side.axis.cells) for side in after):
        part = f", only {sizes([len(side.shown) for side in after if side.axis is not _SINGLE])}"
        part += " pixels around that one"
    return [
        _Picture(f"{label}input, with the weights of one output pixel", *before,
                 tuple(f"{weight:.2f}" for weight in weights)),
        _Picture(f"{label}output{part}", *after, ("",)),
    ]  # fmt: skip


def _made_of(axis: AxisPattern) -> tuple[_Side, _Side]:
    """The input and the output of a resized axis, as much as can be seen."""
    first = max(0, min(axis.interior - _MOST_CELLS // 2, len(axis.cells) - _MOST_CELLS))
    shown = range(len(axis.cells))[first : first + _MOST_CELLS]
    seen = [i for cell in shown for i, _ in axis.cells[cell]]
    identity = tuple(((i, 1.0),) for i in range(axis.pixels))
    before = AxisPattern(axis.pixels, identity, (0, 0), (), 0)
    sources = tuple(i for i, _ in axis.cells[axis.interior])
    return (
        _Side(before, range(min(seen), max(seen) + 1), sources),
        _Side(axis, shown, (axis.interior,)),
    )


def _draw_picture(axes: Axes, picture: _Picture, card: LayerCard) -> None:
    rows, columns = picture.rows, picture.columns
    axes.set_title(picture.caption, size=8.5, color=_FAINT, pad=5, loc="left")
    axes.set_axis_off()
    axes.set_aspect("equal", anchor="NW")
    axes.set(
        xlim=(columns.shown.start - 0.05, columns.shown.stop + 0.05), xticks=(),
        ylim=(rows.shown.stop + 0.05, rows.shown.start - 0.05), yticks=(),
    )  # fmt: skip
    if card.interpolation:
        for row, column in itertools.product(rows.shown, columns.shown):
            if picture.holds(row, column):
                color = _mixture(rows.axis.cells[row], columns.axis.cells[column])
                axes.add_patch(Rectangle((column, row), 1, 1, facecolor=color))
    else:
        corner = (columns.image.start, rows.image.start)
        axes.add_patch(Rectangle(corner, len(columns.image), len(rows.image), facecolor=_PIXEL))
        for row, column in itertools.product(rows.image, columns.image):
            if not picture.holds(row, column):
                _fill(axes, row, column, facecolor=_PAPER, **_HATCHED)
    thin = _cell_points(axes, picture) < _SMALL_CELL
    lines: dict[str, Any] = {"colors": _LINE, "linewidth": 0.2 if thin else 0.6}
    axes.vlines([*columns.shown, columns.shown.stop], rows.shown.start, rows.shown.stop, **lines)
    axes.hlines([*rows.shown, rows.shown.stop], columns.shown.start, columns.shown.stop, **lines)
    _draw_taps(axes, picture, card)


def _draw_taps(axes: Axes, picture: _Picture, card: LayerCard) -> None:
    points = _cell_points(axes, picture)
    size = min(10.0, 0.42 * points)
    edge = min(1.6, max(0.8, 0.08 * points))
    for number, (cell, label) in enumerate(zip(picture.chosen, picture.labels, strict=True)):
        row, column = cell
        color = _tap_color(number, len(picture.labels))
        ink = _INK
        if card.interpolation:
            _fill(axes, row, column, fill=False, edgecolor=_INK, linewidth=edge)
        elif picture.holds(row, column):
            _fill(axes, row, column, facecolor=color)
            ink = _PAPER if _luminance(color) < 0.5 else _INK
        else:
            _fill(axes, row, column, fill=False, edgecolor=color, linewidth=edge)
        if size >= _SMALLEST_NUMBER:
            axes.text(column + 0.5, row + 0.52, label, size=size, color=ink, ha="center",
                      va="center")  # fmt: skip


def _cell_points(axes: Axes, picture: _Picture) -> float:
    """Side of a cell."""
    box = axes.get_position()
    width, height = box.width * _SIZE[0] * 72, box.height * _SIZE[1] * 72
    return min(width / len(picture.columns.shown), height / len(picture.rows.shown))


_HATCHED: dict[str, Any] = {"hatch": "/////", "edgecolor": _ZERO, "linewidth": 0.0}


def _fill(axes: Axes, row: int, column: int, **style: Any) -> None:
    axes.add_patch(Rectangle((column + 0.04, row + 0.04), 0.92, 0.92, **style))


def _tap_color(number: int, count: int) -> tuple[float, ...]:
    return matplotlib.colormaps["viridis"](number / max(1, count - 1))


def _luminance(color: tuple[float, ...]) -> float:
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def _mixture(
    row: tuple[tuple[int, float], ...], column: tuple[tuple[int, float], ...]
) -> tuple[float, ...]:
    """The color of a cell made of several pixels."""
    parts = [[a * b * channel for channel in _pixel_color(i, j)] for i, a in row for j, b in column]
    return tuple(min(1.0, max(0.0, sum(part))) for part in zip(*parts, strict=True))


def _pixel_color(row: int, column: int) -> tuple[float, ...]:
    """A light color that no neighbour has."""
    return colorsys.hsv_to_rgb((0.11 + 0.253 * row + 0.437 * column) % 1, 0.42, 0.97)


def _legend(card: LayerCard, pictures: Sequence[_Picture]) -> list[Patch]:
    sides = [side for picture in pictures for side in (picture.rows, picture.columns)]
    handles = []
    if card.interpolation:
        copies = card.interpolation == "nearest"
        label = "one color: copies of one input pixel" if copies else "colors mixed as pixels are"
        handles.append(Patch(fc=_pixel_color(0, 0), label=label))
    else:
        handles.append(Patch(fc=_PIXEL, ec=_LINE, label="input pixel"))
    if any(not side.holds(cell) for side in sides for cell in side.image):
        handles.append(Patch(fc=_PAPER, **_HATCHED, label="inserted zero"))
    if any(len(side.image) < len(side.shown) for side in sides):
        handles.append(Patch(fc=_PAPER, ec=_LINE, label="padding"))
    if card.layer.kernel_shape is not None:
        style: dict[str, Any] = (
            {"fc": "none", "ec": _INK} if card.interpolation else {"fc": _tap_color(1, 4)}
        )
        handles.append(Patch(**style, label="tap, numbered as in the weight"))
    return handles


# Picture of the channels


def _draw_channels(axes: Axes, card: LayerCard) -> None:
    inputs, outputs = card.channels
    axes.figure.text(0.72, 0.815, "Channels", size=11, weight="bold")
    for block in card.blocks:
        left, top = block.inputs[0], block.outputs[0]
        width, height = block.inputs[1] - left, block.outputs[1] - top
        # Thin blocks of many channels would vanish without an edge.
        axes.add_patch(
            Rectangle((left, top), width, height, fc=_CONNECTED, ec=_CONNECTED, linewidth=0.5)
        )
    if max(inputs, outputs) <= _MOST_CHANNELS:
        lines: dict[str, Any] = {"colors": _PAPER, "linewidth": min(0.6, 10 / max(card.channels))}
        axes.vlines(range(1, inputs), 0, outputs, **lines)
        axes.hlines(range(1, outputs), 0, inputs, **lines)
    axes.set(xlim=(0, inputs), ylim=(outputs, 0), xlabel="input channel", ylabel="output channel")
    axes.set_aspect("equal" if 1 / 3 <= inputs / outputs <= 3 else "auto", anchor="NW")
    axes.set_xticks([0, inputs], ["0", str(inputs)])
    axes.set_yticks([0, outputs], ["0", str(outputs)])
    axes.tick_params(length=0, colors=_FAINT, labelsize=8)
    axes.xaxis.label.set(color=_FAINT, size=8.5)
    axes.yaxis.label.set(color=_FAINT, size=8.5)
    axes.spines[:].set(color=_LINE)
    reads = card.blocks[0].inputs[1] - card.blocks[0].inputs[0]
    axes.set_title(
        f"each output reads {reads} of {inputs}", size=8.5, color=_FAINT, pad=5, loc="left"
    )
