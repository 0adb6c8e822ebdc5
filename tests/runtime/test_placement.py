from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort
import pytest

from advconv_onnx.runtime import providers
from advconv_onnx.runtime.placement import count_nodes, placement

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x, bool c) => (float[2] y) {
  [sine] s = Sin(x)
  [choice] y = If(c) <
    then_branch = t () => (float[2] p) { [inner] p = Cos(s) },
    else_branch = e () => (float[2] q) { q = Neg(s) }
  >
}
"""


def test_all_nodes_are_on_the_cpu_bodies_included():
    found = placement(ir.from_onnx_text(TEXT), "cpu")
    assert found.counts == {"CPUExecutionProvider": 4}
    assert found.elsewhere == ()


def test_nodes_that_a_real_provider_leaves_to_the_cpu_are_named(monkeypatch):
    if "AzureExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has no second provider that starts anywhere")
    # This one runs nothing locally, so every node falls back.
    azure = providers.Provider("AzureExecutionProvider", "onnxruntime", {}, 0.0)
    monkeypatch.setattr(providers, "PROVIDERS", {"azure": azure})
    capi = Path(ort.__file__).parent / "capi"
    monkeypatch.setattr(
        providers, "_library", lambda name: next(capi.glob("*onnxruntime_providers_shared*"))
    )
    found = placement(ir.from_onnx_text(TEXT), "azure")
    assert found.counts == {"CPUExecutionProvider": 4}
    assert set(found.elsewhere) == {"sine", "choice", "inner", "Neg"}


def test_counts_and_names_by_provider():
    assigned = [
        ("CUDAExecutionProvider", "conv1"),
        ("CPUExecutionProvider", "nms"),
        ("CUDAExecutionProvider", "conv2"),
    ]
    found = count_nodes(assigned, "CUDAExecutionProvider")
    assert found.counts == {"CUDAExecutionProvider": 2, "CPUExecutionProvider": 1}
    assert found.elsewhere == ("nms",)
