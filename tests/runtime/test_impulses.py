"""Measured layers against their attributes, and against attributes that are not theirs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.cards import compare, probe_of
from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.inspection import find
from advconv_onnx.runtime import impulses
from advconv_onnx.runtime.impulses import Probe, measure
from tests.parsing import normal, parse


def probe(
    op_type: str = "Conv",
    weight: tuple[int, ...] = (8, 4, 3, 3),
    *,
    channels: int = 4,
    size: tuple[int, ...] = (12, 12),
    opset: int = 18,
    **attributes: Any,
) -> Probe:
    """A layer of one convolution, ready to be measured."""
    quoted = {k: f'"{v}"' if isinstance(v, str) else v for k, v in attributes.items()}
    text = ", ".join(f"{name}={value}" for name, value in quoted.items())
    dims = ",".join(map(str, size))
    model = parse(
        f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N,{channels},{dims}] x) => '
        f"(float[] y) {{ y = {op_type}{f'<{text}>' if text else ''}(x, w) }}",
        w=normal(*weight),
    )
    return probe_of(*find(model, "y"))


def resized(attributes: str, scales: tuple[float, ...], then: str = "y = Identity(r)") -> Probe:
    """A Resize, and perhaps a convolution behind it, which is then the layer."""
    numbers = ", ".join(map(str, scales))
    model = parse(
        f'<ir_version: 8, opset_import: ["": 18]> g (float[1,3,6,6] x) => (float[] y) '
        f"<float[4] s = {{{numbers}}}> {{ r = Resize<{attributes}>(x, , s) {then} }}",
        w=normal(2, 3, 3, 3),
        p=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    )
    return probe_of(*find(model, "r" if "Identity" in then else "y"))


HALF = 'coordinate_transformation_mode="half_pixel"'

PROBES = {
    "dense": probe(pads=[1, 1, 1, 1]),
    "asymmetric": probe(weight=(8, 4, 3, 2), pads=[1, 0, 2, 1], strides=[2, 3]),
    "dilated": probe(dilations=[2, 3], pads=[2, 3, 2, 3]),
    "same upper": probe(strides=[2, 2], auto_pad="SAME_UPPER", size=(11, 12)),
    "same lower": probe(weight=(8, 4, 4, 4), auto_pad="SAME_LOWER"),
    "valid": probe(auto_pad="VALID"),
    "grouped": probe(weight=(6, 2, 3, 3), group=2),
    "depthwise": probe(weight=(40, 1, 3, 3), channels=40, group=40),
    "more taps than channels": probe(weight=(1, 4, 5, 5)),
    "one axis": probe(weight=(3, 4, 7), size=(50,), strides=[3], pads=[3, 3]),
    "three axes": probe(weight=(3, 4, 3, 1, 2), size=(6, 6, 6), dilations=[2, 1, 1]),
    "transposed": probe("ConvTranspose", (4, 8, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1]),
    "output padding": probe(
        "ConvTranspose", (4, 8, 3, 3), strides=[2, 3], output_padding=[1, 2], dilations=[2, 1]
    ),
    "transposed groups": probe("ConvTranspose", (4, 3, 3, 3), group=2, pads=[0, 1, 1, 0]),
    "transposed same": probe(
        "ConvTranspose", (4, 8, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "output shape": probe("ConvTranspose", (4, 8, 3, 3), strides=[2, 2], output_shape=[24, 23]),
    "nearest": resized('mode="nearest", coordinate_transformation_mode="asymmetric", '
                       'nearest_mode="floor"', (1, 1, 2, 3)),
    "linear": resized(f'mode="linear", {HALF}', (1, 1, 2, 1.5)),
    "cubic": resized(f'mode="cubic", {HALF}', (1, 1, 2, 2)),
    "smaller": resized(f'mode="linear", {HALF}', (1, 1, 0.5, 0.5)),
    "aligned": resized('mode="linear", coordinate_transformation_mode="align_corners"',
                       (1, 1, 2, 2)),
    "enlarged, convolved": resized(
        f'mode="linear", {HALF}', (1, 1, 2, 2), "y = Conv<pads=[1,1,1,1]>(r, w)"
    ),
    "enlarged, padded, convolved": resized(
        f'mode="nearest", {HALF}', (1, 1, 2, 2),
        'q = Pad<mode="reflect">(r, p) y = Conv<strides=[2,1]>(q, w)',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBES)
def test_onnxruntime_does_what_the_attributes_say(name: str) -> None:
    found = measure(PROBES[name])
    assert compare(PROBES[name], found) < 1e-6
    assert found.channels.shape == PROBES[name].channels[::-1]


@pytest.mark.parametrize("name", PROBES)
def test_interior_and_borders_are_among_what_is_measured(name: str) -> None:
    for axis in PROBES[name].axes:
        begin, end = axis.padding
        cells = axis.grid.outputs
        windows = [{row[0][0] for row in rows} for rows in zip(*axis.window.rows, strict=True)]
        assert any(window <= set(range(begin, cells - end)) for window in windows)
        assert begin == 0 or min(windows[0]) < begin
    assert all(axis.anchor for axis in PROBES[name].least)


MUTANTS = [
    ({"dilations": [2, 2], "pads": [2, 2, 2, 2]}, {"pads": [1, 1, 1, 1]}, "tap 0"),
    ({"pads": [2, 1, 0, 1]}, {"pads": [1, 1, 1, 1]}, "spatial axis 0 takes 0"),
    ({"pads": [1, 2, 1, 0]}, {"pads": [1, 1, 1, 1]}, "spatial axis 1"),
    ({"strides": [2, 2]}, {}, "makes 2x1 of 5x3 pixels, the attributes say 3x1"),
    ({"weight": (8, 2, 3, 3), "group": 2}, {}, "output channel 0 does not read input channel 2"),
    ({}, {"weight": (8, 2, 3, 3), "group": 2}, "output channel 0 reads input channel 2"),
    (
        {"op_type": "ConvTranspose", "weight": (4, 8, 3, 3), "pads": [1, 1, 1, 1]},
        {"pads": [1, 1, 1, 1]},
        "through tap 0",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("actual", "claimed", "message"), MUTANTS)
def test_a_layer_that_does_something_else_is_caught(
    actual: dict[str, Any], claimed: dict[str, Any], message: str
) -> None:
    claim = probe(**claimed)
    mutant = dataclasses.replace(claim, nodes=probe(**actual).nodes)
    with pytest.raises(CheckError, match=re.escape(message)):
        compare(claim, measure(mutant))


def test_axes_that_do_not_combine_are_caught() -> None:
    """As if a kernel were right along each axis and wrong in its corners."""
    claim = PROBES["dense"]
    found = measure(claim)
    outputs = found.outputs.copy()
    outputs[0, 0, 1, 2] += 0.01
    with pytest.raises(CheckError, match=r"output pixel \[1, 2\] .* the axes say together"):
        compare(claim, dataclasses.replace(found, outputs=outputs))


def test_a_resize_with_other_rounding_is_caught() -> None:
    claim = resized(f'mode="nearest", {HALF}, nearest_mode="floor"', (1, 1, 1.5, 1.5))
    mutant = resized(f'mode="nearest", {HALF}, nearest_mode="ceil"', (1, 1, 1.5, 1.5))
    with pytest.raises(CheckError, match="takes 0 of input pixel"):
        compare(claim, measure(dataclasses.replace(claim, nodes=mutant.nodes)))


def test_what_onnxruntime_makes_of_same_pads_around_a_kernel_below_its_stride() -> None:
    """ONNX says input * stride; ONNX Runtime 1.32 leaves the last pixels out."""
    wider = probe("ConvTranspose", (4, 8, 1, 1), strides=[2, 2], auto_pad="SAME_UPPER")
    with pytest.raises(CheckError, match="makes 5x1 of 3x1 pixels, the attributes say 6x2"):
        measure(wider)


@pytest.mark.parametrize(
    "change",
    [lambda y: 1.5 * y, lambda y: -y, lambda y: y + 2**16],
    ids=["half", "below zero", "beyond 16 digits"],
)
def test_channels_added_in_parts_or_twice_are_caught(
    change: Callable[[np.ndarray], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = impulses.run_session
    monkeypatch.setattr(
        impulses, "run_session", lambda *args: {"y": change(run(*args).popitem()[1])}
    )
    with pytest.raises(CheckError, match="adds a channel more than once, or in parts"):
        measure(PROBES["dense"])


def test_many_channels_take_little_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    run = impulses.run_session

    def record(session: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        batches.append(inputs["x"].size)
        return run(session, inputs)

    monkeypatch.setattr(impulses, "run_session", record)
    monkeypatch.setattr(impulses, "_CHUNK", 20_000)
    wide = probe(weight=(300, 1, 3, 3), channels=300, group=300)
    assert compare(wide, measure(wide)) == 0
    assert max(batches) <= 20_000
    assert len(batches) == 10


def test_large_weights_are_tried_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    cut_out = impulses._cut_out

    def record(nodes: Any, weight: np.ndarray, shape: Any) -> ir.Model:
        sizes.append(weight.size)
        return cut_out(nodes, weight, shape)

    monkeypatch.setattr(impulses, "_cut_out", record)
    monkeypatch.setattr(impulses, "_CHUNK", 150)
    for name in ("dense", "transposed"):
        assert compare(PROBES[name], measure(PROBES[name])) == 0
    assert len(sizes) == 5 + 7
    assert max(sizes) <= 150


@pytest.mark.parametrize("limit", ["_LARGEST", "_LONGEST"])
@pytest.mark.parametrize("name", ["dense", "transposed", "linear"])
def test_what_is_too_large_is_refused_before_anything_runs(
    name: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(impulses, limit, 10)
    monkeypatch.setattr(impulses, "run_session", lambda *_: pytest.fail("it runs"))
    with pytest.raises(InputError, match=r"too large to measure: .* inspect describes it"):
        measure(PROBES[name])


def test_a_large_kernel_needs_no_large_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """One random kernel is tried, not each of its taps alone."""
    monkeypatch.setattr(impulses, "_LARGEST", 1 << 19)
    wide = probe("ConvTranspose", (4, 4, 21, 21), strides=[2, 2])
    assert compare(wide, measure(wide)) == 0


def test_parameters_of_a_function_are_refused() -> None:
    conv = PROBES["dense"].nodes[0]
    attributes = [*conv.attributes.values(), ir.RefAttr("pads", "p", ir.AttributeType.INTS)]
    node = ir.Node("", "Conv", conv.inputs, attributes, version=18)
    with pytest.raises(InputError, match="parameters of a local function"):
        measure(dataclasses.replace(PROBES["dense"], nodes=(node,)))
