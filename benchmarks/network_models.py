"""The models of ``networks.py``: networks exported from torch, and trained ONNX files."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from fetch_models import MODELS, model_path
from torch import nn

from advconv_onnx import model as model_file
from advconv_onnx.runtime.inputs import largest_sample
from advconv_onnx.runtime.reference import Reference
from benchmarks import real_models
from benchmarks.torch_networks.branched import merge_branches
from benchmarks.torch_networks.densenet import DenseNet
from benchmarks.torch_networks.efficientnet import EfficientNet
from benchmarks.torch_networks.mobileone import MobileOne
from benchmarks.torch_networks.repvgg import RepVGG
from benchmarks.torch_networks.resnet_unet import ResNetUNet
from benchmarks.torch_networks.shufflenet_v2 import ShuffleNetV2
from tests.networks.equality import randomize
from tests.networks.twins.dcgan import Generator
from tests.networks.twins.deeplabv3 import DeepLabV3
from tests.networks.twins.mobilenet_v1 import MobileNetV1
from tests.networks.twins.mobilenet_v2 import MobileNetV2
from tests.networks.twins.resnext import ResNeXt
from tests.networks.twins.unet import UNet
from tests.networks.twins.xception import Xception

_CLASSIFIED = (1, 3, 224, 224)
_SEGMENTED = (1, 3, 256, 256)
_ATROUS = (1, 3, 257, 257)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network in torch, the shape of its input, and an equal network that is faster."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = _CLASSIFIED
    twin: Callable[[nn.Module], nn.Module] | None = None


NETWORKS: Mapping[str, Network] = {
    "unet_upsampled": Network(functools.partial(UNet, bilinear=True), _SEGMENTED),
    "unet_transposed": Network(UNet, _SEGMENTED),
    "resnet34_unet": Network(ResNetUNet, _SEGMENTED),
    "dcgan": Network(Generator, (1, 100, 1, 1)),
    "dcgan_16": Network(Generator, (16, 100, 1, 1)),
    "deeplabv3_mobilenet_v2": Network(
        functools.partial(DeepLabV3, backbone="mobilenet_v2", output_stride=16, rates=(6, 12, 18)),
        _ATROUS,
    ),
    "deeplabv3_resnet50": Network(DeepLabV3, _ATROUS),
    "repvgg_a0": Network(RepVGG, twin=merge_branches),
    "mobileone_s0": Network(MobileOne, twin=merge_branches),
    "mobilenet_v1": Network(MobileNetV1),
    "mobilenet_v2": Network(MobileNetV2),
    "xception": Network(Xception),
    "resnext50": Network(ResNeXt),
    "efficientnet_b0": Network(EfficientNet),
    "densenet121": Network(DenseNet),
    "shufflenet_v2": Network(ShuffleNetV2),
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model file with fixed shapes and what it must answer.

    Attributes:
        path: of the file.
        inputs: one array per input.
        expected: what each output is for them, computed in float64.
        twin: a file that computes the same faster, if one is known.
    """

    path: Path
    inputs: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    twin: Path | None = None


def prepare(name: str, folder: Path, seed: int) -> Subject:
    """Write the files of a network or of a trained model."""
    if name in NETWORKS:
        return _exported(NETWORKS[name], folder, seed)
    return _trained(name, folder, seed)


def _exported(network: Network, folder: Path, seed: int) -> Subject:
    images = np.random.default_rng(seed).standard_normal(network.shape).astype(np.float32)
    few = (4, network.shape[1], *(min(size, 64) for size in network.shape[2:]))
    module = randomize(network.build(), seed, shape=few)
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(torch.from_numpy(images).double()).numpy()
    twin = None
    if network.twin is not None:
        twin = _export(network.twin(module), images, folder / "twin.onnx")
    path = _export(module, images, folder / "export.onnx")
    return Subject(path, {"x": images}, {"y": exact}, twin)


def _export(module: nn.Module, images: np.ndarray, path: Path) -> Path:
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            module,
            (torch.from_numpy(images),),
            path,
            input_names=["x"],
            output_names=["y"],
            dynamo=True,
            optimize=True,
            external_data=False,
            verbose=False,
        )
    return path


def _trained(name: str, folder: Path, seed: int) -> Subject:
    shapes = MODELS[name].shapes
    path = real_models.loosened(model_path(name), folder / "export.onnx", shapes)
    if all(shapes.values()):  # scalars choose branches, some of which fit no fixed shape
        _fix(path, shapes)
    model = model_file.load(path)
    if name in real_models.DEFAULT:
        inputs = real_models.picture(name)
    else:
        rng = np.random.default_rng(seed)
        tensors = {key: rng.standard_normal(shape) for key, shape in shapes.items() if shape}
        data = {key: array.astype(np.float32) for key, array in tensors.items()}
        inputs = largest_sample(model, seed=seed, data=data).inputs
    return Subject(path, inputs, Reference(model).run(inputs))


def _fix(path: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """Write the sizes of the inputs into a file, as not every tool takes them on its command."""
    model = onnx.load(path)
    for value in model.graph.input:
        if value.name in shapes:
            for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
                dim.dim_value = size
    onnx.save(model, path)
