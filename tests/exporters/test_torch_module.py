"""Modules of our own writing exported and compared; every wrong call is one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.exporters.torch_module import export
from advconv_onnx.exporters.torch_source import load_source

IMAGES = ("N", 3, "H", "W")


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1, with a shortcut where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            *([] if expansion == 1 else [conv_bn(inputs, hidden, 1), nn.ReLU6()]),
            conv_bn(hidden, hidden, 3, stride, groups=hidden),
            nn.ReLU6(),
            conv_bn(hidden, outputs, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(x)
        return x + result if self.shortcut else result


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """A convolution and a BatchNormalization with statistics as after a training."""
    norm = nn.BatchNorm2d(outputs)
    norm.running_mean = torch.randn(outputs) * 0.1
    norm.running_var = torch.rand(outputs) + 0.5
    padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False), norm
    )


def mobilenet_v2(width: float = 1.0, most_repeats: int = 4, classes: int = 1000) -> nn.Module:
    """MobileNetV2 (Sandler et al., 2018, table 2), thinner and shorter when asked."""
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)]
    table += [(6, 160, 3, 2), (6, 320, 1, 1)]
    channels = int(32 * width)
    layers: list[nn.Module] = [conv_bn(3, channels, 3, 2), nn.ReLU6()]
    for expansion, outputs, repeats, stride in table:
        for repeat in range(min(repeats, most_repeats)):
            wide = int(outputs * width)
            layers.append(InvertedResidual(channels, wide, stride if repeat == 0 else 1, expansion))
            channels = wide
    head = int(1280 * width)
    layers += [conv_bn(channels, head, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(head, classes))


class Branching(nn.Module):
    """Takes another path for large images: tracing sees only one of them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[2] > 100 else x * 3


class Outputs(nn.Module):
    """Several inputs that share sizes; nested outputs, one of them integers, one named as x."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, object]:
        mean = x.mean(3)
        return {"x": x + y, "mean": mean + 1, "pair": (y, x.argmax(1)), "none": None}


class WrongInFloat32(nn.Module):
    """Cancels in float32, as every element is a small difference of large numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        large = x.abs().sum() * 1e6  # no constant: those would be merged, exactly
        return (x + large) - large


def run(path: Path, **inputs: torch.Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    arrays = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return dict(zip([output.name for output in session.get_outputs()], arrays, strict=True))


def test_mobilenet_with_dynamic_batch_and_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = mobilenet_v2(width=0.25, most_repeats=2, classes=10)
    out = tmp_path / "mobilenet.onnx"
    validation = export(module, {"input": IMAGES}, out)
    assert validation.passed
    assert validation.max_relative < 1e-5
    assert len(validation.shapes) == 4
    assert "input=1x3x65x97" in validation.shapes
    assert any("training mode" in note for note in validation.notes)
    assert module.training, "the module is left in the mode it was in"

    x = torch.randn(4, 3, 50, 70)
    with torch.no_grad():
        expected = module.eval()(x).numpy()
    np.testing.assert_allclose(run(out, input=x)["output"], expected, rtol=1e-4, atol=1e-5)

    model = onnx.load(out)
    assert [
        d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim
    ] == [*IMAGES]
    kinds = {node.op_type for node in model.graph.node}
    assert "Conv" in kinds
    assert not kinds & {"BatchNormalization", "Dropout", "Identity", "CastLike"}


def test_nothing_of_the_exporting_machine_is_written(tmp_path: Path) -> None:
    out = tmp_path / "conv.onnx"
    export(nn.Conv2d(3, 4, 3), {"input": IMAGES}, out)
    content = out.read_bytes()
    assert b"pkg.torch" not in content
    assert str(Path.cwd()).encode() not in content


def test_structured_outputs_get_names_and_are_all_compared(tmp_path: Path) -> None:
    out = tmp_path / "outputs.onnx"
    validation = export(Outputs(), {"x": IMAGES, "y": ("N", 3, "H", "W")}, out)
    names = ["output_x", "mean", "pair_0", "pair_1"]
    assert [check.tensor for check in validation.checks] == names
    x, y = torch.randn(2, 3, 5, 7), torch.randn(2, 3, 5, 7)
    outputs = run(out, x=x, y=y)
    assert list(outputs) == names
    np.testing.assert_array_equal(outputs["pair_0"], y)
    np.testing.assert_array_equal(outputs["pair_1"], x.argmax(1))
    np.testing.assert_allclose(outputs["mean"], x.mean(3) + 1, rtol=1e-5)


def test_a_branch_on_the_size_is_found_and_nothing_written(tmp_path: Path) -> None:
    message = r"'output' differs from torch by .* at x=2x3x128x160, first in the module itself"
    with pytest.raises(CheckError, match=message):
        export(Branching(), {"x": IMAGES}, tmp_path / "branching.onnx")
    assert not list(tmp_path.iterdir())


def test_the_judge_is_float64(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="differs from torch"):
        export(WrongInFloat32(), {"x": (2, 3)}, tmp_path / "cancelling.onnx")


def test_a_constant_output_proves_nothing(tmp_path: Path) -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 0 + 1

    with pytest.raises(CheckError, match="every output is constant"):
        export(Constant(), {"x": (2, 3)}, tmp_path / "constant.onnx")


def test_nan_where_torch_has_none_fails(tmp_path: Path) -> None:
    class Nan(nn.Module):
        """The square root of a negative number, except in float64 and in eager float32."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.compiler.is_exporting():
                return torch.sqrt(x)
            return torch.sqrt(x.abs())

    with pytest.raises(CheckError, match="is NaN or infinite at other places than"):
        export(Nan(), {"x": (2, 3)}, tmp_path / "nan.onnx")


def test_integers_that_differ_fail(tmp_path: Path) -> None:
    class Index(nn.Module):
        """The largest when exported, the smallest in torch."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.argmax(1) if torch.compiler.is_exporting() else x.argmin(1)

    with pytest.raises(CheckError, match=r"differs from torch by 1\.0e\+00"):
        export(Index(), {"x": (20, 9)}, tmp_path / "index.onnx")


def test_sizes_that_torch_ties_together_are_noted(tmp_path: Path) -> None:
    class Square(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x.transpose(2, 3)

    validation = export(Square(), {"x": IMAGES}, tmp_path / "square.onnx")
    assert "'x' was asked to be Nx3xHxW, the module allows Nx3xHxH" in validation.notes
    assert any("does not run at them: x=2x3x64x96; " in note for note in validation.notes)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"image": IMAGES}, r"missing a required argument: 'input'.*forward takes 'input'"),
        ({"input": IMAGES, "y": IMAGES}, "unexpected keyword argument 'y'"),
        ({"input": (1, 4, 32, 32)}, "does not run at input=1x4x32x32: RuntimeError: .*channels"),
    ],
)
def test_wrong_inputs(
    tmp_path: Path, inputs: dict[str, tuple[int | str, ...]], message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        export(nn.Conv2d(3, 4, 3), inputs, tmp_path / "out.onnx")
    assert "\n" not in str(raised.value)


def test_what_onnx_runtime_has_no_kernel_for(tmp_path: Path) -> None:
    with pytest.raises(
        CheckError, match=r"nothing was written: .* implementation for Conv.*float32"
    ):
        export(nn.Conv2d(3, 4, 3).double(), {"input": IMAGES}, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_outputs_that_are_no_tensors_of_onnx(tmp_path: Path) -> None:
    class Returning(nn.Module):
        def __init__(self, more: object) -> None:
            super().__init__()
            self.more = more

        def forward(self, x: torch.Tensor) -> object:
            return x + 1, (x.to(self.more) if isinstance(self.more, torch.dtype) else self.more)

    for more, message in {
        torch.bfloat16: "output 'output_1' is torch.bfloat16, which ONNX Runtime does not return",
        3: "let forward return tensors only",
    }.items():
        with pytest.raises(InputError, match=message):
            export(Returning(more), {"x": (2, 3)}, tmp_path / "out.onnx")
    with pytest.raises(InputError, match=r"cannot export a int; give a torch.nn.Module"):
        export(5, {"x": (2, 3)}, tmp_path / "out.onnx")  # type: ignore[arg-type]


def test_wrong_opset_and_output(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="opset 11: torch exports opsets 18 to"):
        export(nn.Conv2d(3, 4, 3), {"input": IMAGES}, tmp_path / "out.onnx", opset=11)
    with pytest.raises(InputError, match="cannot write"):
        # Said before any work: the wrong input is not even looked at.
        export(nn.Conv2d(3, 4, 3), {"wrong": IMAGES}, tmp_path / "missing" / "out.onnx")


DATA_DEPENDENT = (
    r"torch cannot export `return x \* 2 if .*` of layer '1' \(DataDependent\) at input=2x3: "
    r".*data-dependent.*; use torch.where or torch.cond"
)


def test_a_module_torch_cannot_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class DataDependent(nn.Module):
        def forward(this, x: torch.Tensor) -> torch.Tensor:  # noqa: N805
            return x * 2 if x.sum() > 0 else x * 3

    net = nn.Sequential(nn.ReLU(), DataDependent())
    with pytest.raises(InputError, match=DATA_DEPENDENT) as raised:
        export(net, {"input": (2, 3)}, tmp_path / "out.onnx")
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", ""), "torch must not write to the terminal"


SOURCE = """
import torch
BUILT = torch.nn.Conv2d(3, 4, 3)
def build(): return torch.nn.Conv2d(3, 4, 3)
def fail(): raise RuntimeError("two\\nlines")
def number(): return 7
"""


def test_load_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "network_here.py").write_text(SOURCE)
    (tmp_path / "broken_here.py").write_text("import no_such_package")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert isinstance(load_source("network_here:BUILT"), nn.Conv2d)
    assert isinstance(load_source("torch.nn:Identity"), nn.Identity)
    first, again, other = (
        load_source("network_here:build", seed=seed).get_parameter("weight") for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    for source, message in {
        "network_here": "neither 'package.module:callable' nor",
        "no_such_module:build": "cannot import 'no_such_module': ModuleNotFoundError",
        "broken_here:build": "cannot import 'broken_here': .*no_such_package",
        "network_here:missing": "no 'missing' in module 'network_here'",
        "network_here:fail": "calling it failed: RuntimeError: two lines",
        "network_here:number": "gives a int; a torch.nn.Module is required",
        "missing.pt2": "cannot load 'missing.pt2' as a torch.export program",
    }.items():
        with pytest.raises(InputError, match=message) as raised:
            load_source(source)
        assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch.export.save's own
def test_exported_program(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).eval()
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(module, (torch.randn(2, 3, 8, 8),), dynamic_shapes=(batch,))
    torch.export.save(program, tmp_path / "program.pt2")
    loaded = load_source(str(tmp_path / "program.pt2"))
    validation = export(loaded, {"input": ("N", 3, 8, 8)}, tmp_path / "program.onnx")
    assert validation.shapes == ("input=2x3x8x8", "input=1x3x8x8", "input=3x3x8x8")
    with pytest.raises(InputError, match=r"Nx3xHx8 asked for, the exported program has .*x3x8x8;"):
        export(loaded, {"input": ("N", 3, "H", 8)}, tmp_path / "again.onnx")


def test_without_torch_the_message_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from advconv_onnx.errors import MissingDependencyError\n"
        "try:\n    import advconv_onnx.exporters.torch_module\n"
        "except MissingDependencyError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'advconv-onnx[torch]'" in run.stdout
