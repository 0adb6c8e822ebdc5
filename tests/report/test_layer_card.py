"""Pictures of layers of every kind: complete, legible and always the same."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import re
import sys
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from advconv_onnx import catalog
from advconv_onnx.cards import card
from advconv_onnx.errors import MissingDependencyError
from advconv_onnx.records import LayerCard
from advconv_onnx.report.layer_card import draw

SHAPES = {1: ("N", 4, 40), 2: ("N", 4, 16, 16), 3: ("N", 4, "D", "H", "W")}

LAYERS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "dense": ("conv", 2, {"channels": 8, "pads": 1}),
    "strided": ("conv", 2, {"channels": 8, "kernel_shape": 7, "strides": 2, "pads": 3}),
    "asymmetric": ("conv", 2, {"channels": 1, "kernel_shape": (3, 2), "pads": (2, 0, 0, 1)}),
    "dilated": ("dilated_conv", 2, {"channels": 8, "rate": (2, 6), "pads": (2, 6)}),
    "far": ("dilated_conv", 2, {"channels": 300, "rate": 24, "pads": 24}),
    "depthwise": ("depthwise_conv", 2, {"pads": 1, "multiplier": 2}),
    "grouped": ("grouped_conv", 2, {"channels": 8, "group": 2}),
    "pointwise": ("pointwise_conv", 2, {"channels": 100}),
    "transposed": ("conv_transpose", 2, {"channels": 3, "strides": 2, "output_padding": 1}),
    "transposed in every way": (
        "conv_transpose", 2,
        {"channels": 6, "kernel_shape": (3, 2), "strides": (2, 3), "output_padding": (1, 2),
         "group": 2, "dilations": (2, 1), "pads": (1, 0, 0, 1)},
    ),
    "nearest": ("upsample", 2, {"scale": 1.5}),
    "far larger": ("upsample", 2, {"scale": 65}),
    "linear": ("upsample", 2, {"scale": 2, "mode": "linear"}),
    "cubic": ("upsample", 2, {"scale": (2, 3), "mode": "cubic"}),
    "smaller": ("upsample", 2, {"scale": 0.5, "mode": "linear"}),
    "upsampled": ("upsample_conv", 2, {"channels": 3, "scale": 2, "pads": 1}),
    "one axis": ("dilated_conv", 1, {"channels": 5, "rate": 4, "pads": 4}),
    "one axis transposed": ("conv_transpose", 1, {"channels": 5, "strides": 3}),
    "three axes": ("conv", 3, {"channels": 5, "kernel_shape": (3, 1, 5)}),
    "three axes linear": ("upsample", 3, {"scale": 2, "mode": "linear"}),
    "three axes far larger": ("upsample", 3, {"scale": 20}),
}  # fmt: skip


@functools.cache
def example(key: str) -> LayerCard:
    name, rank, options = LAYERS[key]
    return card(catalog.build(name, input_shape=SHAPES[rank], **options), name)


def texts(svg: bytes) -> list[str]:
    """The texts of a picture, which matplotlib leaves beside their outlines as comments."""
    return re.findall(r"<!-- (.*?) -->", svg.decode())


@pytest.mark.parametrize("key", LAYERS)
def test_a_picture_is_well_formed_and_repeatable(key: str) -> None:
    svg = draw(example(key), "svg")
    assert draw(example(key), "svg") == svg
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert b"<image" not in svg
    assert len(svg) < 1_000_000


def test_png() -> None:
    png = draw(example("dense"), "png")
    assert png.startswith(b"\x89PNG")
    assert draw(example("dense"), "png") == png


@pytest.mark.parametrize("key", LAYERS)
def test_no_text_covers_another_or_is_cut_off(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: dict[str, Any] = {}
    save = Figure.savefig

    def record(figure: Figure, *args: Any, **options: Any) -> None:
        save(figure, *args, **options)
        visible = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
        boxes.update((f"{i} {t.get_text()}", t.get_window_extent()) for i, t in enumerate(visible))
        boxes["figure"] = figure.bbox

    monkeypatch.setattr(Figure, "savefig", record)
    draw(example(key), "png")
    figure = boxes.pop("figure")
    for text, box in boxes.items():
        assert figure.x0 <= box.x0 < box.x1 <= figure.x1, text
        assert figure.y0 <= box.y0 < box.y1 <= figure.y1, text
    for (one, a), (other, b) in itertools.combinations(boxes.items(), 2):
        apart = min(a.x1, b.x1) - max(a.x0, b.x0) < 1 or min(a.y1, b.y1) - max(a.y0, b.y0) < 1
        assert apart, (one, other)


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("dilated", ["Dilated dense convolution: kernel 3x3, dilation 2x6 covers 5x13, stride 1, "
                     "padding 2x6, 4 → 8 channels", "5x13 input pixels of the layer",
                     "dense 5x13, all channels", "36 weights, 9 for each channel it reads"]),
        ("asymmetric", ["Dense convolution: kernel 3x2, stride 1, padding 2+0x0+1, 4 → 1 channels",
                        "inside, 6 of 6 taps meet pixels",
                        "in the corner, 2 of 6 taps meet pixels"]),
        ("grouped", ["each output reads 2 of 4", "Grouped convolution: kernel 3x3, stride 1, "
                     "padding 0, 2 groups, 4 → 8 channels", "2x"]),
        ("transposed", ["Transposed convolution: kernel 3x3, stride 2, zeros between the pixels 1, "
                        "around 2+3, 4 → 3 channels", "inserted zero"]),
        ("transposed in every way",
         ["Dilated transposed convolution: kernel 3x2, dilation 2x1 covers 5x2, stride 2x3, "
          "zeros between the pixels 1x2,", "around 3+5x1+2, 2 groups, 4 → 6 channels"]),
        ("far larger", ["output, only 14x14 pixels around that one"]),
        ("three axes far larger", ["depth: output, only 14 pixels around that one"]),
        ("nearest", ["output"]),
        ("upsampled", ["Nearest upsampling, then convolution: 2 x 2 times the pixels, kernel 3x3, "
                       "stride 1, padding 1, 4 → 3 channels"]),
        ("linear", ["Upsampling: linear, 2 x 2 times the pixels, 4 → 4 channels", "0.56", "0.06"]),
        ("three axes", ["depth: inside, 3 of 3 taps meet pixels",
                        "width: at the border, 5 of 5 taps meet pixels",
                        "? depends on sizes that the model leaves open"]),
        ("one axis", ["at the border, 2 of 3 taps meet pixels", "padding"]),
    ],
)  # fmt: skip
def test_a_picture_says_what_the_layer_is(key: str, wanted: list[str]) -> None:
    said = texts(draw(example(key), "svg"))
    assert set(wanted) <= set(said)
    runtime = example(key).impulses.onnxruntime
    assert any("in float32 with" in text and f"ONNX Runtime {runtime}: " in text for text in said)


def test_every_tap_of_a_small_kernel_is_numbered() -> None:
    said = texts(draw(example("dilated"), "svg"))
    assert [said.count(str(tap)) >= 2 for tap in range(9)] == [True] * 9


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a" * 200, "…" + "a" * 71),
        ("$x^$ <&> _", "$x^$ &lt;&amp;&gt; _"),
        ("卷积\n", r"\u5377\u79ef\n"),
    ],
)
def test_any_name_can_be_drawn(name: str, shown: str) -> None:
    layer = dataclasses.replace(example("dense").layer, name=name)
    named = dataclasses.replace(example("dense"), layer=layer)
    assert shown in texts(draw(named, "svg"))
    assert draw(named, "png")


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "advconv_onnx.report.layer_card")
    with pytest.raises(MissingDependencyError, match=r"pip install 'advconv-onnx\[report\]'"):
        importlib.import_module("advconv_onnx.report.layer_card")
