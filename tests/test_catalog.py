"""Layers and networks by name: found by presence, built in every supported way, valid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx import catalog, networks
from advconv_onnx.errors import InputError
from advconv_onnx.layers.builder import NEWEST_OPSET, OLDEST_OPSET
from advconv_onnx.records import Shape
from advconv_onnx.runtime.session import open_session

LAYERS: dict[str, dict[str, Any]] = {
    "conv": {"channels": 8},
    "depthwise_conv": {},
    "pointwise_conv": {"channels": 8},
    "depthwise_separable_conv": {"channels": 8},
    "conv_transpose": {"channels": 8},
    "upsample": {"scale": 2},
    "upsample_conv": {"channels": 8, "scale": 2},
    "dilated_conv": {"channels": 8},
    "grouped_conv": {"channels": 8, "group": 4},
}
"""The layers of the mission, with what they need."""

NETWORKS: dict[str, dict[str, Any]] = {
    "mobilenet_v1": {"width": 0.125, "classes": 5},
    "mobilenet_v2": {"width": 0.1, "classes": 5},
    "xception": {"middle_blocks": 0, "classes": 5},
    "resnext": {"depths": (1, 1), "groups": 2, "classes": 5},
    "unet": {"depth": 2, "base": 4},
    "dcgan": {"base": 4},
    "deeplabv3": {"backbone": "mobilenet_v2", "output_stride": 16, "rates": (1, 2)},
}
"""The networks of the mission, with parameters that make them small."""


def run(model: ir.Model, size: int = 32) -> np.ndarray:
    shape = [dim if isinstance(dim, int) else size for dim in model.graph.inputs[0].shape[1:]]
    dtype = model.graph.inputs[0].dtype.numpy()
    x = np.random.default_rng(0).standard_normal((2, *shape)).astype(dtype)
    [y] = open_session(model, threads=1).run(None, {"x": x})
    return y


def small(name: str, **options: Any) -> ir.Model:
    return catalog.build(name, **NETWORKS[name], **options)


def weights(model: ir.Model) -> dict[str, bytes]:
    return {
        name: value.const_value.numpy().tobytes()
        for name, value in model.graph.initializers.items()
    }


def test_has_the_layers_and_networks_of_the_mission() -> None:
    for kind, names in (("layer", LAYERS), ("network", NETWORKS)):
        assert {e.name for e in catalog.entries().values() if e.kind == kind} == set(names)
    for entry in catalog.entries().values():
        assert entry.function.__name__ == entry.name
        assert entry.summary.endswith(".")


@pytest.fixture
def fresh_entries() -> Iterator[None]:
    catalog.entries.cache_clear()
    yield
    catalog.entries.cache_clear()


@pytest.mark.usefixtures("fresh_entries")
def test_one_more_file_is_one_more_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one_more.py").write_text(
        '"""One more."""\n'
        "from advconv_onnx.layers import conv\n"
        "INPUT_SHAPE = ('N', 2, 'L')\n"
        "def one_more(b, x, *, channels: int = 4):\n"
        "    return conv(b, x, channels)\n"
    )
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(tmp_path)])
    entry = catalog.find("one_more")
    assert (entry.kind, entry.summary) == ("network", "One more.")
    assert dict(entry.options) == {"channels": (int, 4)}
    assert tuple(catalog.build("one_more", channels=3).graph.outputs[0].shape)[1] == 3


def test_options_are_those_of_the_function_and_of_its_keywords() -> None:
    options = catalog.find("conv").options
    assert options["kernel_shape"][1] == 3
    assert options["strides"] == (int | Sequence[int], None)
    assert options["activation"] == (str | None, None)
    assert list(catalog.find("mobilenet_v2").options) == ["classes", "width"]


@pytest.mark.parametrize(
    ("name", "call", "message"),
    [
        ("resnet", {}, "'resnet' is no layer or network; use one of conv, .*xception"),
        ("unet", {"deep": 3}, "unet has no option 'deep'; it has classes, depth, base"),
        ("grouped_conv", {}, "grouped_conv needs channels and group; give a value"),
        ("mobilenet_v1", {"dtype": "float64"}, "no double kernel for Conv"),
        ("mobilenet_v1", {"dtype": "int8"}, "dtype 'int8': use one of"),
        ("mobilenet_v1", {"opset": 10}, "opset 10: layers exist for 11 to"),
        ("mobilenet_v1", {"input_shape": ("N", "C", 9, 9)}, "channels of 'x' .*unknown"),
        ("mobilenet_v1", {"input_shape": (3, 9)}, "layers take batch, channels and one"),
    ],
)
def test_refuses_with_a_remedy(name: str, call: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        catalog.build(name, **call)


@pytest.mark.parametrize("name", NETWORKS)
def test_same_seed_same_bytes_another_seed_other_weights(name: str) -> None:
    first, second = (ir.to_proto(small(name, seed=3)).SerializeToString() for _ in range(2))
    assert first == second
    own, other = weights(small(name, seed=3)), weights(small(name, seed=4))
    drawn = [key for key in own if key.endswith("weight") and not own[key].startswith(b"\0\0\x80?")]
    assert drawn
    assert not any(own[key] == other[key] for key in drawn)


def test_weights_do_not_depend_on_what_else_is_built() -> None:
    short = weights(catalog.build("resnext", depths=(1, 1), classes=5))
    long = weights(catalog.build("resnext", depths=(2, 1), classes=5))
    assert short.keys() < long.keys()
    # Variances are what the layers before leave, the only values that follow from others.
    drawn = {key: array for key, array in short.items() if not key.endswith("running_var")}
    assert all(long[key] == array for key, array in drawn.items())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("opset", range(OLDEST_OPSET, NEWEST_OPSET + 1))
def test_every_opset_computes_the_same(opset: int, dtype: str) -> None:
    wanted = run(small("mobilenet_v2"))
    found = run(small("mobilenet_v2", opset=opset, dtype=dtype))
    assert found.dtype == np.dtype(dtype)
    tolerance = 1e-6 if dtype == "float32" else 1e-2
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.ptp(wanted))


@pytest.mark.parametrize("opset", [OLDEST_OPSET, NEWEST_OPSET])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_runs_at_the_ends_of_the_opsets(name: str, opset: int) -> None:
    wanted = run(small(name))
    assert np.ptp(wanted) > 0
    model = small(name, opset=opset)
    assert_valid(model)
    np.testing.assert_allclose(run(model), wanted, rtol=0, atol=1e-6 * np.ptp(wanted))
    narrow = run(small(name, opset=opset, dtype="float16"))
    np.testing.assert_allclose(narrow, wanted, rtol=0, atol=3e-2 * np.ptp(wanted))


@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_is_valid_at_usual_fixed_and_dynamic_shapes(name: str) -> None:
    needed = LAYERS.get(name, {})
    assert_valid(catalog.build(name, **needed))
    batch, channels, *size = catalog.find(name).input_shape
    little = needed | NETWORKS.get(name, {})
    shapes: list[Shape] = [(2, channels, *size), (None, channels, *size)]
    if name != "dcgan":
        shapes += [(batch, channels, "H", "W"), (None, channels, None, None)]
    for shape in shapes:
        output = assert_valid(catalog.build(name, input_shape=shape, **little))
        assert (None not in output) == (None not in shape)
        assert all(isinstance(dim, int) for dim in output) == (shape == shapes[0])


def assert_valid(model: ir.Model) -> list[int | str | None]:
    """Check fully, and every shape the builder wrote against inference; returns the output's."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    written = {value.name: dims(value) for value in (*proto.graph.value_info, *proto.graph.output)}
    del proto.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(
        proto, check_type=True, strict_mode=True, data_prop=True
    )
    for value in inferred.graph.value_info:
        for mine, other in zip(written[value.name], dims(value), strict=True):
            assert mine == other or not (isinstance(mine, int) and isinstance(other, int))
    return written["y"]


def dims(value: onnx.ValueInfoProto) -> list[int | str | None]:
    shape = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in shape]
