"""Initial weights, held to torch.nn.init."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from advconv_onnx.errors import InputError
from advconv_onnx.layers.initializers import (
    INITIALIZERS,
    Initializer,
    initializer,
    kaiming_normal,
    kaiming_uniform,
)

SHAPE = (96, 24, 5, 3)

TORCH = {
    "kaiming_normal": (kaiming_normal(), torch.nn.init.kaiming_normal_, {}),
    "kaiming_normal_out": (
        kaiming_normal("fan_out"),
        torch.nn.init.kaiming_normal_,
        {"mode": "fan_out"},
    ),
    "kaiming_uniform": (kaiming_uniform(), torch.nn.init.kaiming_uniform_, {}),
    "leaky": (kaiming_uniform(a=0.7), torch.nn.init.kaiming_uniform_, {"a": 0.7}),
    "xavier_normal": (INITIALIZERS["xavier_normal"], torch.nn.init.xavier_normal_, {}),
    "xavier_uniform": (INITIALIZERS["xavier_uniform"], torch.nn.init.xavier_uniform_, {}),
}


@pytest.mark.parametrize(("ours", "theirs", "options"), TORCH.values(), ids=TORCH)
def test_distributions_are_torchs(ours: Initializer, theirs: object, options: object) -> None:
    drawn = ours(np.random.default_rng(0), SHAPE)
    expected = theirs(
        torch.empty(SHAPE), **options, generator=torch.Generator().manual_seed(0)
    ).numpy()
    assert drawn.dtype == np.float32
    assert abs(drawn.mean()) < 0.02 * expected.std()
    np.testing.assert_allclose(drawn.std(), expected.std(), rtol=0.02)
    np.testing.assert_allclose(np.abs(drawn).max(), np.abs(expected).max(), rtol=0.25)


def test_torch_is_what_a_layer_of_torch_draws() -> None:
    layer = torch.nn.Conv2d(24, 96, (5, 3))
    drawn = INITIALIZERS["torch"](np.random.default_rng(0), SHAPE)
    np.testing.assert_allclose(np.abs(drawn).max(), layer.weight.abs().max().item(), rtol=0.01)


def test_names_and_functions() -> None:
    assert initializer("zeros")(np.random.default_rng(0), (2,)).tolist() == [0, 0]
    assert initializer(kaiming_normal) is kaiming_normal
    with pytest.raises(InputError, match=r"'he': use one of kaiming_normal, .*function"):
        initializer("he")
