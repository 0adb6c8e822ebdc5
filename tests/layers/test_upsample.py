"""What an upsampling refuses, how it is spelled, and sizes that are taken from another value."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from advconv_onnx.errors import InputError
from advconv_onnx.layers import Builder, upsample
from advconv_onnx.layers.builder import NEWEST_OPSET, OLDEST_OPSET
from advconv_onnx.runtime.session import open_session
from tests.layers.building import assert_equal, assert_refused, build, run
from tests.parsing import normal

IMAGE = (1, 2, 4, 4)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        (IMAGE, {}, "no size given; give scale, size or like"),
        (IMAGE, {"scale": 2, "size": 8}, "scale and size given; give scale, size or like"),
        (IMAGE, {"scale": 0}, "scale=0; give one factor above 0, or 2 of them"),
        (IMAGE, {"scale": float("nan")}, "scale=nan; give one factor above 0"),
        (IMAGE, {"scale": (2, 2, 2)}, "scale=.*; give one factor above 0, or 2 of them"),
        (IMAGE, {"scale": 0.2}, r"scale=0.2 leaves no pixel of \(4, 4\); use a larger one"),
        (IMAGE, {"scale": 1.2}, r"scale=1.2 leaves the size \(4, 4\); use a larger scale"),
        (IMAGE, {"size": 0}, "size=0; give one integer from 1 up"),
        (IMAGE, {"size": (8, 8, 8)}, "size=.*; give one integer from 1 up, or 2 of them"),
        (IMAGE, {"scale": 2, "mode": "bilinear"}, "mode=bilinear; use one of nearest, linear"),
        (IMAGE, {"scale": 2, "align_corners": True}, "nothing to nearest; use linear or cubic"),
        ((1, 2, 4, 4, 4), {"scale": 2, "mode": "cubic"}, "three axes; use linear"),
        ((1, 2), {"scale": 2}, "one to three spatial axes"),
    ],
)
def test_refuses_with_a_remedy(
    shape: tuple[int, ...], arguments: dict[str, Any], message: str
) -> None:
    assert_refused("upsample", shape, arguments, message)


def test_refuses_a_size_like_another_rank() -> None:
    b = Builder()
    x, line = b.input("x", IMAGE), b.input("line", (1, 2, 4))
    with pytest.raises(InputError, match=r"'line' has 1 spatial axes, the input 2; take one"):
        upsample(b, x, like=line)
    with pytest.raises(InputError, match="scale and like given; give scale, size or like"):
        upsample(b, x, scale=2, like=x)
    assert not list(b.model().graph)


def test_onnxruntime_copies_where_a_scale_changes_no_size() -> None:
    """Why such a scale is refused. When this fails, the refusal can go."""
    model = build("upsample", (1, 1, 2), {"scale": 1.5})
    scales = model.graph.initializers["layer.scales"]
    scales.const_value = ir.tensor(np.array([1, 1, 1.25], np.float32))
    model.graph.outputs[0].shape = ir.Shape([1, 1, 2])
    x = normal(1, 1, 2)
    wanted = torch.nn.Upsample(scale_factor=1.25)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(wanted, x[..., [0, 0]])
    np.testing.assert_array_equal(run(model, x), x)


@pytest.mark.parametrize(
    ("arguments", "spelling"),
    [
        ({"scale": 2}, ("nearest", "asymmetric", "floor")),
        ({"size": (8, 12)}, ("nearest", "asymmetric", "floor")),
        ({"scale": 2, "mode": "linear"}, ("linear", "half_pixel", "")),
        ({"scale": 2, "mode": "linear", "align_corners": True}, ("linear", "align_corners", "")),
    ],
)
def test_is_one_node_in_the_spelling_that_onnxruntime_runs_fast(
    arguments: dict[str, Any], spelling: tuple[str, ...]
) -> None:
    [node] = build("upsample", ("N", 8, 4, 4), arguments).graph
    names = ("mode", "coordinate_transformation_mode", "nearest_mode")
    assert tuple(node.attributes.get_string(name, "") for name in names) == spelling
    assert node.inputs[2].const_value.numpy()[:2].tolist() == [1, 1]


@pytest.mark.parametrize(("pixels", "scale"), [(10, 2.3), (3, 5 / 3), (100, 1.15), (7, 31 / 7)])
def test_new_size_is_torchs_where_float32_would_round(pixels: int, scale: float) -> None:
    x = normal(1, 1, pixels)
    wanted = torch.nn.Upsample(scale_factor=scale, mode="linear")(torch.from_numpy(x)).numpy()
    model = build("upsample", x.shape, {"scale": scale, "mode": "linear"})
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert_equal(run(model, x), wanted, 1e-5)


@pytest.mark.parametrize("opset", [OLDEST_OPSET, NEWEST_OPSET])
@pytest.mark.parametrize(
    ("shape", "like"),
    [
        (("N", 2, "H", "W"), ("N", 3, "P", "Q")),
        ((1, 2, 5, 4), (1, 3, "P", "Q")),
        (("N", 2, "H", "W"), ("N", 3, 12, 9)),
        (("N", 2, 5, 4), ("N", 3, 12, 9)),
        (("N", 2, 6, 3), ("N", 3, 12, 9)),
        (("N", 2, "L"), ("N", 3, "P")),
    ],
)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_size_of_another_value(
    shape: tuple[int | str, ...], like: tuple[int | str, ...], mode: str, opset: int
) -> None:
    b = Builder(opset=opset)
    y = upsample(b, b.input("x", shape), like=b.input("other", like), mode=mode)
    assert [*y.shape[2:]] == [
        dim if isinstance(dim, int) else ir.SymbolicDim(dim) for dim in like[2:]
    ]
    b.output(y, "y")
    onnx.checker.check_model(ir.to_proto(b.model()), full_check=True)
    sizes = {"N": 1, "H": 5, "W": 4, "P": 12, "Q": 9, "L": 5}
    x, other = (normal(*(sizes.get(dim, dim) for dim in dims)) for dims in (shape, like))
    [found] = open_session(b.model(), threads=1).run(None, {"x": x, "other": other})
    image = torch.from_numpy(x if x.ndim == 4 else x[:, :, None])
    wanted = torch.nn.Upsample(
        size=other.shape[2:] if x.ndim == 4 else (1, *other.shape[2:]),
        mode={"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}[mode],
    )(image)
    assert_equal(found, wanted.numpy().reshape(found.shape), 1e-5)
