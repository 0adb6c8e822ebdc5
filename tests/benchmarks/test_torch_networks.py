"""The networks that benchmarks add to the twins: published sizes, branches merged."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.torch_networks.branched import BranchedConv, merge_branches
from benchmarks.torch_networks.densenet import DenseNet
from benchmarks.torch_networks.efficientnet import EfficientNet
from benchmarks.torch_networks.mobileone import MobileOne
from benchmarks.torch_networks.repvgg import RepVGG
from benchmarks.torch_networks.resnet_unet import ResNetUNet
from benchmarks.torch_networks.shufflenet_v2 import ShuffleNetV2
from tests.networks.equality import randomize


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("build", "parameters"),
    # Of torchvision, segmentation_models.pytorch and, in the papers' tables, 9.1 M and 5.3 M.
    [
        (DenseNet, 7_978_856),
        (EfficientNet, 5_288_548),
        (MobileOne, 5_293_272),
        (RepVGG, 9_108_968),
        (ResNetUNet, 24_436_369),
        (ShuffleNetV2, 2_278_604),
    ],
)
def test_parameters_are_the_published_ones(build: type[nn.Module], parameters: int) -> None:
    assert count(build()) == parameters


@pytest.mark.parametrize("build", [DenseNet, EfficientNet, ResNetUNet, ShuffleNetV2])
def test_outputs_depend_on_the_image(build: type[nn.Module]) -> None:
    network = randomize(build(), shape=(2, 3, 64, 64))
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        outputs = network(images).numpy()
    assert np.ptp(outputs[0] - outputs[1]) > 1e-2 * np.ptp(outputs)


@pytest.mark.parametrize(("build", "merged"), [(RepVGG, 8_309_384), (MobileOne, 2_078_504)])
def test_merged_branches_compute_the_same(build: type[nn.Module], merged: int) -> None:
    network = randomize(build(), shape=(2, 3, 64, 64)).double()
    twin = merge_branches(copy.deepcopy(network))
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        outputs, want = twin(images).numpy(), network(images).numpy()
    assert count(twin) == merged
    assert not any(isinstance(module, BranchedConv) for module in twin.modules())
    assert np.ptp(want[0] - want[1]) > 1e-2 * np.ptp(want)
    assert abs(outputs - want).max() < 1e-12 * np.ptp(want)
