"""Explain one layer: what it reads and what it costs against the dense one, measured and drawn.

    python samples/explain_layer.py
    python samples/explain_layer.py grouped_conv
    python samples/explain_layer.py dilated_conv --channels 64 --rate 6 --pads 6

The pictures go to demo/ below the current folder.
"""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path

from advconv_onnx import catalog, inspection
from advconv_onnx.arguments import parse_options
from advconv_onnx.cards import card
from advconv_onnx.errors import AdvconvError, InputError
from advconv_onnx.model import write_bytes
from advconv_onnx.records import LayerCard
from advconv_onnx.report.layer_card import draw

INPUT_SHAPE = (1, 32, 56, 56)
OUT = Path("demo")

USUAL = {
    "conv": "--channels 64 --pads 1",
    "conv_transpose": "--channels 16 --kernel-shape 4 --strides 2 --pads 1",
    "depthwise_conv": "--pads 1",
    "depthwise_separable_conv": "--channels 64 --pads 1",
    "dilated_conv": "--channels 32 --rate 2 --pads 2",
    "grouped_conv": "--channels 64 --group 4 --pads 1",
    "pointwise_conv": "--channels 64",
    "upsample": "--scale 2 --mode linear",
    "upsample_conv": "--channels 16 --scale 2 --pads 1",
}
"""Options for a layer that is named without any."""


def explain(found: LayerCard) -> str:
    """The claim of a layer in words, and its numbers beside those of the dense one."""
    own, dense = found.costs, found.dense
    lines = [f"{found.layer.name}: {found.layer.kind}, {found.channels[1]} output channels"]
    sees = "x".join(map(str, found.field))
    if dense is None:
        lines.append(f"  no weights; an output pixel is made of {sees} input pixels")
    else:
        assert found.layer.kernel_shape is not None
        assert found.layer.effective_kernel is not None
        taps = math.prod(found.layer.kernel_shape)
        covered = math.prod(found.layer.effective_kernel)
        reads = found.blocks[0].inputs[1] - found.blocks[0].inputs[0]
        lines += [
            f"  {taps} taps cover {covered} cells: an output pixel sees {sees} input pixels",
            f"  an output channel reads {reads} of {found.channels[0]} input channels",
        ]
        for name, few, more in (
            ("parameters", own.parameters, dense.parameters),
            ("MACs", own.macs, dense.macs),
        ):
            if few and more:
                lines.append(f"  {name:11}{few:>13,}  dense {more:>13,}  {more / few:.2f}x")
    seen = found.impulses
    how = f"within {seen.difference:.0e}" if seen.difference else "exactly"
    lines.append(
        f"  measured with {seen.runs} inputs through ONNX Runtime {seen.onnxruntime}: "
        f"agrees {how} with the attributes"
    )
    return "\n".join(lines)


def main() -> int:
    """Run the sample."""
    name, *options = sys.argv[1:] or ["dilated_conv"]
    try:
        entry = catalog.find(name)
        if entry.kind != "layer":
            raise InputError(f"{name} is a network; explain its layers with advconv inspect --card")
        options = options or shlex.split(USUAL.get(name, ""))
        parameters = parse_options(options, entry.options, name)
        model = catalog.build(name, input_shape=INPUT_SHAPE, **parameters)
        print(f"{entry.summary}\n$ {shlex.join([name, *options])}")
        layers = [layer.name for layer in inspection.inspect(model).layers]
        for layer in layers or [model.graph[-1].name or ""]:
            found = card(model, layer)
            OUT.mkdir(exist_ok=True)
            picture = OUT / f"{layer.replace('/', '_')}.svg"
            write_bytes(picture, draw(found, "svg"))
            print(f"{explain(found)}\n  drawn in {picture}")
    except AdvconvError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
