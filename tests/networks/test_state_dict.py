"""Trained weights from dicts and files: names, types, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from advconv_onnx import catalog
from advconv_onnx.errors import InputError
from tests.networks.twins.deeplabv3 import DeepLabV3
from tests.networks.twins.mobilenet_v1 import MobileNetV1
from tests.networks.twins.mobilenet_v2 import MobileNetV2
from tests.networks.twins.resnext import ResNeXt

TINY = {"width": 0.125, "classes": 3}


def tiny_twin() -> MobileNetV1:
    torch.manual_seed(0)
    return MobileNetV1(**TINY)


def load(source: Any, **options: Any) -> ir.Model:
    return catalog.from_state_dict("mobilenet_v1", source, **TINY, **options)


def parameters(model: ir.Model) -> dict[str, np.ndarray]:
    suffixes = ("weight", "bias", "running_mean", "running_var")
    return {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if name.endswith(suffixes)
    }


@pytest.mark.parametrize(
    ("name", "twin", "entries", "some"),
    # The number of entries of torchvision's state dicts, without num_batches_tracked, and some of
    # the names and shapes that depend on how its modules are nested.
    [
        (
            "mobilenet_v2",
            MobileNetV2,
            262,
            {
                "features.0.0.weight": (32, 3, 3, 3),
                "features.1.conv.0.0.weight": (32, 1, 3, 3),
                "features.1.conv.1.weight": (16, 32, 1, 1),
                "features.17.conv.1.1.running_var": (960,),
                "features.18.0.weight": (1280, 320, 1, 1),
                "classifier.1.bias": (1000,),
            },
        ),
        (
            "resnext",
            ResNeXt,
            267,
            {
                "bn1.running_mean": (64,),
                "layer1.0.conv2.weight": (128, 4, 3, 3),
                "layer1.0.downsample.1.bias": (256,),
                "layer4.2.bn3.weight": (2048,),
                "fc.weight": (1000, 2048),
            },
        ),
        (
            "deeplabv3",
            DeepLabV3,
            302,
            {
                "backbone.layer4.2.conv3.weight": (2048, 512, 1, 1),
                "classifier.0.convs.0.0.weight": (256, 2048, 1, 1),
                "classifier.0.convs.3.1.running_var": (256,),
                "classifier.0.convs.4.2.bias": (256,),
                "classifier.0.project.0.weight": (256, 1280, 1, 1),
                "classifier.4.bias": (21,),
            },
        ),
    ],
)
def test_names_and_shapes_are_torchvisions(
    name: str,
    twin: Callable[[], torch.nn.Module],
    entries: int,
    some: dict[str, tuple[int, ...]],
) -> None:
    found = {key: array.shape for key, array in parameters(catalog.build(name)).items()}
    trained = twin().state_dict().items()
    assert found == {k: tuple(v.shape) for k, v in trained if "num_batches_tracked" not in k}
    assert len(found) == entries
    assert found.items() >= some.items()


def test_initial_weights_load_into_the_twin() -> None:
    initial = catalog.build("mobilenet_v1", **TINY, input_shape=("N", 3, "H", "W"))
    twin = tiny_twin()
    arrays = {name: torch.from_numpy(array) for name, array in parameters(initial).items()}
    twin.load_state_dict(twin.state_dict() | arrays, strict=True)
    loaded = parameters(load(twin.state_dict()))
    assert {name: array.tobytes() for name, array in loaded.items()} == {
        name: array.tobytes() for name, array in parameters(initial).items()
    }


def in_torch_file(state: dict[str, torch.Tensor], folder: Path) -> Path:
    safetensors.torch.save_file(state, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def in_numpy_file(state: dict[str, torch.Tensor], folder: Path) -> str:
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    safetensors.numpy.save_file(arrays, folder / "weights.safetensors")
    return str(folder / "weights.safetensors")


@pytest.mark.parametrize(
    "given",
    [
        lambda state, _: state,
        lambda state, _: {name: tensor.numpy() for name, tensor in state.items()},
        lambda state, _: {name: tensor.double() for name, tensor in state.items()},
        in_torch_file,
        in_numpy_file,
    ],
    ids=["tensors", "arrays", "doubles", "torch file", "numpy file"],
)
def test_every_source_gives_the_same_weights(given: Any, tmp_path: Path) -> None:
    state = tiny_twin().state_dict()
    assert any(name.endswith("num_batches_tracked") for name in state)
    loaded = parameters(load(given(state, tmp_path)))
    assert len(loaded) == len(state) - sum("num_batches_tracked" in name for name in state)
    for name, array in loaded.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, state[name].numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_files_are_widened_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    narrow = {name: tensor.to(dtype) for name, tensor in tiny_twin().state_dict().items()}
    for name, array in parameters(load(in_torch_file(narrow, tmp_path))).items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, narrow[name].float().numpy())


def test_weights_are_stored_in_the_type_of_the_model() -> None:
    state = tiny_twin().state_dict()
    stored = parameters(load(state, dtype="float16"))["block1.pointwise.weight"]
    np.testing.assert_array_equal(stored, state["block1.pointwise.weight"].half().numpy())


def test_all_faults_are_in_one_error() -> None:
    state = dict(tiny_twin().state_dict())
    del state["stem.weight"], state["block3.depthwise.norm.running_var"]
    state["classifier.bias"] = torch.zeros(4)
    state["block2.pointwise.weight"] = torch.zeros(())
    state |= {"aux_classifier.0.weight": torch.zeros(1), "stem.bias": torch.zeros(4)}
    with pytest.raises(InputError) as raised:
        load(state)
    assert str(raised.value) == (
        "the weights do not fit 'mobilenet_v1': missing stem.weight, "
        "block3.depthwise.norm.running_var; misshapen block2.pointwise.weight (scalar, needs "
        "16x8x1x1), classifier.bias (4, needs 3); unexpected aux_classifier.0.weight, stem.bias"
    )


def test_many_faults_are_counted() -> None:
    with pytest.raises(InputError, match=r"missing (\S+, ){19}\S+ and 117 more$"):
        load({})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.arange(3), "'stem.weight' holds int64; give floating-point numbers"),
        (None, "'stem.weight' holds NoneType; give floating-point numbers"),
        ([[1.0], [1.0, 2.0]], r"'stem.weight' does not become an array \(.*inhomogeneous"),
        (torch.zeros(1, dtype=torch.bfloat16), r"BFloat16\); give arrays, or tensors after \.det"),
        (torch.nn.Parameter(torch.zeros(1)), r"requires grad.*; give arrays, or tensors after"),
    ],
)
def test_refuses_what_is_no_array_of_numbers(value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load({"stem.weight": value})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.write_bytes(b""), "is no safetensors file .*header too small"),
        (lambda file: file.write_bytes(b"PK\3\4" * 99), "is no safetensors file .*save_file"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "is no safetensors file"),
        (lambda file: file.write_bytes(file.read_bytes()[:30]), "is no safetensors file"),
        (lambda file: file.unlink(), "cannot read '.*': No such file .*; give a safetensors file"),
        (lambda file: (file.unlink(), file.mkdir()), "cannot read"),
        (
            lambda file: safetensors.torch.save_file(
                {"stem.weight": torch.zeros(1).to(torch.float8_e4m3fn)}, file
            ),
            "is no safetensors file that numpy can hold",
        ),
    ],
    ids=["empty", "other format", "truncated", "truncated header", "missing", "folder", "float8"],
)
def test_refuses_an_unreadable_file_in_one_line(
    spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    file = Path(in_torch_file(tiny_twin().state_dict(), tmp_path))
    spoil(file)
    with pytest.raises(InputError, match=message) as raised:
        load(file)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.nn.Linear(2, 2), "a Linear is no state dict; give arrays by name"),
        ({"model": {"weight": np.zeros(1)}}, "'model' holds dict; .* the inner dict"),
        ({3: np.zeros(1)}, "the state dict has the name 3; names are text"),
    ],
)
def test_refuses_what_is_no_state_dict(source: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        catalog.from_state_dict("conv", source, channels=1)
